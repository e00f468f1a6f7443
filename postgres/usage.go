package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/storage"
)

// CountUsage counts what every repository has, and what there is of all blobs, each once, but for what is in quarantine. While another replica is at it,
// it does nothing. It reads all there is and locks no row of what pushes write.
func (db *DB) CountUsage(ctx context.Context) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		var got bool
		if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock(hashtextextended('only/a count of what is stored', 0))`).Scan(&got); err != nil || !got {
			return err
		}
		// One statement, so that the links, which are the most, are read and counted once.
		if _, err := tx.Exec(ctx, `with links as materialized (select digest, count(*) as n from repository_blobs group by digest),
			counted as materialized (select digest, size, coalesce(n, 0) as n from blobs left join links using (digest) where quarantined_at is null),
			gone as (delete from repository_usage u where not exists (select from repository_blobs l where l.repository = u.repository)),
			each as (insert into repository_usage as u (repository, blobs, bytes, own_bytes)
				select repository, count(*), sum(size), coalesce(sum(size) filter (where n = 1), 0) from repository_blobs join counted using (digest) group by repository
				on conflict (repository) do update set blobs = excluded.blobs, bytes = excluded.bytes, own_bytes = excluded.own_bytes
				where (u.blobs, u.bytes, u.own_bytes) <> (excluded.blobs, excluded.bytes, excluded.own_bytes))
			insert into store_usage (counted_at, took, blobs, bytes, shared_bytes, loose_bytes, upload_bytes)
			select now(), '0', count(*), coalesce(sum(size), 0), coalesce(sum(size) filter (where n > 1), 0), coalesce(sum(size) filter (where n = 0), 0), (select coalesce(sum(offset_), 0) from uploads) from counted
			on conflict (one) do update set counted_at = excluded.counted_at, blobs = excluded.blobs, bytes = excluded.bytes,
				shared_bytes = excluded.shared_bytes, loose_bytes = excluded.loose_bytes, upload_bytes = excluded.upload_bytes`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `update store_usage set took = clock_timestamp() - now()`)
		return err
	})
}

// CountedUsage returns what CountUsage wrote last, the largest repository first, and how long ago that is; the zero Account
// when it never did.
func (db *DB) CountedUsage(ctx context.Context) (a storage.Account, ago time.Duration, err error) {
	err = db.snapshot(ctx, func(tx pgx.Tx) error {
		a = storage.Account{}
		err := tx.QueryRow(ctx, `select counted_at, took, now() - counted_at, blobs, bytes, shared_bytes, loose_bytes, upload_bytes from store_usage`).
			Scan(&a.CountedAt, &a.Took, &ago, &a.Blobs, &a.Bytes, &a.Shared, &a.Loose, &a.Uploads)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select repository, blobs, bytes, own_bytes from repository_usage order by bytes desc, repository`)
		if err != nil {
			return err
		}
		a.Repositories, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (h storage.Holding, err error) {
			err = row.Scan(&h.Repository, &h.Blobs, &h.Bytes, &h.Own)
			return h, err
		})
		return err
	})
	return a, ago, err
}

// SaveRun keeps a run, and forgets the oldest of its kind when there are more than keep.
func (db *DB) SaveRun(ctx context.Context, r storage.Run, keep int) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into upkeep_runs (kind, actor, began_at, ended_at, outcome, problem) values ($1, $2, $3, $4, $5, $6)`,
			r.Kind, r.Actor, r.BeganAt, r.EndedAt, r.Outcome, r.Problem); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `delete from upkeep_runs where kind = $1 and id <= (select id from upkeep_runs where kind = $1 order by id desc limit 1 offset $2)`, r.Kind, keep)
		return err
	})
}

// Runs returns the newest runs of a kind, the newest first, at most n.
func (db *DB) Runs(ctx context.Context, kind string, n int) ([]storage.Run, error) {
	rows, err := db.Pool.Query(ctx, `select id, kind, actor, began_at, ended_at, outcome, problem from upkeep_runs where kind = $1 order by id desc limit $2`, kind, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storage.Run])
	return all, translate(err)
}
