package postgres

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Blob returns the size of a blob that a repository has, or NotFound.
func (db *DB) Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error) {
	b, err := db.linked(ctx, repository, digest)
	return b.size, err
}

func (db *DB) linked(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (linked, error) {
	return recallOr(db.hot, repository, func(s *shelf) map[artifact.Digest]linked { return s.blobs }, digest, nothing,
		func() (linked, error) { return db.readBlob(ctx, repository, digest) })
}

func (db *DB) readBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (b linked, err error) {
	var (
		damaged bool
		age     float64 // seconds, by the database's clock
	)
	err = db.Pool.QueryRow(ctx, `select size, quarantined_at is not null, extract(epoch from now() - linked_at)::float8
		from repository_blobs join blobs using (digest) where repository = $1 and digest = $2`, repository, digest).Scan(&b.size, &damaged, &age)
	if err != nil {
		return b, orNotFound(err, artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest))
	}
	if damaged {
		return b, artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "blob %s of %s was found damaged and is in quarantine; push it again to repair it", digest, repository)
	}
	b.at = time.Now().Add(-time.Duration(age * float64(time.Second)))
	return b, nil
}

// hasBlob reports whether a blob of that size is remembered.
func (db *DB) hasBlob(repository artifact.Repository, d artifact.Descriptor) bool {
	b, ok := remembered(db.hot, repository, func(s *shelf) map[artifact.Digest]linked { return s.blobs }, d.Digest)
	return ok && b.size == d.Size && db.hot.fresh()
}

// keepFor is how long who was told that a blob is here may take it for linked just now.
const keepFor = time.Minute

// KeepBlob is Blob for one who may be about to push what needs the blob: its grace period begins anew, give or take
// keepFor.
func (db *DB) KeepBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error) {
	b, err := db.linked(ctx, repository, digest)
	if err != nil || time.Since(b.at) < keepFor {
		return b.size, err
	}
	tag, err := db.Pool.Exec(ctx, `update repository_blobs set linked_at = now() where repository = $1 and digest = $2`, repository, digest)
	if err == nil && tag.RowsAffected() == 0 {
		err = artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s", repository, digest)
	}
	db.hot.forgetBlob(repository, digest)
	return b.size, translate(err)
}

// SaveBlob publishes a durable blob, records it, gives it to the repository, and ends the upload, if there was one.
// Collectors stay away from the digest from before the bytes are published until the row is committed, so that there is
// never a row without bytes; a crash in between leaves bytes without a row.
func (db *DB) SaveBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest, size int64, upload string, publish func() error) error {
	begun := time.Now()
	_, err := recallAfter(db.hot, repository, func(s *shelf) map[artifact.Digest]linked { return s.blobs }, digest, nothing, func() (linked, error) {
		return linked{size: size, at: begun}, db.saveBlob(ctx, repository, digest, size, upload, publish)
	})
	return err
}

func (db *DB) saveBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest, size int64, upload string, publish func() error) error {
	return db.transact(ctx, fmt.Sprintf("begin; select pg_advisory_xact_lock_shared(%d, %d)", lockBlob, lockOf(digest)), func(tx pgx.Tx) error {
		if err := publish(); err != nil {
			return err
		}
		// The foreign keys are checked when the statement ends.
		_, err := tx.Exec(ctx, `with repository as (insert into repositories (name) values ($1) on conflict do nothing),
			blob as (insert into blobs (digest, size) values ($2, $3) on conflict (digest) do update set size = excluded.size, quarantined_at = null
				where blobs.size <> excluded.size or blobs.quarantined_at is not null),
			upload as (delete from uploads where id = $4)
			insert into repository_blobs (repository, digest) values ($1, $2) on conflict (repository, digest) do update set linked_at = now()`,
			repository, digest, size, orNil(upload))
		return err
	})
}

// lockOf is the second half of a digest's advisory lock. That some digests share one only makes them wait.
func lockOf(digest artifact.Digest) int32 {
	b, _ := hex.DecodeString(digest.Hex()[:8]) // a digest is hexadecimal
	return int32(binary.BigEndian.Uint32(b))
}

// LinkBlob gives a repository a blob that is here; false when it is not, or not whole. The blob's row is locked, so that
// it is not collected meanwhile.
func (db *DB) LinkBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (bool, error) {
	tag, err := db.pool(ctx).Exec(ctx, `with blob as (select digest from blobs where digest = $2 and quarantined_at is null for key share),
		repository as (insert into repositories (name) select $1 from blob on conflict do nothing)
		insert into repository_blobs (repository, digest) select $1, digest from blob on conflict (repository, digest) do update set linked_at = now()`, repository, digest)
	return tag.RowsAffected() == 1, translate(err)
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
