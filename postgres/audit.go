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
	rows, err := v.tx.Query(ctx, `select repository, digest, actor, reason, advisory, at from recalls order by repository, digest`)
	if err != nil {
		return r, err
	}
	if r.Recalled, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (one ledger.Recalled, err error) {
		err = row.Scan(&one.Repository, &one.Digest, &one.Actor, &one.Reason, &one.Advisory, &one.At)
		return one, err
	}); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, `select distinct repository, environment, root from grants order by repository, environment, root`); err != nil {
		return r, err
	}
	if r.Grants, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.GrantedRoot]); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, strays); err != nil {
		return r, err
	}
	if r.Strays, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s ledger.Stray, err error) {
		err = row.Scan(&s.Repository, &s.Environment, &s.Root, &s.Digest)
		return s, err
	}); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, `select kind, name, version, hash, 'sha256:' || encode(sha256(convert_to(body, 'UTF8')), 'hex'), applied_by from documents order by kind, name, version`); err != nil {
		return r, err
	}
	if r.Documents, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.AppliedDocument]); err != nil {
		return r, err
	}
	if rows, err = v.tx.Query(ctx, `select repository, digest, key_id, manifest from signatures where predicate = '' and signed_at is not null order by repository, digest`); err != nil {
		return r, err
	}
	if r.Signatures, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.Signature]); err != nil {
		return r, err
	}
	// By the columns of entries, which are compared with their bodies.
	if rows, err = v.tx.Query(ctx, `select m.repository, m.digest, m.pushed_by from manifests m where (m.is_image or m.is_index) and not exists
		(select from ledger_entries l where l.digest = m.digest and l.repository = m.repository and l.kind = 'push.accepted' and l.actor = m.pushed_by) order by m.repository, m.digest`); err != nil {
		return r, err
	}
	if r.Unpushed, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.Unpushed]); err != nil {
		return r, err
	}
	for _, read := range []struct {
		into *[]ledger.Recorded
		all  func(context.Context, querier) ([]ledger.Recorded, error)
	}{{&r.Approvals, recordedApprovals}, {&r.Releases, recordedReleases}, {&r.Tokens, recordedTokens}} {
		if *read.into, err = read.all(ctx, v.tx); err != nil {
			return r, err
		}
	}
	if r.Waivers, err = recordedWaivers(ctx, v.tx); err != nil {
		return r, err
	}
	r.Keys, err = signingKeys(ctx, v.tx)
	return r, err
}

// strays are grants of images, and of what is theirs, that the root which they are said to come with does not hold: an image that is not
// below it, and a config or layer of an image that nothing granted with it has.
const strays = `
with recursive tree (repository, root, digest) as (
    select distinct repository, root, root from grants
    union
    select t.repository, t.root, r.digest from tree t join manifest_references r on r.repository = t.repository and r.manifest = t.digest and r.kind = 'manifest'
    where not exists (select from recalls where recalls.repository = t.repository and recalls.digest = r.digest)
), held (repository, root, digest) as (
    select t.repository, t.root, r.digest from tree t join manifest_references r on r.repository = t.repository and r.manifest = t.digest and r.kind <> 'manifest'
    union
    select g.repository, g.root, r.digest from grants g join manifests m on m.repository = g.repository and m.digest = g.digest and not m.is_image
        join manifest_references r on r.repository = m.repository and r.manifest = m.digest and r.kind <> 'manifest'
)
select g.repository, g.environment, g.root, g.digest from grants g join manifests m on m.repository = g.repository and m.digest = g.digest and m.is_image
    where not exists (select from tree t where t.repository = g.repository and t.root = g.root and t.digest = g.digest)
union all
select g.repository, g.environment, g.root, g.digest from grants g
    where not exists (select from held h where h.repository = g.repository and h.root = g.root and h.digest = g.digest)
    and not exists (select from manifests m where m.repository = g.repository and m.digest = g.digest)
    and exists (select from manifest_references r join manifests m on m.repository = r.repository and m.digest = r.manifest and m.is_image
        where r.repository = g.repository and r.digest = g.digest)
order by 1, 2, 3, 4`
