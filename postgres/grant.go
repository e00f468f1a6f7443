package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// closure is every manifest and blob that belongs to a digest $2 of repository $1: itself, an index's children, what
// refers to any of them by subject or by cosign's tags, and all their configs and layers.
const closure = `
with recursive manifest_closure (digest) as (
    select $2::text
    union
    select found.digest from manifest_closure c cross join lateral (
        select r.digest from manifest_references r where r.repository = $1 and r.manifest = c.digest and r.kind = 'manifest'
        union all
        select m.digest from manifests m where m.repository = $1 and m.subject = c.digest
        union all
        select t.digest from tags t where t.repository = $1 and t.name in
            (replace(c.digest, ':', '-') || '.sig', replace(c.digest, ':', '-') || '.att', replace(c.digest, ':', '-') || '.sbom')
    ) found
), closure (digest) as (
    select digest from manifest_closure
    union
    select r.digest from manifest_closure c join manifest_references r on r.repository = $1 and r.manifest = c.digest
)`

// lockGrants: a promotion and the arrival of a referrer must see each other, or the referrer is left out.
func lockGrants(ctx context.Context, tx pgx.Tx, repository artifact.Repository) error {
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('grants/' || $1, 0))`, repository)
	return err
}

// grant lets an environment pull a digest and all that belongs to it.
func grant(ctx context.Context, tx pgx.Tx, repository artifact.Repository, root artifact.Digest, environment artifact.Environment) error {
	if err := lockGrants(ctx, tx, repository); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, closure+` insert into grants (environment, repository, digest, root) select $3, $1, digest, $2 from closure on conflict do nothing`,
		repository, root, environment)
	return err
}

// extendGrants lets what has just arrived be pulled with its subject, or with the digest that its cosign tag names,
// wherever that may be.
func extendGrants(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	var named []string
	for _, tag := range p.Tags {
		if isCosignTag(tag) {
			name, _, _ := strings.Cut(tag.String(), ".")
			named = append(named, strings.Replace(name, "-", ":", 1))
		}
	}
	if p.Manifest.Subject == nil && len(named) == 0 {
		return nil
	}
	if err := lockGrants(ctx, tx, p.Repository); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, closure+`, subjects (digest) as (
		select subject from manifests where repository = $1 and digest = $2 and subject is not null
		union select unnest($3::text[]))
		insert into grants (environment, repository, digest, root)
		select g.environment, $1, c.digest, g.root from grants g join subjects s on g.digest = s.digest cross join closure c where g.repository = $1
		on conflict do nothing`, p.Repository, p.Digest, named)
	return err
}

// Granted is the gate's one indexed read: whether one of the environments may pull a manifest or blob.
func (db *DB) Granted(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digest artifact.Digest) (granted bool, err error) {
	err = db.Pool.QueryRow(ctx, `select exists (select from grants where environment = any($1) and repository = $2 and digest = $3)`,
		names(environments), repository, digest).Scan(&granted)
	return granted, translate(err)
}

// GrantedOf returns which of the digests one of the environments may pull.
func (db *DB) GrantedOf(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digests []artifact.Digest) ([]artifact.Digest, error) {
	texts := make([]string, len(digests))
	for i, d := range digests {
		texts[i] = d.String()
	}
	rows, err := db.Pool.Query(ctx, `select distinct digest from grants where environment = any($1) and repository = $2 and digest = any($3)`, names(environments), repository, texts)
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
	rows, err := db.Pool.Query(ctx, `select actor, reason from recalls where repository = $1 and digest = $2`, repository, digest)
	if err != nil {
		return "", "", false, translate(err)
	}
	_, err = pgx.ForEachRow(rows, []any{&actor, &reason}, func() error { ok = true; return nil })
	return actor, reason, ok, translate(err)
}

func names(environments []artifact.Environment) []string {
	all := make([]string, len(environments))
	for i, e := range environments {
		all[i] = e.String()
	}
	return all
}
