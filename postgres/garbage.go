package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// garbageBatch is how many rows a collection locks at a time.
const garbageBatch = 200

// Only lets one of all replicas do a thing at a time: while another does it, it answers Conflict. It holds a connection
// until release is called.
func (db *DB) Only(ctx context.Context, thing string) (release func(), err error) {
	conn, err := db.Pool.Acquire(ctx)
	if err != nil {
		return nil, translate(err)
	}
	var got bool
	if err := conn.QueryRow(ctx, `select pg_try_advisory_lock(hashtextextended('only/' || $1, 0))`, thing).Scan(&got); err != nil || !got {
		conn.Release()
		if err == nil {
			err = artifact.Errorf(artifact.Conflict, "%s is under way already; wait for its end", thing)
		}
		return nil, translate(err)
	}
	return func() {
		if _, err := conn.Exec(context.WithoutCancel(ctx), `select pg_advisory_unlock(hashtextextended('only/' || $1, 0))`, thing); err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx)) // ends the session, and with it the lock
		}
		conn.Release()
	}, nil
}

// Alone runs f while no push is between the bytes and the row of a digest. known asks whether there is a row. When its
// answer is an error, the database may have forgotten the lock: then f has to leave things as it found them.
func (db *DB) Alone(ctx context.Context, digest artifact.Digest, f func(known func() (bool, error)) error) error {
	return translate(pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1, $2)`, lockBlob, lockOf(digest)); err != nil {
			return err
		}
		return f(func() (is bool, err error) {
			err = tx.QueryRow(ctx, `select exists (select from blobs where digest = $1)`, digest).Scan(&is)
			return is, translate(err)
		})
	}))
}

// GarbageLinks tells of each blob that no manifest of its repository has needed for that long.
func (db *DB) GarbageLinks(ctx context.Context, age time.Duration, each func(artifact.BlobLink)) error {
	rows, err := db.Pool.Query(ctx, `select repository, digest, size from repository_blobs b join blobs using (digest) where linked_at < now() - $1::interval
		and not exists (select from manifest_references r where r.repository = b.repository and r.digest = b.digest) order by repository, digest`, age)
	return forEach(rows, err, each)
}

// UnlinkGarbage takes the blobs that GarbageLinks tells of from their repositories. It passes over what is locked, so
// that it waits for no push; a push may find a blob gone and say so.
func (db *DB) UnlinkGarbage(ctx context.Context, age time.Duration, each func(artifact.BlobLink)) error {
	var last artifact.BlobLink
	for {
		var gone []artifact.BlobLink
		var next artifact.BlobLink
		err := db.Transact(ctx, func(tx pgx.Tx) (err error) {
			gone, next, err = unlinkSome(ctx, tx, age, last)
			return err
		})
		if err != nil || next == last {
			return err
		}
		last = next
		for _, l := range gone {
			db.hot.forget(l.Repository)
			each(l)
		}
	}
}

// unlinkSome takes two statements. The second sees every manifest that was stored before the first had locked its
// blobs; one that comes later waits for these locks, and finds its blob gone (insertManifest). next is where the next
// batch begins; it is last when there is none.
func unlinkSome(ctx context.Context, tx pgx.Tx, age time.Duration, last artifact.BlobLink) (gone []artifact.BlobLink, next artifact.BlobLink, err error) {
	// Offset 0 keeps the planner from joining with all of manifest_references for each batch.
	rows, err := tx.Query(ctx, `select repository, digest from repository_blobs b where (repository, digest) > ($1, $2) and linked_at < now() - $3::interval
		and not exists (select from manifest_references r where r.repository = b.repository and r.digest = b.digest offset 0)
		order by repository, digest limit $4 for update of b skip locked`, last.Repository.String(), last.Digest.String(), age, garbageBatch)
	var repositories, digests []string
	next = last
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&next.Repository, &next.Digest}, func() error {
			repositories, digests = append(repositories, next.Repository.String()), append(digests, next.Digest.String())
			return nil
		})
	}
	if err != nil || len(digests) == 0 {
		return nil, last, err
	}
	rows, err = tx.Query(ctx, `delete from repository_blobs b using unnest($1::text[], $2::text[]) as c (repository, digest), blobs s
		where b.repository = c.repository and b.digest = c.digest and s.digest = b.digest
		and not exists (select from manifest_references r where r.repository = b.repository and r.digest = b.digest)
		returning b.repository, b.digest, s.size`, repositories, digests)
	if err != nil {
		return nil, last, err
	}
	gone, err = pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.BlobLink])
	return gone, next, err
}

// GarbageBlobs tells of each blob that no repository has, or will have once UnlinkGarbage has run.
func (db *DB) GarbageBlobs(ctx context.Context, age time.Duration, each func(artifact.StoredBlob)) error {
	rows, err := db.Pool.Query(ctx, `select digest, size, quarantined_at is not null from blobs b where created_at < now() - $1::interval and not exists (
		select from repository_blobs l where l.digest = b.digest and (l.linked_at >= now() - $1::interval
			or exists (select from manifest_references r where r.repository = l.repository and r.digest = l.digest))) order by digest`, age)
	return forEach(rows, err, each)
}

// ForgetGarbage deletes the rows of blobs that no repository has, and then tells of each, so that its bytes are dropped,
// until each fails. A crash in between leaves bytes without a row.
func (db *DB) ForgetGarbage(ctx context.Context, age time.Duration, each func(artifact.StoredBlob) error) error {
	var last string
	for {
		var gone []artifact.StoredBlob
		var next string
		err := db.Transact(ctx, func(tx pgx.Tx) (err error) {
			gone, next, err = forgetSome(ctx, tx, age, last)
			return err
		})
		if err != nil || next == last {
			return err
		}
		last = next
		for _, b := range gone {
			if err := each(b); err != nil {
				return err
			}
		}
	}
}

// forgetSome takes two statements for the reason that unlinkSome does: whoever gives a blob to a repository locks its row.
func forgetSome(ctx context.Context, tx pgx.Tx, age time.Duration, last string) (gone []artifact.StoredBlob, next string, err error) {
	rows, err := tx.Query(ctx, `select digest from blobs b where digest > $1 and created_at < now() - $2::interval
		and not exists (select from repository_blobs l where l.digest = b.digest) order by digest limit $3 for update of b skip locked`, last, age, garbageBatch)
	if err != nil {
		return nil, last, err
	}
	digests, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(digests) == 0 {
		return nil, last, err
	}
	rows, err = tx.Query(ctx, `delete from blobs b where digest = any($1) and not exists (select from repository_blobs l where l.digest = b.digest)
		returning digest, size, quarantined_at is not null`, digests)
	if err != nil {
		return nil, last, err
	}
	gone, err = pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.StoredBlob])
	return gone, digests[len(digests)-1], err
}

// KnownBlobs returns which of the digests have a row.
func (db *DB) KnownBlobs(ctx context.Context, digests []artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `select digest from blobs where digest = any($1)`, names(digests))
	if err != nil {
		return nil, translate(err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return known, translate(err)
}

// Blobs returns at most n blobs after a digest, in an order of the database's. The zero digest is before all.
func (db *DB) Blobs(ctx context.Context, after artifact.Digest, n int) ([]artifact.StoredBlob, error) {
	rows, err := db.Pool.Query(ctx, `select digest, size, quarantined_at is not null from blobs where digest > $1 order by digest limit $2`, after.String(), n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.StoredBlob])
	return all, translate(err)
}

// CountBlobs returns how many blobs there are, and how many bytes they have.
func (db *DB) CountBlobs(ctx context.Context) (count, bytes int64, err error) {
	err = db.Pool.QueryRow(ctx, `select count(*), coalesce(sum(size), 0)::bigint from blobs`).Scan(&count, &bytes)
	return count, bytes, translate(err)
}

// QuarantineBlob marks a blob as damaged: nobody is served it until somebody has pushed it again.
func (db *DB) QuarantineBlob(ctx context.Context, digest artifact.Digest) error {
	_, err := db.Pool.Exec(ctx, `update blobs set quarantined_at = now() where digest = $1 and quarantined_at is null`, digest)
	return translate(err)
}

func forEach[T any](rows pgx.Rows, err error, each func(T)) error {
	if err != nil {
		return translate(err)
	}
	defer rows.Close()
	for rows.Next() {
		v, err := pgx.RowToStructByPos[T](rows)
		if err != nil {
			return err
		}
		each(v)
	}
	return translate(rows.Err())
}
