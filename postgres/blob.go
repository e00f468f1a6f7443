package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Blob returns the size of a blob that a repository has, or NotFound.
func (db *DB) Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error) {
	err = db.Pool.QueryRow(ctx, `select size from repository_blobs join blobs using (digest) where repository = $1 and digest = $2`, repository, digest).Scan(&size)
	return size, orNotFound(err, artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest))
}

// SaveBlob records a durable blob, gives it to the repository, and ends the upload, if there was one.
func (db *DB) SaveBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest, size int64, upload string) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if err := ensureRepository(ctx, tx, repository); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into blobs (digest, size) values ($1, $2) on conflict do nothing`, digest, size); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into repository_blobs (repository, digest) values ($1, $2) on conflict do nothing`, repository, digest); err != nil {
			return err
		}
		if upload == "" {
			return nil
		}
		_, err := tx.Exec(ctx, `delete from uploads where id = $1`, upload)
		return err
	})
}

// ensureRepository: a repository comes to be with its first upload.
func ensureRepository(ctx context.Context, tx pgx.Tx, repository artifact.Repository) error {
	_, err := tx.Exec(ctx, `insert into repositories (name) values ($1) on conflict do nothing`, repository)
	return err
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

// UnlinkBlob takes a blob from a repository; Unsupported while one of its manifests needs it.
func (db *DB) UnlinkBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		var needed bool
		if err := tx.QueryRow(ctx, `select exists (select from manifest_references where repository = $1 and digest = $2)`, repository, digest).Scan(&needed); err != nil {
			return err
		}
		if needed {
			return artifact.Coded(artifact.Unsupported, "UNSUPPORTED", "a manifest of %s needs blob %s; delete the manifest first", repository, digest)
		}
		tag, err := tx.Exec(ctx, `delete from repository_blobs where repository = $1 and digest = $2`, repository, digest)
		if err == nil && tag.RowsAffected() == 0 {
			err = artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest)
		}
		return err
	})
}
