package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/policy"
)

// lease is how long a job that judges everything again may be silent before another takes its place.
const lease = 30 * time.Second

// outdate notes, in the transaction that changes what verdicts rest on, that all are to be judged again, and asks for a
// job that does so. Two such changes are one pass more, not two.
func (db *DB) outdate(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `update rejudging set wanted = wanted + 1 where one`); err != nil || db.OnPolicy == nil {
		return err
	}
	return db.OnPolicy(ctx, tx)
}

// JudgeAgain notes that all verdicts are to be made anew: scans that they rest on changed.
func (db *DB) JudgeAgain(ctx context.Context) error {
	return db.Transact(ctx, func(tx pgx.Tx) error { return db.outdate(ctx, tx) })
}

// pass is how far judging everything again is: a circle of all manifests that begins, anew, where it was asked for.
type pass struct {
	wanted, done, pass int64
	start, last        artifact.Reference
	wrapped            bool
	worker             *int64
	lease              *time.Time
}

// NextToJudge returns the images and indexes that a job is to judge next, at most n, and none when no verdict is out of
// date. It is a Conflict while another job is at it.
func (db *DB) NextToJudge(ctx context.Context, job int64, n int) (page []artifact.StoredManifest, err error) {
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		var p pass
		page = nil
		if err := tx.QueryRow(ctx, `select wanted, done, pass, start_repository, start_digest, repository, digest, wrapped, worker, lease from rejudging where one for update`).
			Scan(&p.wanted, &p.done, &p.pass, &p.start.Repository, &p.start.Digest, &p.last.Repository, &p.last.Digest, &p.wrapped, &p.worker, &p.lease); err != nil {
			return err
		}
		if p.wanted == p.done {
			return nil
		}
		if p.worker != nil && *p.worker != job && p.lease != nil && time.Now().Before(*p.lease) {
			return artifact.Errorf(artifact.Conflict, "job %d judges everything again already", *p.worker)
		}
		if p.pass != p.wanted {
			p.pass, p.start, p.wrapped = p.wanted, p.last, false
		}
		var err error
		if page, err = p.page(ctx, tx, n); err != nil {
			return err
		}
		if len(page) == 0 && !p.wrapped && !p.start.Repository.IsZero() {
			p.wrapped, p.last = true, artifact.Reference{}
			if page, err = p.page(ctx, tx, n); err != nil {
				return err
			}
		}
		if len(page) == 0 {
			_, err := tx.Exec(ctx, `update rejudging set done = $1, pass = $1, start_repository = '', start_digest = '', repository = '', digest = '', wrapped = false, worker = null, lease = null
				where one`, p.pass)
			return err
		}
		_, err = tx.Exec(ctx, `update rejudging set pass = $1, start_repository = $2, start_digest = $3, repository = $4, digest = $5, wrapped = $6, worker = $7, lease = $8 where one`,
			p.pass, p.start.Repository.String(), p.start.Digest.String(), p.last.Repository.String(), p.last.Digest.String(), p.wrapped, job, time.Now().Add(lease))
		return err
	})
	return page, err
}

func (p pass) page(ctx context.Context, tx pgx.Tx, n int) ([]artifact.StoredManifest, error) {
	through := artifact.Reference{}
	if p.wrapped {
		through = p.start
	}
	return imagesAfter(ctx, tx, p.last, through, n)
}

// imagesAfter returns images and indexes in the order of repository and digest; the zero through is no bound.
func imagesAfter(ctx context.Context, q querier, after, through artifact.Reference, n int) ([]artifact.StoredManifest, error) {
	rows, err := q.Query(ctx, `select repository, digest, media_type, body, is_image, platform, pushed_by, pushed_at from manifests
		where (is_image or is_index) and (repository, digest) > ($1, $2) and ($3 = '' or (repository, digest) <= ($3, $4)) order by repository, digest limit $5`,
		after.Repository.String(), after.Digest.String(), through.Repository.String(), through.Digest.String(), n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, storedManifest)
}

func storedManifest(row pgx.CollectableRow) (s artifact.StoredManifest, err error) {
	var mediaType string
	if err := row.Scan(&s.Repository, &s.Digest, &mediaType, &s.Body, &s.IsImage, &s.Platform, &s.PushedBy, &s.PushedAt); err != nil {
		return s, err
	}
	s.Manifest, err = artifact.ParseManifest(mediaType, s.Body)
	return s, err
}

// ImagesAfter returns the images and indexes that come after one in the order of repository and digest, at most n.
func (db *DB) ImagesAfter(ctx context.Context, after artifact.Reference, n int) ([]artifact.StoredManifest, error) {
	all, err := imagesAfter(ctx, db.Pool, after, artifact.Reference{}, n)
	return all, translate(err)
}

// ImagesWith returns an image in every repository that has it, and the indexes that lead to it: whose verdicts what is
// learned of it may change.
func (db *DB) ImagesWith(ctx context.Context, image artifact.Digest) ([]artifact.StoredManifest, error) {
	rows, err := db.Pool.Query(ctx, `with recursive tree (repository, digest) as (
			select repository, digest from manifests where digest = $1
			union
			select r.repository, r.manifest from tree t join manifest_references r on r.repository = t.repository and r.digest = t.digest and r.kind = 'manifest'
		)
		select repository, digest, media_type, body, is_image, platform, pushed_by, pushed_at from tree join manifests using (repository, digest)
		where is_image or is_index order by repository, is_index, digest`, image)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, storedManifest)
	return all, translate(err)
}

// Judged records that a job judged up to a manifest.
func (db *DB) Judged(ctx context.Context, job int64, last artifact.Reference) error {
	_, err := db.loose.Exec(ctx, `update rejudging set repository = $2, digest = $3 where one and worker = $1`, job, last.Repository.String(), last.Digest.String())
	return translate(err)
}

// Cold reads manifests and facts that are stored, for work on many of them: it keeps nothing in memory, and has no layer
// read.
type Cold struct{ DB *DB }

// Manifest returns a manifest of a repository, or NotFound.
func (c Cold) Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error) {
	return c.DB.readManifest(ctx, repository, digest)
}

// Layer returns a layer's stored facts: NotFound when there are none, Denied when the layer cannot be inspected.
func (c Cold) Layer(ctx context.Context, _ artifact.Repository, d artifact.Descriptor) (facts artifact.LayerFacts, err error) {
	var (
		packed  []byte
		failure string
	)
	err = c.DB.Pool.QueryRow(ctx, `select facts, failure from layer_facts where digest = $1 and format = $2`, d.Digest, artifact.FactsFormat).Scan(&packed, &failure)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return facts, artifact.Errorf(artifact.NotFound, "layer %s was not inspected by this version yet", d.Digest)
	case err != nil:
		return facts, translate(err)
	case failure != "":
		return facts, artifact.Errorf(artifact.Denied, "%s", failure)
	}
	return facts, unpack(packed, &facts)
}

var _ policy.Facts = Cold{}

// Whereabouts returns by which tags images are known, and in which environments they are, in the order of the references.
func (db *DB) Whereabouts(ctx context.Context, all []artifact.Reference) ([]policy.Whereabouts, error) {
	var repositories, digests []string
	for _, ref := range all {
		repositories, digests = append(repositories, ref.Repository.String()), append(digests, ref.Digest.String())
	}
	rows, err := db.Pool.Query(ctx, `select
			coalesce((select array_agg(name order by name) from tags t where t.repository = n.repository and t.digest = n.digest), '{}'),
			coalesce((select array_agg(distinct environment order by environment) from deployments d where d.repository = n.repository and d.digest = n.digest), '{}'),
			coalesce((select array_agg(distinct environment order by environment) from grants g where g.repository = n.repository and g.root = n.digest and g.digest = g.root), '{}')
		from unnest($1::text[], $2::text[]) with ordinality as n (repository, digest, position) order by position`, repositories, digests)
	if err != nil {
		return nil, translate(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[policy.Whereabouts])
	return found, translate(err)
}
