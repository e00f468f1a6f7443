package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// closure is every manifest and blob that belongs to a promoted digest $2 of repository $1: itself and, of an index, its
// children; what refers to any of them by subject or by cosign's tags; and the configs and layers of all these. What
// only refers to it brings no image with it, or whoever may push could have an image pulled that nobody promoted by
// naming a promoted one as its subject; nor a chart or the like (artifact.Manifest.Follows); nor do blobs that are some image's. Nothing recalled is in it, nor what only that leads to.
const closure = `
with recursive tree (digest, promoted) as (
    select $2::text, true
    union
    select found.digest, found.promoted from tree t cross join lateral (
        select m.digest, t.promoted from manifest_references r join manifests m on m.repository = $1 and m.digest = r.digest
        where r.repository = $1 and r.manifest = t.digest and r.kind = 'manifest' and (t.promoted or not m.is_image)
        union all
        select m.digest, false from manifests m where m.repository = $1 and m.subject = t.digest and not m.is_image and m.follows
        union all
        select m.digest, false from tags g join manifests m on m.repository = $1 and m.digest = g.digest and not m.is_image and m.follows
        where g.repository = $1 and g.name in
            (replace(t.digest, ':', '-') || '.sig', replace(t.digest, ':', '-') || '.att', replace(t.digest, ':', '-') || '.sbom')
    ) found
    where not exists (select from recalls where recalls.repository = $1 and recalls.digest = found.digest)
), closure (digest) as (
    select digest from tree
    union
    select r.digest from tree t join manifest_references r on r.repository = $1 and r.manifest = t.digest and r.kind <> 'manifest'
    where t.promoted or not exists (select from manifest_references other join manifests m on m.repository = $1 and m.digest = other.manifest and m.is_image
        where other.repository = $1 and other.digest = r.digest)
)`

// lockGrants: a promotion and the arrival of a referrer must see each other, or the referrer is left out.
func lockGrants(ctx context.Context, tx pgx.Tx, repository artifact.Repository) error {
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('grants/' || $1, 0))`, repository)
	return err
}

// grant lets an environment pull a digest and all that belongs to it by now. The caller holds lockGrants.
func grant(ctx context.Context, tx pgx.Tx, repository artifact.Repository, root artifact.Digest, environment artifact.Environment) error {
	_, err := tx.Exec(ctx, closure+` insert into grants (environment, repository, digest, root) select $3, $1, digest, $2 from closure on conflict do nothing`,
		repository, root, environment)
	return err
}

// grantedRoot is a promoted digest and where it may be pulled.
type grantedRoot struct {
	Environment artifact.Environment
	Root        artifact.Digest
	Version     string // as it was promoted last
}

// rootsOf returns what was promoted that any of the digests belongs to.
func rootsOf(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digests []string) ([]grantedRoot, error) {
	rows, err := tx.Query(ctx, `select environment, root, coalesce((select version from promotions p where p.repository = $1 and p.environment = found.environment and p.digest = found.root
		order by id desc limit 1), '') from (select distinct environment, root from grants where repository = $1 and digest = any($2)) found order by environment, root`, repository, digests)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[grantedRoot])
}

// subjectsOf returns what a manifest on its way in refers to.
func subjectsOf(p artifact.Push) (subjects []string) {
	for _, tag := range p.Tags {
		if tag.IsCosign() {
			name, _, _ := strings.Cut(tag.String(), ".")
			subjects = append(subjects, strings.Replace(name, "-", ":", 1))
		}
	}
	if p.Manifest.Subject != nil {
		subjects = append(subjects, p.Manifest.Subject.Digest.String())
	}
	return subjects
}

// extendGrants lets what has just arrived be pulled with its subject, or with the digest that its cosign tag names,
// wherever that may be. The caller holds lockGrants.
func (db *DB) extendGrants(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	subjects := subjectsOf(p)
	if len(subjects) == 0 {
		return nil
	}
	roots, err := rootsOf(ctx, tx, p.Repository, subjects)
	if err != nil || len(roots) == 0 {
		return err
	}
	for _, r := range roots {
		if err := grant(ctx, tx, p.Repository, r.Root, r.Environment); err != nil {
			return err
		}
		if db.OnPromoted == nil {
			continue
		}
		if err := db.OnPromoted(ctx, tx, artifact.Promotion{Repository: p.Repository, Environment: r.Environment, Digest: r.Root, Version: r.Version}); err != nil {
			return err
		}
	}
	return nil
}

// withdraw takes a recalled digest, and what came only with it, from every environment, and returns which had it. What
// else was promoted and holds it keeps the rest of its own closure.
func withdraw(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) ([]artifact.Environment, error) {
	roots, err := rootsOf(ctx, tx, repository, []string{digest.String()})
	if err != nil {
		return nil, err
	}
	var environments []artifact.Environment
	for _, r := range roots {
		if _, err := tx.Exec(ctx, `delete from grants where environment = $1 and repository = $2 and root = $3`, r.Environment, repository, r.Root); err != nil {
			return nil, err
		}
		if r.Root != digest {
			if err := grant(ctx, tx, repository, r.Root, r.Environment); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(environments, r.Environment) {
			environments = append(environments, r.Environment)
		}
	}
	slices.SortFunc(environments, func(a, b artifact.Environment) int { return strings.Compare(a.String(), b.String()) })
	return environments, nil
}

// maxClosure bounds how much of a closure is remembered at once.
const maxClosure = 1000

// Granted is the gate's one indexed read: whether one of the environments may pull a manifest or blob. Who pulls a manifest
// pulls what belongs to it next, so the same read remembers that too.
func (db *DB) Granted(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digest artifact.Digest) (bool, error) {
	where := strings.Join(names(environments), " ")
	one := func() (bool, error) {
		err := db.readGrant(ctx, environments, repository, digest)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		return err == nil, translate(err)
	}
	if artifact.IsAfresh(ctx) {
		if err := db.enlist(ctx); err != nil {
			return false, err
		}
		return one()
	}
	return recallAll(db.hot, repository, func(s *shelf) map[granted]bool { return s.grants }, granted{where, digest}, one,
		func() (map[granted]bool, error) {
			all, err := db.readGrants(ctx, environments, repository, digest)
			if err != nil {
				return nil, translate(err)
			}
			with := make(map[granted]bool, len(all))
			for _, d := range all {
				with[granted{where, d}] = true
			}
			return with, nil
		})
}

// readGrant returns pgx.ErrNoRows when there is no grant.
func (db *DB) readGrant(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digest artifact.Digest) error {
	var one int
	return db.Pool.QueryRow(ctx, `select 1 from grants where environment = any($1) and repository = $2 and digest = $3 limit 1`, names(environments), repository, digest).Scan(&one)
}

// readGrants returns a digest, if there is a grant of it, and what else is granted with the promoted digest that brought it: with
// itself, when it is one.
func (db *DB) readGrants(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digest artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `with brought as (
			(select root from grants where environment = any($1) and repository = $2 and digest = $3 and root = $3 limit 1)
			union all
			(select root from grants where environment = any($1) and repository = $2 and digest = $3 limit 1)
			limit 1)
		select $3 from brought
		union all
		(select g.digest from brought join grants g on g.repository = $2 and g.root = brought.root where g.environment = any($1) limit $4)`,
		names(environments), repository, digest, maxClosure)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
}

// GrantedOf returns which of the digests one of the environments may pull.
func (db *DB) GrantedOf(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digests []artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `select distinct digest from grants where environment = any($1) and repository = $2 and digest = any($3)`, names(environments), repository, names(digests))
	if err != nil {
		return nil, translate(err)
	}
	granted, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return granted, translate(err)
}

// GrantedRepositories returns the repositories from which one of the environments may pull something, sorted.
func (db *DB) GrantedRepositories(ctx context.Context, environments []artifact.Environment) ([]artifact.Repository, error) {
	rows, err := db.Pool.Query(ctx, `select distinct repository from grants where environment = any($1) order by repository`, names(environments))
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Repository])
	return all, translate(err)
}

// Recalled returns who recalled a digest, and why; ok is false when nobody did.
func (db *DB) Recalled(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (actor, reason string, ok bool, err error) {
	rows, err := db.Pool.Query(ctx, `select actor, reason || case when advisory = '' then '' else ', see ' || advisory end from recalls where repository = $1 and digest = $2`, repository, digest)
	if err != nil {
		return "", "", false, translate(err)
	}
	_, err = pgx.ForEachRow(rows, []any{&actor, &reason}, func() error { ok = true; return nil })
	return actor, reason, ok, translate(err)
}

func names[T fmt.Stringer](all []T) []string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = v.String()
	}
	return texts
}
