package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// appendLedger records e in the transaction of the change that it is about, and returns its index. The lock is held
// to the transaction's end, so callers append last.
func appendLedger(ctx context.Context, tx pgx.Tx, e ledger.Entry) (int64, error) {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockLedger)); err != nil {
		return 0, err
	}
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	body, err := e.Canonical()
	if err != nil {
		return 0, err
	}
	var n int64
	if err := tx.QueryRow(ctx, `select coalesce(max(index) + 1, 0) from ledger_entries`).Scan(&n); err != nil {
		return 0, err
	}
	first, hashes, err := ledger.Append(n, body, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, tx, indexes) })
	if err != nil {
		return 0, fmt.Errorf("append to ledger: %w", err)
	}
	if _, err := tx.Exec(ctx, `insert into ledger_entries (index, body, kind, actor, repository, digest, environment, at) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
		n, body, e.Kind, e.Actor, e.Repository, e.Digest, e.Environment, e.At); err != nil {
		return 0, err
	}
	for i, h := range hashes {
		if _, err := tx.Exec(ctx, `insert into ledger_hashes (index, hash) values ($1, $2)`, first+int64(i), h[:]); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// Record appends an entry about nothing that is stored elsewhere.
func (db *DB) Record(ctx context.Context, e ledger.Entry) (index int64, err error) {
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		index, err = appendLedger(ctx, tx, e)
		return err
	})
	return index, err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readHashes(ctx context.Context, q querier, indexes []int64) ([]ledger.Hash, error) {
	rows, err := q.Query(ctx, `select hash from unnest($1::bigint[]) with ordinality as wanted (index, position)
		join ledger_hashes using (index) order by position`, indexes)
	if err != nil {
		return nil, err
	}
	hashes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h ledger.Hash, err error) {
		var b []byte
		if err := row.Scan(&b); err != nil {
			return h, err
		}
		copy(h[:], b)
		return h, nil
	})
	if err == nil && len(hashes) != len(indexes) {
		err = fmt.Errorf("ledger hashes are missing: %d of %d are there", len(hashes), len(indexes))
	}
	return hashes, err
}

// LedgerEntry is an entry as lists show it.
type LedgerEntry struct {
	Index int64 `json:"index"`
	ledger.Entry
}

// Entries returns up to limit entries from index from on.
func (db *DB) Entries(ctx context.Context, from int64, limit int) ([]LedgerEntry, error) {
	rows, err := db.Pool.Query(ctx, `select index, body from ledger_entries where index >= $1 order by index limit $2`, from, limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e LedgerEntry, err error) {
		var body []byte
		if err := row.Scan(&e.Index, &body); err != nil {
			return e, err
		}
		e.Entry, err = ledger.Parse(body)
		return e, err
	})
	return all, translate(err)
}

// LedgerBody returns an entry's canonical bytes.
func (db *DB) LedgerBody(ctx context.Context, index int64) ([]byte, error) {
	var body []byte
	err := db.Pool.QueryRow(ctx, `select body from ledger_entries where index = $1`, index).Scan(&body)
	return body, orNotFound(err, artifact.Errorf(artifact.NotFound, "the ledger has no entry %d", index))
}

// Checkpoint returns a signed checkpoint of all entries there are. Before it signs a new one it checks that the tree
// extends the one signed last: a ledger that was rewritten gets no further signature.
func (db *DB) Checkpoint(ctx context.Context, signer *ledger.Signer) (signed string, err error) {
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		var size int64
		if err := tx.QueryRow(ctx, `select coalesce(max(index) + 1, 0) from ledger_entries`).Scan(&size); err != nil {
			return err
		}
		var lastSize int64
		var last string
		err := tx.QueryRow(ctx, `select size, note from ledger_checkpoints order by size desc limit 1`).Scan(&lastSize, &last)
		if err == nil && lastSize == size {
			signed = last
			return nil
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		read := func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, tx, indexes) }
		root, err := ledger.Root(size, read)
		if err != nil {
			return err
		}
		if last != "" {
			if err := extends(signer, last, size, root, read); err != nil {
				return err
			}
		}
		if signed, err = signer.Sign(size, root); err != nil {
			return err
		}
		// Two replicas may sign the same size at once: one row stays.
		_, err = tx.Exec(ctx, `insert into ledger_checkpoints (size, note) values ($1, $2) on conflict do nothing`, size, signed)
		return err
	})
	return signed, err
}

func extends(signer *ledger.Signer, last string, size int64, root ledger.Hash, read func([]int64) ([]ledger.Hash, error)) error {
	older, err := ledger.OpenCheckpoint(last, signer.PublicKey())
	if err != nil {
		return fmt.Errorf("the last checkpoint: %w", err)
	}
	if older.Size == 0 {
		return nil
	}
	proof, err := ledger.ProveConsistency(size, older.Size, read)
	if err != nil {
		return err
	}
	if err := ledger.CheckConsistency(ledger.Checkpoint{Size: size, Root: root}, older, proof); err != nil {
		return fmt.Errorf("the ledger does not extend its checkpoint of %d entries, so it is not signed; run `waybill audit`: %w", older.Size, err)
	}
	return nil
}

// Prove returns the inclusion proof of an entry in the tree of the given size.
func (db *DB) Prove(ctx context.Context, size, index int64) ([]ledger.Hash, error) {
	if index < 0 || index >= size {
		return nil, artifact.Errorf(artifact.NotFound, "entry %d is not among the first %d", index, size)
	}
	return ledger.Prove(size, index, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, db.Pool, indexes) })
}

// LedgerSource returns the stored ledger for an audit.
func (db *DB) LedgerSource() ledger.Source { return ledgerSource{db} }

type ledgerSource struct{ db *DB }

func (s ledgerSource) Rows(ctx context.Context, f func(ledger.Row) error) error {
	rows, err := s.db.Pool.Query(ctx, `select index, body, kind, actor, coalesce(digest, '') from ledger_entries order by index`)
	if err != nil {
		return err
	}
	var r ledger.Row
	_, err = pgx.ForEachRow(rows, []any{&r.Index, &r.Body, &r.Kind, &r.Actor, &r.Digest}, func() error { return f(r) })
	return err
}

func (s ledgerSource) Hashes(ctx context.Context, f func(int64, ledger.Hash) error) error {
	rows, err := s.db.Pool.Query(ctx, `select index, hash from ledger_hashes order by index`)
	if err != nil {
		return err
	}
	var (
		index int64
		b     []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&index, &b}, func() error {
		var h ledger.Hash
		copy(h[:], b)
		return f(index, h)
	})
	return err
}

func (s ledgerSource) Checkpoints(ctx context.Context) ([]string, error) {
	rows, err := s.db.Pool.Query(ctx, `select note from ledger_checkpoints order by size`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
