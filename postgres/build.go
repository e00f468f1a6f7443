package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// BuildRow is a build that is done.
type BuildRow struct {
	Digest    artifact.Digest
	StartedBy string
	StartedAt time.Time
}

// LockBuild waits until no other replica builds this key, and keeps it so until release is called. It holds a connection
// of its own for that long.
func (db *DB) LockBuild(ctx context.Context, repository artifact.Repository, key artifact.Digest) (release func(), err error) {
	return hold(ctx, db.holds.builds, "build/"+repository.String()+"/"+key.String())
}

// StartBuild records that a build runs; one that failed or was killed is replaced.
func (db *DB) StartBuild(ctx context.Context, repository artifact.Repository, key artifact.Digest, startedBy string) error {
	_, err := db.Pool.Exec(ctx, `insert into builds (key, repository, state, started_by) values ($1, $2, 'running', $3)
		on conflict (repository, key) do update set state = 'running', failure = '', started_by = excluded.started_by, started_at = now(), ended_at = null, digest = null, provenance = null`,
		key, repository, startedBy)
	return translate(err)
}

// IntendBuild stores what a build is about to publish.
func (db *DB) IntendBuild(ctx context.Context, repository artifact.Repository, key, digest artifact.Digest, provenance json.RawMessage) error {
	_, err := db.Pool.Exec(ctx, `update builds set digest = $3, provenance = $4 where repository = $1 and key = $2`, repository, key, digest, provenance)
	return translate(err)
}

// IntendedBuild returns what a build that has not ended was about to publish; ok is false when it did not come so far.
func (db *DB) IntendedBuild(ctx context.Context, repository artifact.Repository, key artifact.Digest) (b BuildRow, provenance json.RawMessage, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select digest, started_by, started_at, provenance from builds where repository = $1 and key = $2 and state = 'running' and digest is not null`, repository, key).
		Scan(&b.Digest, &b.StartedBy, &b.StartedAt, &provenance)
	return b, provenance, err == nil, ignoreNoRows(err)
}

// EndBuild stores a build's digest and provenance, or why it failed. Of what was built OnBuilt is told.
func (db *DB) EndBuild(ctx context.Context, repository artifact.Repository, key, digest artifact.Digest, provenance json.RawMessage, failure string) error {
	state := "done"
	if failure != "" {
		state = "failed"
	}
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update builds set state = $3, failure = $4, digest = $5, provenance = $6, ended_at = now() where repository = $1 and key = $2`,
			repository, key, state, failure, digest, provenance); err != nil {
			return err
		}
		if failure != "" || db.OnBuilt == nil {
			return nil
		}
		return db.OnBuilt(ctx, tx, repository, digest)
	})
}

// Build returns a build that is done; ok is false when there is none.
func (db *DB) Build(ctx context.Context, repository artifact.Repository, key artifact.Digest) (b BuildRow, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select digest, started_by, started_at from builds where repository = $1 and key = $2 and state = 'done'`, repository, key).
		Scan(&b.Digest, &b.StartedBy, &b.StartedAt)
	return b, err == nil, ignoreNoRows(err)
}
