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
	var n int64
	taking := &pgx.Batch{}
	taking.Queue(`select pg_advisory_xact_lock($1)`, int64(lockLedger))
	taking.Queue(`select coalesce(max(index) + 1, 0) from ledger_entries`).QueryRow(func(row pgx.Row) error { return row.Scan(&n) }) // sees what the lock waited for
	if err := tx.SendBatch(ctx, taking).Close(); err != nil {
		return 0, err
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At = ledger.Instant(e.At)
	body, err := e.Leaf()
	if err != nil {
		return 0, err
	}
	first, hashes, err := ledger.Append(n, body, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, tx, indexes) })
	if err != nil {
		return 0, fmt.Errorf("append to ledger: %w", err)
	}
	batch := &pgx.Batch{}
	batch.Queue(`insert into ledger_entries (index, body, kind, actor, repository, digest, environment, at) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
		n, body, e.Kind, e.Actor, e.Repository, e.Digest, e.Environment, e.At)
	for i, h := range hashes {
		batch.Queue(`insert into ledger_hashes (index, hash) values ($1, $2)`, first+int64(i), h[:])
	}
	return n, tx.SendBatch(ctx, batch).Close()
}

// CreateLedger makes the first entry of an empty ledger, which ties it to the key that signs its checkpoints. On any
// other ledger it does nothing.
func (db *DB) CreateLedger(ctx context.Context, publicKey string) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockLedger)); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, `select exists (select from ledger_entries)`).Scan(&exists); err != nil || exists {
			return err
		}
		_, err := appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindCreated, Actor: artifact.System.Name, Subject: publicKey})
		return err
	})
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
// extends the one signed last: a ledger that was rewritten gets no further signature. The note is stored before it is
// returned, so that no checkpoint is at large that an audit does not know.
func (db *DB) Checkpoint(ctx context.Context, signer *ledger.Signer) (signed string, err error) {
	var size int64
	err = db.snapshot(ctx, func(tx pgx.Tx) error {
		size, signed, err = checkpoint(ctx, tx, signer)
		return err
	})
	if err != nil {
		return "", err
	}
	// Two replicas may sign the same size at once: one row stays, and Ed25519 made them equal.
	_, err = db.Pool.Exec(ctx, `insert into ledger_checkpoints (size, note) values ($1, $2) on conflict do nothing`, size, signed)
	return signed, translate(err)
}

// snapshot runs f on one consistent view.
func (db *DB) snapshot(ctx context.Context, f func(tx pgx.Tx) error) error {
	return translate(pgx.BeginTxFunc(ctx, db.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, f))
}

func checkpoint(ctx context.Context, tx pgx.Tx, signer *ledger.Signer) (size int64, signed string, err error) {
	if err := tx.QueryRow(ctx, `select coalesce(max(index) + 1, 0) from ledger_entries`).Scan(&size); err != nil {
		return 0, "", err
	}
	read := func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, tx, indexes) }
	root, err := ledger.Root(size, read)
	if err != nil {
		return 0, "", err
	}
	var last string
	err = tx.QueryRow(ctx, `select note from ledger_checkpoints order by size desc limit 1`).Scan(&last)
	if errors.Is(err, pgx.ErrNoRows) {
		signed, err = signer.Sign(size, root)
		return size, signed, err
	}
	if err != nil {
		return 0, "", err
	}
	older, err := ledger.OpenCheckpoint(last, signer.PublicKey())
	if err != nil {
		return 0, "", fmt.Errorf("the ledger's last checkpoint, which the next must extend: %w", err)
	}
	if err := extends(older, size, root, read); err != nil {
		return 0, "", fmt.Errorf("the ledger does not extend its checkpoint of %s, so it is not signed; run `waybill audit`: %w", artifact.Count(older.Size, "entry"), err)
	}
	if older.Size == size {
		return size, last, nil
	}
	signed, err = signer.Sign(size, root)
	return size, signed, err
}

func extends(older ledger.Checkpoint, size int64, root ledger.Hash, read func([]int64) ([]ledger.Hash, error)) error {
	switch {
	case older.Size == 0:
		return nil
	case older.Size > size:
		return fmt.Errorf("it has %d entries", size)
	case older.Size == size && older.Root != root:
		return fmt.Errorf("its root is %s, and not %s", root, older.Root)
	case older.Size == size:
		return nil
	}
	proof, err := ledger.ProveConsistency(size, older.Size, read)
	if err != nil {
		return err
	}
	return ledger.CheckConsistency(ledger.Checkpoint{Size: size, Root: root}, older, proof)
}

// Prove returns the inclusion proof of an entry in the tree of the given size.
func (db *DB) Prove(ctx context.Context, size, index int64) ([]ledger.Hash, error) {
	if index < 0 || index >= size {
		return nil, artifact.Errorf(artifact.NotFound, "entry %d is not among the first %d", index, size)
	}
	return ledger.Prove(size, index, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, db.Pool, indexes) })
}

// ProveConsistency returns the proof that the tree of newer entries extends that of older.
func (db *DB) ProveConsistency(ctx context.Context, newer, older int64) ([]ledger.Hash, error) {
	size, err := db.ledgerSize(ctx)
	if err != nil {
		return nil, err
	}
	if older < 1 || older > newer || newer > size {
		return nil, artifact.Errorf(artifact.Invalid, "there is no proof from %d entries to %d; want 1 or more, then as many or more, and at most the %d there are", older, newer, size)
	}
	return ledger.ProveConsistency(newer, older, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, db.Pool, indexes) })
}

// LedgerTile returns the bytes of a tile, which never change; NotFound until the ledger has all of it.
func (db *DB) LedgerTile(ctx context.Context, t ledger.Tile) ([]byte, error) {
	size, err := db.ledgerSize(ctx)
	if err != nil {
		return nil, err
	}
	if t.End() > size {
		return nil, artifact.Errorf(artifact.NotFound, "the ledger of %d entries has no %s", size, t.Path())
	}
	if t.Level >= 0 {
		return ledger.ReadTile(t, func(indexes []int64) ([]ledger.Hash, error) { return readHashes(ctx, db.Pool, indexes) })
	}
	rows, err := db.Pool.Query(ctx, `select body from ledger_entries where index >= $1 and index < $2 order by index`, t.First(), t.End())
	if err != nil {
		return nil, translate(err)
	}
	bodies, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, translate(err)
	}
	if len(bodies) != t.Width {
		return nil, fmt.Errorf("%s: the ledger has %d of its %d entries", t.Path(), len(bodies), t.Width)
	}
	return ledger.Bundle(bodies)
}

func (db *DB) ledgerSize(ctx context.Context) (size int64, err error) {
	err = db.Pool.QueryRow(ctx, `select coalesce(max(index) + 1, 0) from ledger_entries`).Scan(&size)
	return size, translate(err)
}

// EntriesAbout returns the indexes, in order, of the entries about a digest in a repository, and of those about the
// digest alone; at most limit of them.
func (db *DB) EntriesAbout(ctx context.Context, repository artifact.Repository, d artifact.Digest, limit int) ([]int64, error) {
	return db.indexes(ctx, `select index from ledger_entries where digest = $1 and (repository is null or repository = $2) order by index limit $3`, d, repository, limit)
}

// EntriesWithin returns the indexes, in order, of the entries from a time on and before another; at most limit of them.
func (db *DB) EntriesWithin(ctx context.Context, from, to time.Time, limit int) ([]int64, error) {
	// By time first: in the order of indexes the database would read all that came before.
	return db.indexes(ctx, `with period as materialized (select index from ledger_entries where at >= $1 and at < $2 limit $3) select index from period order by index`, from, to, limit)
}

func (db *DB) indexes(ctx context.Context, sql string, args ...any) ([]int64, error) {
	rows, err := db.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return all, translate(err)
}
