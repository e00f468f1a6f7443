package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// ReferrersLike returns what refers to a digest and has an artifact type that begins with one of the given ones, oldest
// first, at most n.
func (db *DB) ReferrersLike(ctx context.Context, repository artifact.Repository, subject artifact.Digest, types []string, n int) ([]artifact.Descriptor, error) {
	rows, err := db.Pool.Query(ctx, `select media_type, digest, length(body), artifact_type, annotations from manifests
		where repository = $1 and subject = $2 and exists (select from unnest($3::text[]) t where starts_with(artifact_type, t)) order by pushed_at, digest limit $4`, repository, subject, types, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d artifact.Descriptor, err error) {
		err = row.Scan(&d.MediaType, &d.Digest, &d.Size, &d.ArtifactType, &d.Annotations)
		return d, err
	})
	return all, translate(err)
}

// above and below are the indexes that lead to a manifest, and what it leads to itself; it is in both.
const (
	above = `above (digest) as (select $2::text union
		select r.manifest from above a join manifest_references r on r.repository = $1 and r.digest = a.digest and r.kind = 'manifest')`
	below = `below (digest) as (select $2::text union
		select r.digest from below b join manifest_references r on r.repository = $1 and r.manifest = b.digest and r.kind = 'manifest')`
)

// Holders returns the indexes that lead to a manifest, newest first, at most n.
func (db *DB) Holders(ctx context.Context, repository artifact.Repository, manifest artifact.Digest, n int) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `with recursive `+above+` select m.digest from above join manifests m on m.repository = $1 and m.digest = above.digest
		where m.is_index and m.digest <> $2 order by m.pushed_at desc, m.digest limit $3`, repository, manifest, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}

// Related returns an image or index with what holds it and what it holds: whose verdicts a signature on it may change.
// What is held comes before what holds it; there are at most n.
func (db *DB) Related(ctx context.Context, ref artifact.Reference, n int) ([]artifact.StoredManifest, error) {
	rows, err := db.Pool.Query(ctx, `with recursive `+above+`, `+below+` select repository, digest, media_type, body, is_image, platform, pushed_by, pushed_at from manifests
		where repository = $1 and digest in (select digest from above union select digest from below) and (is_image or is_index) order by is_index, digest limit $3`, ref.Repository, ref.Digest, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, storedManifest)
	return all, translate(err)
}

// Unsigned returns those of the images and indexes that Waybill has not signed.
func (db *DB) Unsigned(ctx context.Context, all []artifact.Reference) ([]artifact.Reference, error) {
	var repositories, digests []string
	for _, ref := range all {
		repositories, digests = append(repositories, ref.Repository.String()), append(digests, ref.Digest.String())
	}
	rows, err := db.Pool.Query(ctx, `select n.repository, n.digest from unnest($1::text[], $2::text[]) as n (repository, digest)
		where not exists (select from signatures s where s.repository = n.repository and s.digest = n.digest and s.predicate = '' and s.signed_at is not null)`, repositories, digests)
	if err != nil {
		return nil, translate(err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ref artifact.Reference, err error) {
		err = row.Scan(&ref.Repository, &ref.Digest)
		return ref, err
	})
	return found, translate(err)
}

// attached tells of what a push speaks for: a subject, or what cosign attests at its tag. Of what Waybill attaches itself, which
// it takes into account where it does so, and of signatures it tells where somebody's signature is waited for.
func (db *DB) attached(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	about := subjectsOf(p)
	if len(about) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `select v.digest from unnest($2::text[]) about (digest), lateral (select digest from verdicts
		where repository = $1 and digest = about.digest and reasons @> '[{"signature": true}]' limit 1) v`, p.Repository, about)
	if err != nil {
		return err
	}
	subjects, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if p.PushedBy != artifact.System.Name {
		for _, tag := range p.Tags {
			if subject, ok := attestedAt(tag); ok {
				subjects = append(subjects, subject)
			}
		}
		if p.Manifest.Subject != nil {
			subjects = append(subjects, p.Manifest.Subject.Digest.String())
		}
	}
	return db.tellAttached(ctx, tx, p.Repository, subjects)
}

// detached tells, before a manifest is deleted, of what it speaks for.
func (db *DB) detached(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error {
	rows, err := tx.Query(ctx, `select subject from manifests where repository = $1 and digest = $2 and subject is not null
		union all select name from tags where repository = $1 and digest = $2 and name like 'sha%.att'`, repository, digest)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for i, name := range found {
		if tag, err := artifact.ParseTag(name); err == nil {
			found[i], _ = attestedAt(tag)
		}
	}
	return db.tellAttached(ctx, tx, repository, found)
}

// attachable refuses what the service attaches to a manifest that was deleted meanwhile. The caller holds lockGrants, as
// whoever deletes one does.
func attachable(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	for _, subject := range subjectsOf(p) {
		var there bool
		if err := tx.QueryRow(ctx, `select exists (select from manifests where repository = $1 and digest = $2)`, p.Repository, subject).Scan(&there); err != nil {
			return err
		}
		if !there {
			return artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s any more to attach anything to", p.Repository, subject)
		}
	}
	return nil
}

// ownAttachments returns what the service, and nobody else, attached to a digest: referrers, and what cosign's tags of it hold where
// only the service ever wrote there. What somebody tagged, promoted, put into an index or referred to is theirs by now.
func ownAttachments(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) ([]artifact.Digest, error) {
	tag := strings.Replace(digest.String(), ":", "-", 1)
	rows, err := tx.Query(ctx, `select m.digest from (
			select digest from manifests where repository = $1 and subject = $2
			union select digest from tags t where repository = $1 and name = any($4)
				and not exists (select from tag_history h where h.repository = $1 and h.name = t.name and h.digest is not null and h.actor <> $3)) found
		join manifests m on m.repository = $1 and m.digest = found.digest and m.pushed_by = $3 and not m.is_image
		where not exists (select from tags t where t.repository = $1 and t.digest = m.digest and t.name <> all($4))
			and not exists (select from grants g where g.repository = $1 and g.digest = m.digest)
			and not exists (select from manifest_references r where r.repository = $1 and r.digest = m.digest and r.kind = 'manifest')
			and not exists (select from manifests other where other.repository = $1 and other.subject = m.digest)
		order by m.digest`, repository, digest, artifact.System.Name, []string{tag + ".sig", tag + ".att", tag + ".sbom"})
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
}

func (db *DB) tellAttached(ctx context.Context, tx pgx.Tx, repository artifact.Repository, subjects []string) error {
	if db.OnAttached == nil {
		return nil
	}
	slices.Sort(subjects)
	for _, subject := range slices.Compact(subjects) {
		digest, err := artifact.ParseDigest(subject)
		if err != nil {
			continue
		}
		if err := db.OnAttached(ctx, tx, artifact.Reference{Repository: repository, Digest: digest}); err != nil {
			return err
		}
	}
	return nil
}

// attestedAt returns the digest whose attestations cosign keeps at a tag.
func attestedAt(tag artifact.Tag) (digest string, ok bool) {
	name, ok := strings.CutSuffix(tag.String(), ".att")
	return strings.Replace(name, "-", ":", 1), ok && tag.IsCosign()
}
