package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// QueueReplication records, in the promotion's own transaction, that a digest is to be copied. A referrer that arrives
// later has it copied again, and says no version.
func (db *DB) QueueReplication(ctx context.Context, tx pgx.Tx, r artifact.Replication) error {
	_, err := tx.Exec(ctx, `insert into replications (target, repository, digest, environment, version, state) values ($1, $2, $3, $4, $5, 'waiting')
		on conflict (target, repository, digest, environment) do update set state = 'waiting', problem = '', attempts = 0, since = now(),
		version = case when excluded.version = '' then replications.version else excluded.version end`,
		r.Target, r.Repository, r.Digest, r.Environment, r.Version)
	return err
}

// SaveReplication records what an attempt to copy came to.
func (db *DB) SaveReplication(ctx context.Context, r artifact.Replication) error {
	_, err := db.Pool.Exec(ctx, `update replications set state = $5, problem = $6, attempts = $7, since = now()
		where target = $1 and repository = $2 and digest = $3 and environment = $4`,
		r.Target, r.Repository, r.Digest, r.Environment, string(r.State), r.Problem, r.Attempts)
	return translate(err)
}

// Replications returns the newest state of each copy of a repository (the zero one: of all), newest first, at most n of those
// behind one (the zero one: from the newest on).
func (db *DB) Replications(ctx context.Context, repository artifact.Repository, after artifact.Replication, n int) ([]artifact.Replication, error) {
	rows, err := db.Pool.Query(ctx, `select target, repository, digest, environment, version, state, problem, attempts, since from replications
		where since <= $2 and (since < $2 or (target, repository, digest, environment) > ($3, $4, $5, $6)) and ($1::text is null or repository = $1)
		order by since desc, target, repository, digest, environment limit $7`,
		repository, before(after.Since), after.Target, after.Repository.String(), after.Digest.String(), after.Environment.String(), n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Replication])
	return all, translate(err)
}

// Closure returns the manifests that belong to a promoted digest, as its grants have it: itself and, of an index, its
// children, and what refers to any of them.
func (db *DB) Closure(ctx context.Context, repository artifact.Repository, root artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, closure+` select distinct digest from tree order by digest`, repository, root)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}

// RecalledIn says of a digest, and of each manifest of an index, who recalled it and why.
func (db *DB) RecalledIn(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]string, error) {
	why, err := recalledIn(ctx, db.Pool, repository, digest)
	return why, translate(err)
}
