package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Affected returns the images that have the finding of an id, in order of their digests and repositories: those of the
// next n digests after one. last is the last of these digests; zero when there are no more.
func (db *DB) Affected(ctx context.Context, id string, after artifact.Digest, n int) (all []artifact.Affected, last artifact.Digest, err error) {
	rows, err := db.Pool.Query(ctx, `select distinct digest from findings where id = $1 and digest > $2 order by digest limit $3`, id, after.String(), n)
	if err != nil {
		return nil, last, translate(err)
	}
	digests, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(digests) == 0 {
		return nil, last, translate(err)
	}
	if len(digests) == n {
		if last, err = artifact.ParseDigest(digests[n-1]); err != nil {
			return nil, last, err
		}
	}
	findings, err := db.findingsOf(ctx, id, digests)
	if err != nil {
		return nil, last, err
	}
	if all, err = db.placesOf(ctx, digests); err != nil {
		return nil, last, err
	}
	for i := range all {
		all[i].Findings = findings[all[i].Digest]
		for _, f := range all[i].Findings {
			if all[i].FoundAt.IsZero() || f.FoundAt.Before(all[i].FoundAt) {
				all[i].FoundAt = f.FoundAt
			}
		}
	}
	return all, last, db.addWhereabouts(ctx, all)
}

func (db *DB) findingsOf(ctx context.Context, id string, digests []string) (map[artifact.Digest][]artifact.Finding, error) {
	rows, err := db.Pool.Query(ctx, `select digest, finding, found_at from findings where id = $1 and digest = any($2) order by digest, hash`, id, digests)
	if err != nil {
		return nil, translate(err)
	}
	found := map[artifact.Digest][]artifact.Finding{}
	var (
		d  artifact.Digest
		f  artifact.Finding
		at time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&d, &f, &at}, func() error {
		f.FoundAt = at
		found[d] = append(found[d], f)
		f = artifact.Finding{}
		return nil
	})
	return found, translate(err)
}

func (db *DB) placesOf(ctx context.Context, digests []string) ([]artifact.Affected, error) {
	rows, err := db.Pool.Query(ctx, `select m.repository, m.digest, m.platform,
		array(select r.manifest from manifest_references r where r.repository = m.repository and r.digest = m.digest and r.kind = 'manifest' order by r.manifest)
		from manifests m where m.digest = any($1) and is_image order by m.digest, m.repository`, digests)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a artifact.Affected, err error) {
		var indexes []string
		if err := row.Scan(&a.Repository, &a.Digest, &a.Platform, &indexes); err != nil {
			return a, err
		}
		for _, name := range slices.Compact(indexes) {
			d, err := artifact.ParseDigest(name)
			if err != nil {
				return a, err
			}
			a.Indexes = append(a.Indexes, d)
		}
		return a, nil
	})
	return all, translate(err)
}

// addWhereabouts fills in by which tags images go, since when they are promoted, and where they run: all of one digest are
// asked for with it, and with the indexes that name it.
func (db *DB) addWhereabouts(ctx context.Context, all []artifact.Affected) error {
	batch := &pgx.Batch{}
	for i := range all {
		a := &all[i]
		names := []string{a.Digest.String()}
		for _, d := range a.Indexes {
			names = append(names, d.String())
		}
		batch.Queue(`select name from tags where repository = $1 and digest = any($2) order by name`, a.Repository, names).Query(func(rows pgx.Rows) (err error) {
			a.Tags, err = pgx.CollectRows(rows, pgx.RowTo[artifact.Tag])
			return err
		})
		batch.Queue(`select min(at) from promotions where repository = $1 and digest = any($2) and action in ('promote', 'rollback')`, a.Repository, names).QueryRow(func(row pgx.Row) error {
			var at *time.Time
			err := row.Scan(&at)
			if at != nil {
				a.PromotedAt = *at
			}
			return err
		})
		batch.Queue(`select environment, digest, version, since from deployments where repository = $1 and digest = any($2) order by environment`, a.Repository, names).Query(func(rows pgx.Rows) (err error) {
			a.RunsIn, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w artifact.Affecting, err error) {
				err = row.Scan(&w.Environment, &w.Digest, &w.Version, &w.Since)
				return w, err
			})
			return err
		})
	}
	return translate(db.Pool.SendBatch(ctx, batch).Close())
}
