package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// LedgerSource returns the stored ledger for an audit.
func (db *DB) LedgerSource() ledger.Source { return ledgerSource{db} }

// Audit recomputes the ledger and compares everything that it accounts for. publicKeys are the verifier keys that may
// have signed its checkpoints.
func (db *DB) Audit(ctx context.Context, publicKeys ...string) (ledger.Report, error) {
	return ledger.Audit(ctx, db.LedgerSource(), publicKeys)
}

type ledgerSource struct{ db *DB }

func (s ledgerSource) Snapshot(ctx context.Context, read func(ledger.View) error) error {
	return s.db.snapshot(ctx, func(tx pgx.Tx) error { return read(ledgerView{tx}) })
}

// ledgerView lives as long as the transaction that it reads in.
type ledgerView struct{ tx pgx.Tx }

func (v ledgerView) Checkpoints(ctx context.Context) ([]ledger.Note, error) {
	rows, err := v.tx.Query(ctx, `select size, note from ledger_checkpoints order by size`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.Note])
}

// Rows pairs each entry with its hashes: entry n's are from 2n - popcount(n) on (tlog.StoredHashIndex of level 0).
func (v ledgerView) Rows(ctx context.Context, f func(ledger.Row) error) error {
	// A cursor, since the audit asks for other rows while it reads these.
	if _, err := v.tx.Exec(ctx, `declare entries no scroll cursor for
		select e.index, e.body, e.kind, e.actor, e.repository, e.digest, e.environment, e.at, h.indexes, h.hashes from ledger_entries e
		cross join lateral (select coalesce(array_agg(index order by index), '{}') as indexes, coalesce(array_agg(hash order by index), '{}') as hashes from ledger_hashes
			where index >= 2 * e.index - bit_count(e.index::bit(64)) and index < 2 * (e.index + 1) - bit_count((e.index + 1)::bit(64))) h
		order by e.index`); err != nil {
		return err
	}
	for {
		rows, err := v.tx.Query(ctx, `fetch 500 from entries`)
		if err != nil {
			return err
		}
		page, err := pgx.CollectRows(rows, ledgerRow)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			_, err := v.tx.Exec(ctx, `close entries`)
			return err
		}
		for _, r := range page {
			if err := f(r); err != nil {
				return err
			}
		}
	}
}

func ledgerRow(row pgx.CollectableRow) (r ledger.Row, err error) {
	var (
		indexes []int64
		hashes  [][]byte
	)
	if err := row.Scan(&r.Index, &r.Body, &r.Kind, &r.Actor, &r.Repository, &r.Digest, &r.Environment, &r.At, &indexes, &hashes); err != nil {
		return r, fmt.Errorf("entry %d: %w", r.Index, err)
	}
	for i, index := range indexes {
		h := ledger.StoredHash{Index: index}
		copy(h.Hash[:], hashes[i])
		r.Hashes = append(r.Hashes, h)
	}
	return r, nil
}

func (v ledgerView) Leaf(ctx context.Context, index int64) (h ledger.Hash, ok bool, err error) {
	var b []byte
	err = v.tx.QueryRow(ctx, `select hash from ledger_hashes where index = 2 * $1::bigint - bit_count($1::bigint::bit(64))`, index).Scan(&b)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, false, nil
	}
	copy(h[:], b)
	return h, err == nil, err
}

func (v ledgerView) Beyond(ctx context.Context, index int64) (n int64, err error) {
	err = v.tx.QueryRow(ctx, `select count(*) from ledger_hashes where index >= $1`, index).Scan(&n)
	return n, err
}

func (v ledgerView) Records(ctx context.Context) (r ledger.Records, err error) {
	if r.Promotions, err = history(ctx, v.tx, artifact.Repository{}); err != nil {
		return r, err
	}
	if r.Deployments, err = deployments(ctx, v.tx, artifact.Repository{}); err != nil {
		return r, err
	}
	rows, err := v.tx.Query(ctx, `select repository, digest from recalls order by repository, digest`)
	if err != nil {
		return r, err
	}
	if r.Recalled, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ref artifact.Reference, err error) {
		err = row.Scan(&ref.Repository, &ref.Digest)
		return ref, err
	}); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, `select distinct repository, environment, root from grants order by repository, environment, root`); err != nil {
		return r, err
	}
	if r.Grants, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.GrantedRoot]); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, `select kind, name, version, hash from documents order by kind, name, version`); err != nil {
		return r, err
	}
	if r.Documents, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.AppliedDocument]); err != nil {
		return r, err
	}
	if r.Waivers, err = recordedWaivers(ctx, v.tx); err != nil {
		return r, err
	}
	r.Keys, err = signingKeys(ctx, v.tx)
	return r, err
}
