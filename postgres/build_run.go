package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"waybill/artifact"
)

// BuildRun is a request for a build as it is stored.
type BuildRun struct {
	artifact.Build
	Request   json.RawMessage
	Principal artifact.Principal
	Context   string // digest of the stored context; empty: it is built where it was asked for
	Owner     string // the process that builds it
}

// runColumns are those of runFrom.
const runColumns = ` id, repository, request->'Tags', key, state, principal->>'name', asked_at, coalesce(started_at, 'epoch'), coalesce(ended_at, 'epoch'), attempts, coalesce(digest, ''), built, failure, cancelled_by,
	left(concat_ws('@', nullif(request->'Source'->>'uri', ''), nullif(request->'Source'->>'commit', '')), 1000) `

func runFrom(row pgx.CollectableRow) (b artifact.Build, err error) {
	err = row.Scan(&b.ID, &b.Repository, &b.Tags, &b.Key, &b.State, &b.AskedBy, &b.AskedAt, &b.StartedAt, &b.EndedAt, &b.Attempts, &b.Digest, &b.New, &b.Failure, &b.CancelledBy, &b.Source)
	for _, at := range []*time.Time{&b.StartedAt, &b.EndedAt} {
		if at.Unix() == 0 {
			*at = time.Time{}
		}
	}
	return b, err
}

// AddBuildRun records a request. One with a context is queued, and a job made of it (OnBuild) in the same transaction, unless
// the same inputs wait or are built already: then that run's id is returned. One without a context runs at its owner's.
func (db *DB) AddBuildRun(ctx context.Context, r BuildRun) (id string, err error) {
	principal, err := json.Marshal(r.Principal)
	if err != nil {
		return "", err
	}
	if r.Context == "" {
		_, err := db.Pool.Exec(ctx, `insert into build_runs (id, repository, key, request, principal, state, owner, attempts, started_at, beat_at)
			values ($1, $2, $3, $4, $5, 'running', $6, 1, now(), now())`, r.ID, r.Repository, r.Key, r.Request, principal, r.Owner)
		return r.ID, translate(err)
	}
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		id = r.ID
		for { // until it is queued, or the one that is in its place is found before that ends
			tag, err := tx.Exec(ctx, `insert into build_runs (id, repository, key, request, principal, context, state) values ($1, $2, $3, $4, $5, $6, 'queued')
				on conflict (repository, key) where state in ('queued', 'running') and context <> '' do nothing`, r.ID, r.Repository, r.Key, r.Request, principal, r.Context)
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 1 {
				return db.OnBuild(ctx, tx, id)
			}
			err = tx.QueryRow(ctx, `select id from build_runs where repository = $1 and key = $2 and state in ('queued', 'running') and context <> ''`, r.Repository, r.Key).Scan(&id)
			if !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			id = r.ID
		}
	})
	return id, err
}

// ClaimBuildRun makes a queued run the owner's; ok is false when it is not queued any more.
func (db *DB) ClaimBuildRun(ctx context.Context, id, owner string) (r BuildRun, ok bool, err error) {
	var principal []byte
	err = db.Pool.QueryRow(ctx, `update build_runs set state = 'running', owner = $2, attempts = attempts + 1, started_at = now(), beat_at = now() where id = $1 and state = 'queued'
		returning repository, key, request, principal, context, attempts`, id, owner).Scan(&r.Repository, &r.Key, &r.Request, &principal, &r.Context, &r.Attempts)
	if err != nil {
		return r, false, ignoreNoRows(err)
	}
	r.ID, r.Owner = id, owner
	return r, true, json.Unmarshal(principal, &r.Principal)
}

// BeatBuildRun says that the owner is still at it. ok is false when the run is not its any more; cancelledBy names who asked for
// it to end.
func (db *DB) BeatBuildRun(ctx context.Context, id, owner string) (cancelledBy string, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `update build_runs set beat_at = now() where id = $1 and owner = $2 and ended_at is null returning cancelled_by`, id, owner).Scan(&cancelledBy)
	return cancelledBy, err == nil, ignoreNoRows(err)
}

// EndBuildRun stores what the owner's run came to, and of which key, where that is known.
func (db *DB) EndBuildRun(ctx context.Context, owner string, b artifact.Build) error {
	_, err := db.Pool.Exec(ctx, `update build_runs set state = $3, digest = nullif($4, ''), built = $5, failure = $6, key = coalesce($7, key), ended_at = now() where id = $1 and owner = $2 and ended_at is null`,
		b.ID, owner, b.State, b.Digest.String(), b.New, b.Failure, b.Key)
	return translate(err)
}

// CancelBuildRun ends a run that waits, and has the owner of one that runs told.
func (db *DB) CancelBuildRun(ctx context.Context, id, by string) error {
	tag, err := db.Pool.Exec(ctx, `update build_runs set cancelled_by = $2, failure = case state when 'queued' then 'cancelled by ' || $2 else failure end,
		ended_at = case state when 'queued' then now() end, state = case state when 'queued' then 'cancelled' else state end where id = $1 and state in ('queued', 'running')`, id, by)
	if err == nil && tag.RowsAffected() == 0 {
		return artifact.Errorf(artifact.Conflict, "build %s has ended", id)
	}
	return translate(err)
}

// LostBuildRuns takes up what runs of processes that have not been heard of for so long: it is queued again where its
// context is stored and it was not tried too often, and failed else.
func (db *DB) LostBuildRuns(ctx context.Context, unheard time.Duration, attempts int) (n int, err error) {
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `update build_runs set state = 'queued', owner = '' where state = 'running' and beat_at < now() - $1::interval and context <> '' and attempts < $2
			and cancelled_by = '' returning id`, unheard, attempts)
		if err != nil {
			return err
		}
		again, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, id := range again {
			if err := db.OnBuild(ctx, tx, id); err != nil {
				return err
			}
		}
		tag, err := tx.Exec(ctx, `update build_runs set state = 'failed', ended_at = now(), failure = 'the server that built it ended before the build did; nothing is published by halves; build again'
			where state = 'running' and beat_at < now() - $1::interval`, unheard)
		n = len(again) + int(tag.RowsAffected())
		return err
	})
	return n, err
}

// ForgetBuildRuns drops runs, with their logs, that ended so long ago.
func (db *DB) ForgetBuildRuns(ctx context.Context, age time.Duration) error {
	_, err := db.Pool.Exec(ctx, `delete from build_runs where ended_at < now() - $1::interval`, age)
	return translate(err)
}

// BuildRun returns a run.
func (db *DB) BuildRun(ctx context.Context, id string) (b artifact.Build, err error) {
	rows, err := db.Pool.Query(ctx, `select`+runColumns+`from build_runs where id = $1`, id)
	if err != nil {
		return b, translate(err)
	}
	b, err = pgx.CollectExactlyOneRow(rows, runFrom)
	return b, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no build %.64s", id))
}

// Which builds a page has: those behind one, of a state where one is given.
const runPage = ` and asked_at <= $2 and (asked_at < $2 or id > $3) and ($4::text = '' or state = $4) order by asked_at desc, id limit $5`

// BuildRuns returns runs, newest first.
func (db *DB) BuildRuns(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	sql := `select` + runColumns + `from build_runs where $1::text = ''` + runPage
	if !f.Repository.IsZero() {
		sql = `select` + runColumns + `from build_runs where repository = $1` + runPage
	}
	rows, err := db.Pool.Query(ctx, sql, f.Repository.String(), before(f.After.AskedAt), f.After.ID, string(f.State), f.Limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, runFrom)
	return all, translate(err)
}

// before is a bound of times before one; of the zero one there is none.
func before(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}

// ContextWanted reports whether a run that has not ended needs a stored context.
func (db *DB) ContextWanted(ctx context.Context, digest string) (wanted bool, err error) {
	err = db.Pool.QueryRow(ctx, `select exists (select from build_runs where context = $1 and state in ('queued', 'running'))`, digest).Scan(&wanted)
	return wanted, translate(err)
}

// AppendBuildLog stores the next piece of a log and returns its number.
func (db *DB) AppendBuildLog(ctx context.Context, run string, body []byte) (seq int64, err error) {
	err = db.Pool.QueryRow(ctx, `insert into build_logs (run, seq, body) values ($1, coalesce((select max(seq) from build_logs where run = $1), 0) + 1, $2) returning seq`, run, body).Scan(&seq)
	return seq, translate(err)
}

// BuildLog returns pieces of a log behind one, at most n.
func (db *DB) BuildLog(ctx context.Context, run string, after int64, n int) (pieces [][]byte, last int64, err error) {
	rows, err := db.Pool.Query(ctx, `select seq, body from build_logs where run = $1 and seq > $2 order by seq limit $3`, run, after, n)
	if err != nil {
		return nil, after, translate(err)
	}
	var body []byte
	last = after
	_, err = pgx.ForEachRow(rows, []any{&last, &body}, func() error {
		pieces = append(pieces, body)
		body = nil
		return nil
	})
	return pieces, last, translate(err)
}
