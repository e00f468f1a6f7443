package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// AdvisoryDatabases returns the newest that were in force, the newest first, at most n. One that was put in force again is
// where it was last.
func (db *DB) AdvisoryDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error) {
	rows, err := db.Pool.Query(ctx, `select digest, schema, updated_at, imported_at, imported_by from advisory_databases order by imported_at desc, id desc limit $1`, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.AdvisoryDatabase])
	return all, translate(err)
}

// JavaDatabases is AdvisoryDatabases of Java databases.
func (db *DB) JavaDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error) {
	rows, err := db.Pool.Query(ctx, `select digest, schema, updated_at, imported_at, imported_by from java_databases order by imported_at desc, id desc limit $1`, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.AdvisoryDatabase])
	return all, translate(err)
}

// ScansMatched counts the images that some repository holds and that were matched with a database.
func (db *DB) ScansMatched(ctx context.Context, database artifact.Digest) (n int64, err error) {
	err = db.Pool.QueryRow(ctx, `select count(*) from scans s where state = 'scanned' and database_digest = $1 and exists (select from manifests m where m.digest = s.digest)`, database.String()).Scan(&n)
	return n, translate(err)
}
