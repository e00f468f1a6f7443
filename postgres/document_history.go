package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// DocumentVersions returns the versions of a document, newest first, at most n of those before one (0: any).
func (db *DB) DocumentVersions(ctx context.Context, kind, name string, before, n int) ([]DocumentRow, error) {
	rows, err := db.Pool.Query(ctx, `select kind, name, version, hash, body, applied_by, applied_at from documents
		where kind = $1 and name = $2 and ($3 <= 0 or version < $3) order by version desc limit $4`, kind, name, before, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DocumentRow])
	return all, translate(err)
}

// DocumentVersion returns one version of a document, or NotFound.
func (db *DB) DocumentVersion(ctx context.Context, kind, name string, version int) (DocumentRow, error) {
	rows, err := db.Pool.Query(ctx, `select kind, name, version, hash, body, applied_by, applied_at from documents where kind = $1 and name = $2 and version = $3`, kind, name, version)
	if err != nil {
		return DocumentRow{}, translate(err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[DocumentRow])
	return row, orNotFound(err, artifact.Errorf(artifact.NotFound, "%s %s has no version %d; `waybill policy history %s` lists those that it has", kind, name, version, name))
}
