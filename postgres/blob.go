package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Blob returns the size of a blob that a repository has, or NotFound.
func (db *DB) Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error) {
	return recallOr(db.hot, repository, func(s *shelf) map[artifact.Digest]int64 { return s.blobs }, digest, nothing,
		func() (int64, error) { return db.readBlob(ctx, repository, digest) })
}

func (db *DB) readBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error) {
	err = db.Pool.QueryRow(ctx, `select size from repository_blobs join blobs using (digest) where repository = $1 and digest = $2`, repository, digest).Scan(&size)
	return size, orNotFound(err, artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest))
}

// SaveBlob records a durable blob, gives it to the repository, and ends the upload, if there was one.
func (db *DB) SaveBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest, size int64, upload string) error {
	// The foreign keys are checked when the statement ends.
	_, err := db.pool(ctx).Exec(ctx, `with repository as (insert into repositories (name) values ($1) on conflict do nothing),
		blob as (insert into blobs (digest, size) values ($2, $3) on conflict do nothing),
		upload as (delete from uploads where id = $4)
		insert into repository_blobs (repository, digest) values ($1, $2) on conflict do nothing`, repository, digest, size, orNil(upload))
	return translate(err)
}

// BlobRepositories returns which repositories have a blob.
func (db *DB) BlobRepositories(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error) {
	rows, err := db.Pool.Query(ctx, `select repository from repository_blobs where digest = $1 order by repository limit 100`, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Repository])
	return all, translate(err)
}

// Named reports whether a manifest of the repository names a blob.
func (db *DB) Named(ctx context.Context, repository artifact.Repository, blob artifact.Digest) (named bool, err error) {
	err = db.Pool.QueryRow(ctx, `select exists (select from manifest_references where repository = $1 and digest = $2 and kind <> 'manifest')`, repository, blob).Scan(&named)
	return named, translate(err)
}

// UnlinkBlob takes a blob from a repository; Unsupported while one of its manifests needs it.
func (db *DB) UnlinkBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	defer db.hot.forget(repository)
	return db.Transact(ctx, func(tx pgx.Tx) error {
		// A push that needs the blob holds this row, or comes after and finds it gone.
		tag, err := tx.Exec(ctx, `select from repository_blobs where repository = $1 and digest = $2 for update`, repository, digest)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest)
		}
		var needed bool
		if err := tx.QueryRow(ctx, `select exists (select from manifest_references where repository = $1 and digest = $2)`, repository, digest).Scan(&needed); err != nil {
			return err
		}
		if needed {
			return artifact.Coded(artifact.Unsupported, "UNSUPPORTED", "a manifest of %s needs blob %s; delete the manifest first", repository, digest)
		}
		_, err = tx.Exec(ctx, `delete from repository_blobs where repository = $1 and digest = $2`, repository, digest)
		return err
	})
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
