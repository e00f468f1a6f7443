package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// setTag makes a tag stand at a manifest. An immutable one stays where it is, and a cosign tag keeps what it held.
func setTag(ctx context.Context, tx pgx.Tx, p artifact.Push, tag artifact.Tag, mutable bool) (changed bool, err error) {
	var old artifact.Digest
	err = tx.QueryRow(ctx, `select digest from tags where repository = $1 and name = $2 for update`, p.Repository, tag).Scan(&old)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return false, err
	}
	switch {
	case old == p.Digest:
		return false, nil
	case !old.IsZero() && !mutable:
		return false, artifact.Coded(artifact.Denied, "DENIED", "tag %s of %s is %s and stays so: tags are immutable; push another tag, or have an admin add a pattern to mutableTags, in the configuration or in the document that is for the repository", tag, p.Repository, old)
	case old.IsZero() && !mutable:
		if err := unburnt(ctx, tx, p, tag); err != nil {
			return false, err
		}
	case !old.IsZero() && tag.IsCosign():
		if err := keepsLayers(ctx, tx, p, tag, old); err != nil {
			return false, err
		}
	}
	sql := `with moved as (insert into tags (repository, name, digest, updated_by) values ($1, $2, $3, $4))
		insert into tag_history (repository, name, digest, actor) values ($1, $2, $3, $4)`
	if !old.IsZero() {
		sql = `with moved as (update tags set digest = $3, updated_by = $4, updated_at = now() where repository = $1 and name = $2)
			insert into tag_history (repository, name, digest, actor) values ($1, $2, $3, $4)`
	}
	if _, err := tx.Exec(ctx, sql, p.Repository, tag, p.Digest, p.PushedBy); err != nil {
		if isUniqueViolation(err) { // another push set it first
			return false, artifact.Coded(artifact.Conflict, "DENIED", "tag %s of %s was set by another push at this moment; push again", tag, p.Repository)
		}
		return false, err
	}
	return true, nil
}

// unburnt refuses a tag that once stood at another digest: deleting an immutable tag does not make it mean something else.
func unburnt(ctx context.Context, tx pgx.Tx, p artifact.Push, tag artifact.Tag) error {
	var was artifact.Digest
	err := tx.QueryRow(ctx, `select digest from tag_history where repository = $1 and name = $2 and digest <> $3 order by id desc limit 1`, p.Repository, tag, p.Digest).Scan(&was)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = artifact.Coded(artifact.Denied, "DENIED", "tag %s of %s was %s until it was deleted, and tags are immutable; push another tag, or have an admin add a pattern to mutableTags, in the configuration or in the document that is for the repository", tag, p.Repository, was)
	}
	return err
}

// keepsLayers refuses an overwrite that would drop a signature or an attestation. The registry adds what a push lacks
// (registry.putAttached); what another push added since, it adds when it tries again.
func keepsLayers(ctx context.Context, tx pgx.Tx, p artifact.Push, tag artifact.Tag, old artifact.Digest) error {
	var mediaType string
	var body []byte
	if err := tx.QueryRow(ctx, `select media_type, body from manifests where repository = $1 and digest = $2`, p.Repository, old).Scan(&mediaType, &body); err != nil {
		return err
	}
	held, err := artifact.ParseManifest(mediaType, body)
	if err != nil {
		return err
	}
	if dropped := len(artifact.Without(p.Manifest.Lacks(held), p.Drops)); dropped > 0 {
		return artifact.Coded(artifact.Conflict, "DENIED", "this would drop %d of the signatures or attestations that %s holds; pull it, add to it and push again", dropped, tag)
	}
	return nil
}

// ResolveTag returns the digest of a tag, or of an environment of that name.
func (db *DB) ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error) {
	return recallOr(db.hot, repository, func(s *shelf) map[artifact.Tag]artifact.Digest { return s.tags }, tag, nothing,
		func() (artifact.Digest, error) { return db.readTag(ctx, repository, tag) })
}

func (db *DB) readTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error) {
	var digest artifact.Digest
	err := db.Pool.QueryRow(ctx, `select digest from (
		select 0 as rank, digest from deployments where repository = $1 and environment = $2
		union all select 1, digest from tags where repository = $1 and name = $2) found order by rank limit 1`, repository, tag).Scan(&digest)
	return digest, orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no tag %s", repository, tag))
}

// Tags returns the tags of a repository, environments' names among them, sorted by their bytes.
func (db *DB) Tags(ctx context.Context, repository artifact.Repository) ([]struct {
	Name   artifact.Tag
	Digest artifact.Digest
}, error) {
	rows, err := db.Pool.Query(ctx, `select name, digest from (
		select name, digest from tags where repository = $1
		union select environment, digest from deployments where repository = $1) all_tags order by name collate "C"`, repository)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}])
	if err == nil && len(all) == 0 {
		var exists bool
		if err = db.Pool.QueryRow(ctx, `select exists (select from repositories where name = $1)`, repository).Scan(&exists); err == nil && !exists {
			err = artifact.Coded(artifact.NotFound, "NAME_UNKNOWN", "there is no repository %s", repository)
		}
	}
	return all, translate(err)
}

// TagPage returns the tags of a repository whose names hold words, environments' names among them and cosign's not, sorted
// by their bytes: at most n behind the first ones, and how many there are in all.
func (db *DB) TagPage(ctx context.Context, repository artifact.Repository, words string, behind, n int) (page []artifact.TagAt, all int, err error) {
	rows, err := db.Pool.Query(ctx, `select name, digest, count(*) over () from (
		select name, digest from tags where repository = $1 and not starts_with(name, 'sha256-')
		union select environment, digest from deployments where repository = $1) all_tags where strpos(lower(name), lower($2)) > 0 order by name collate "C" offset $3 limit $4`, repository, words, behind, n)
	if err != nil {
		return nil, 0, translate(err)
	}
	page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t artifact.TagAt, err error) {
		return t, row.Scan(&t.Name, &t.Digest, &all)
	})
	return page, all, translate(err)
}

// TagsOf returns the tags that stand at a digest, sorted.
func (db *DB) TagsOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Tag, error) {
	rows, err := db.Pool.Query(ctx, `select name from tags where repository = $1 and digest = $2 order by name`, repository, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Tag])
	return all, translate(err)
}

// DeleteTag deletes a tag; what it stood at stays.
func (db *DB) DeleteTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag, actor string) error {
	defer db.hot.forget(repository)
	return db.Transact(ctx, func(tx pgx.Tx) error {
		entry, err := deleteTag(ctx, tx, repository, tag, actor)
		if err != nil {
			return err
		}
		if subject, ok := attestedAt(tag); ok {
			if err := db.tellAttached(ctx, tx, repository, []string{subject}); err != nil {
				return err
			}
		}
		_, err = appendLedger(ctx, tx, entry)
		return err
	})
}

// deleteTag returns the ledger entry that its caller appends, once all else of the transaction is done.
func deleteTag(ctx context.Context, tx pgx.Tx, repository artifact.Repository, tag artifact.Tag, actor string) (ledger.Entry, error) {
	entry := ledger.Entry{Kind: "tag.deleted", Actor: actor, Repository: repository, Version: tag.String()}
	err := tx.QueryRow(ctx, `delete from tags where repository = $1 and name = $2 returning digest`, repository, tag).Scan(&entry.Digest)
	if err != nil {
		return entry, orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no tag %s", repository, tag))
	}
	_, err = tx.Exec(ctx, `insert into tag_history (repository, name, actor) values ($1, $2, $3)`, repository, tag, actor)
	return entry, err
}

// maxHistory is how many changes of one tag are shown, the last ones.
const maxHistory = 1000

// TagHistory returns what a tag stood at, the oldest first.
func (db *DB) TagHistory(ctx context.Context, repository artifact.Repository, tag artifact.Tag) ([]artifact.TagChange, error) {
	rows, err := db.Pool.Query(ctx, `select digest, actor, at from (select id, digest, actor, at from tag_history where repository = $1 and name = $2 order by id desc limit $3) last
		order by id`, repository, tag, maxHistory)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.TagChange])
	return all, translate(err)
}
