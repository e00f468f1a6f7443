package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// CreateRelease records services that are promoted together; a Conflict when there is a release of that name.
func (db *DB) CreateRelease(ctx context.Context, r artifact.Release) (artifact.Release, error) {
	r.At = moment(r.At)
	err := db.Transact(ctx, func(tx pgx.Tx) error {
		for _, s := range r.Services {
			if err := staysHere(ctx, tx, s.Repository, s.Digest); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('release/' || $1, 0))`, r.Name); err != nil {
			return err
		}
		var there bool
		if err := tx.QueryRow(ctx, `select exists (select from releases where name = $1)`, r.Name).Scan(&there); err != nil {
			return err
		}
		if there {
			return artifact.Errorf(artifact.Conflict, "there is a release %s already, and a release never changes; give this one another name", r.Name)
		}
		index, err := appendLedger(ctx, tx, releaseEntry(r))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into releases (name, actor, reason, at, ledger_index) values ($1, $2, $3, $4, $5)`, r.Name, r.Actor, r.Reason, r.At, index); err != nil {
			return err
		}
		for _, s := range r.Services {
			if _, err := tx.Exec(ctx, `insert into release_services (release, repository, digest, version) values ($1, $2, $3, $4)`, r.Name, s.Repository, s.Digest, s.Version); err != nil {
				return err
			}
		}
		return nil
	})
	return r, err
}

func releaseEntry(r artifact.Release) ledger.Entry {
	e := ledger.Entry{Kind: ledger.KindRelease, Actor: r.Actor, At: r.At, Subject: r.Name, Reason: r.Reason}
	for _, s := range r.Services {
		e.Evidence = append(e.Evidence, s.Digest)
	}
	return e
}

// recordedReleases are for an audit.
func recordedReleases(ctx context.Context, q querier) ([]ledger.Recorded, error) {
	rows, err := q.Query(ctx, `select r.name, r.actor, r.reason, r.at, r.ledger_index, coalesce(array_agg(s.digest order by s.repository collate "C") filter (where s.digest is not null), '{}')
		from releases r left join release_services s on s.release = r.name group by r.name order by r.name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ledger.Recorded, err error) {
		e := ledger.Entry{Kind: ledger.KindRelease}
		err = row.Scan(&e.Subject, &e.Actor, &e.Reason, &e.At, &r.Index, &e.Evidence)
		r.Entry = e
		return r, err
	})
}

// Release returns one release.
func (db *DB) Release(ctx context.Context, name string) (artifact.Release, error) {
	rows, err := db.Pool.Query(ctx, `select name, actor, reason, at from releases where name = $1`, name)
	if err != nil {
		return artifact.Release{}, translate(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRelease)
	if err != nil {
		return r, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no release %.150q", name))
	}
	all := []artifact.Release{r}
	err = db.addServices(ctx, all)
	return all[0], err
}

func scanRelease(row pgx.CollectableRow) (r artifact.Release, err error) {
	err = row.Scan(&r.Name, &r.Actor, &r.Reason, &r.At)
	r.At = r.At.UTC()
	return r, err
}

// Releases returns releases, newest first, at most n of those behind one (the zero one: from the newest on).
func (db *DB) Releases(ctx context.Context, after artifact.Release, n int) ([]artifact.Release, error) {
	rows, err := db.Pool.Query(ctx, `select name, actor, reason, at from releases where (at, name) < ($1::timestamptz, $2) order by at desc, name desc limit $3`, before(after.At), after.Name, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, scanRelease)
	if err != nil {
		return nil, translate(err)
	}
	return all, db.addServices(ctx, all)
}

// addServices adds to releases what is in them.
func (db *DB) addServices(ctx context.Context, all []artifact.Release) error {
	at := map[string]int{}
	var names []string
	for i, r := range all {
		at[r.Name] = i
		names = append(names, r.Name)
	}
	rows, err := db.Pool.Query(ctx, `select release, repository, digest, version from release_services where release = any($1) order by release, repository`, names)
	if err != nil {
		return translate(err)
	}
	var (
		release string
		s       artifact.ReleaseService
	)
	_, err = pgx.ForEachRow(rows, []any{&release, &s.Repository, &s.Digest, &s.Version}, func() error {
		r := &all[at[release]]
		r.Services = append(r.Services, s)
		return nil
	})
	return translate(err)
}
