package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// CreateUpload records a new upload.
func (db *DB) CreateUpload(ctx context.Context, u artifact.Upload) error {
	_, err := db.loose.Exec(ctx, `with repository as (insert into repositories (name) values ($2) on conflict do nothing)
		insert into uploads (id, repository, created_by) values ($1, $2, $3)`, u.ID, u.Repository, u.CreatedBy)
	return translate(err)
}

// Upload returns an upload, or NotFound. The id is a client's: one that is no UUID, as CreateUpload's callers write them, is
// unknown.
func (db *DB) Upload(ctx context.Context, repository artifact.Repository, id string) (artifact.Upload, error) {
	u := artifact.Upload{ID: id, Repository: repository}
	unknown := artifact.Coded(artifact.NotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload in %s", repository)
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return u, unknown
	}
	err := db.Pool.QueryRow(ctx, `select offset_, hash_state, created_by from uploads where id = $1 and repository = $2`, id, repository).
		Scan(&u.Offset, &u.State, &u.CreatedBy)
	return u, orNotFound(err, unknown)
}

// AdvanceUpload moves an upload on from an offset; Conflict when another request moved it meanwhile.
func (db *DB) AdvanceUpload(ctx context.Context, id string, from, to int64, state []byte) error {
	tag, err := db.loose.Exec(ctx, `update uploads set offset_ = $3, hash_state = $4, updated_at = now() where id = $1 and offset_ = $2`, id, from, to, state)
	if err == nil && tag.RowsAffected() == 0 {
		return artifact.Coded(artifact.Conflict, "BLOB_UPLOAD_INVALID", "another request moved this upload; ask for its status and go on from there")
	}
	return translate(err)
}

// DeleteUpload forgets an upload.
func (db *DB) DeleteUpload(ctx context.Context, id string) error {
	_, err := db.loose.Exec(ctx, `delete from uploads where id = $1`, id)
	return translate(err)
}

// ExpiredUploads returns some of the uploads that nobody has continued for that long, the oldest first.
func (db *DB) ExpiredUploads(ctx context.Context, age time.Duration) ([]string, error) {
	rows, err := db.Pool.Query(ctx, `select id::text from uploads where updated_at < now() - $1::interval order by updated_at limit 10000`, age)
	if err != nil {
		return nil, translate(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, translate(err)
}

// ExpireUpload forgets an upload, unless somebody has continued it by now.
func (db *DB) ExpireUpload(ctx context.Context, id string, age time.Duration) (expired bool, err error) {
	tag, err := db.loose.Exec(ctx, `delete from uploads where id = $1 and updated_at < now() - $2::interval`, id, age)
	return tag.RowsAffected() == 1, translate(err)
}

// KnownUploads returns which of the ids are uploads. An id may be any text.
func (db *DB) KnownUploads(ctx context.Context, ids []string) ([]string, error) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, err := uuid.Parse(id); return err != nil })
	rows, err := db.Pool.Query(ctx, `select id::text from uploads where id = any($1::uuid[])`, ids)
	if err != nil {
		return nil, translate(err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return known, translate(err)
}
