package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"waybill/artifact"
	"waybill/ledger"
)

// Manifest returns a manifest of a repository, or NotFound.
func (db *DB) Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error) {
	return recallOr(db.hot, repository, func(s *shelf) map[artifact.Digest]artifact.StoredManifest { return s.manifests }, digest,
		func(m artifact.StoredManifest) int { return 2 * len(m.Body) }, // and as much again, parsed
		func() (artifact.StoredManifest, error) { return db.readManifest(ctx, repository, digest) })
}

func (db *DB) readManifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error) {
	s := artifact.StoredManifest{Repository: repository, Digest: digest}
	var mediaType string
	err := db.Pool.QueryRow(ctx, `select media_type, body, is_image, platform, pushed_by, pushed_at from manifests where repository = $1 and digest = $2`,
		repository, digest).Scan(&mediaType, &s.Body, &s.IsImage, &s.Platform, &s.PushedBy, &s.PushedAt)
	if err != nil {
		return s, orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repository, digest))
	}
	s.Manifest, err = artifact.ParseManifest(mediaType, s.Body)
	return s, err
}

// Missing returns which descriptors the repository does not have, with what is wrong of those whose size differs. Of what is
// remembered PutManifest makes sure.
func (db *DB) Missing(ctx context.Context, repository artifact.Repository, blobs, manifests []artifact.Descriptor) ([]string, error) {
	blobs = slices.DeleteFunc(slices.Clone(blobs), func(d artifact.Descriptor) bool { return db.hasBlob(repository, d) })
	missing, err := db.missing(ctx, `select size from repository_blobs join blobs using (digest) where repository = $1 and digest = $2 and quarantined_at is null`, repository, blobs)
	if err != nil {
		return nil, err
	}
	more, err := db.missing(ctx, `select length(body) from manifests where repository = $1 and digest = $2`, repository, manifests)
	return append(missing, more...), err
}

func (db *DB) missing(ctx context.Context, sql string, repository artifact.Repository, all []artifact.Descriptor) ([]string, error) {
	batch := &pgx.Batch{}
	var missing []string
	for _, d := range all {
		batch.Queue(sql, repository, d.Digest).QueryRow(func(row pgx.Row) error {
			var size int64
			err := row.Scan(&size)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				missing = append(missing, d.Digest.String())
			case err != nil:
				return err
			case size != d.Size:
				missing = append(missing, fmt.Sprintf("%s of %d bytes (the one here has %d)", d.Digest, d.Size, size))
			}
			return nil
		})
	}
	if batch.Len() == 0 {
		return nil, nil
	}
	return missing, translate(db.Pool.SendBatch(ctx, batch).Close())
}

// PutManifest stores a judged manifest: rows, tags and their history, verdict, grants, ledger entry and jobs, in one
// transaction. A crash leaves all of it or nothing. Pushing again what is there sets its tags.
func (db *DB) PutManifest(ctx context.Context, p artifact.Push, mutable func(artifact.Tag) bool) error {
	defer db.hot.forgetTags(p.Repository)
	return db.Transact(ctx, func(tx pgx.Tx) error {
		// Before any row: whoever removes manifests takes this lock first too.
		if len(subjectsOf(p)) > 0 {
			if err := lockGrants(ctx, tx, p.Repository); err != nil {
				return err
			}
		}
		if p.Attached {
			if err := attachable(ctx, tx, p); err != nil {
				return err
			}
		}
		scanned, err := db.scannedBefore(ctx, tx, p.Scan)
		if err != nil {
			return err
		}
		created, err := insertManifest(ctx, tx, p)
		if err != nil {
			return err
		}
		if err := db.tellScanned(ctx, tx, scanned); err != nil {
			return err
		}
		moved := false
		for _, tag := range p.Tags {
			changed, err := setTag(ctx, tx, p, tag, mutable(tag))
			if err != nil {
				return err
			}
			moved = moved || changed
		}
		if !created && !moved {
			return nil
		}
		if err := db.extendGrants(ctx, tx, p); err != nil {
			return err
		}
		if err := db.announce(ctx, tx, p, created); err != nil {
			return err
		}
		if err := db.attached(ctx, tx, p); err != nil {
			return err
		}
		return db.useWaivers(ctx, tx, p.Verdict.Waivers, p.PushedBy, ledger.Entry{Actor: p.PushedBy, Repository: p.Repository, Digest: p.Digest, PolicyHash: p.Verdict.PolicyHash, Reason: "push"})
	})
}

// announce records and sets off what follows a push of an image or an index. What refers to one, and what Waybill
// attaches itself, is recorded where it was decided.
func (db *DB) announce(ctx context.Context, tx pgx.Tx, p artifact.Push, created bool) error {
	if !p.IsImage && !p.Manifest.IsIndex() {
		return nil
	}
	if created && db.OnAccepted != nil {
		if err := db.OnAccepted(ctx, tx, artifact.Event{Kind: artifact.Accepted, Repository: p.Repository, Digest: p.Digest,
			ScanFailed: p.Scan != nil && p.Scan.State == artifact.ScanFailed}); err != nil {
			return err
		}
	}
	_, err := appendLedger(ctx, tx, ledger.Entry{Kind: "push.accepted", Actor: p.PushedBy, Repository: p.Repository, Digest: p.Digest,
		Version: p.Reference, PolicyHash: p.Verdict.PolicyHash})
	return err
}

// insertManifest stores the rows of a manifest, its verdict and its scan, in one exchange with the database.
func insertManifest(ctx context.Context, tx pgx.Tx, p artifact.Push) (created bool, err error) {
	var config, subject artifact.Digest
	if p.Manifest.Config != nil {
		config = p.Manifest.Config.Digest
	}
	if p.Manifest.Subject != nil {
		subject = p.Manifest.Subject.Digest
	}
	annotations := p.Manifest.Annotations
	if annotations == nil {
		annotations = map[string]string{}
	}
	var digests, kinds []string
	add := func(kind string, all ...artifact.Descriptor) {
		for _, d := range all {
			digests, kinds = append(digests, d.Digest.String()), append(kinds, kind)
		}
	}
	if p.Manifest.Config != nil {
		add("config", *p.Manifest.Config)
	}
	add("layer", p.Manifest.Layers...)
	add("manifest", p.Manifest.Manifests...)
	blobs, children := unique(p.Manifest.Blobs()), unique(p.Manifest.Manifests)
	locked := 0
	hold := func(tag pgconn.CommandTag) error { locked += int(tag.RowsAffected()); return nil }
	batch := &pgx.Batch{}
	if len(blobs)+len(children) == 0 { // what has blobs or manifests is there
		batch.Queue(`insert into repositories (name) values ($1) on conflict do nothing`, p.Repository)
	}
	batch.Queue(`insert into manifests (repository, digest, media_type, artifact_type, is_image, is_index, config, subject, platform, annotations, body, pushed_by, follows)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict do nothing`,
		p.Repository, p.Digest, p.Manifest.MediaType, p.Manifest.ArtifactType, p.IsImage, p.Manifest.IsIndex(), config, subject, p.Platform, annotations, p.Body, p.PushedBy, p.Manifest.Follows()).
		Exec(func(tag pgconn.CommandTag) error { created = tag.RowsAffected() == 1; return nil })
	// Between the check and here a blob or a child may have been deleted: then the push must not be. They are locked in order, one
	// by one: of a list the planner would read all that the repository has, while it does not know yet how much that is.
	if len(blobs) > 0 {
		batch.Queue(`select from unnest($2::text[]) named (digest), lateral (select from repository_blobs b where b.repository = $1 and b.digest = named.digest for share) held`, p.Repository, blobs).Exec(hold)
	}
	if len(children) > 0 {
		batch.Queue(`select from unnest($2::text[]) named (digest), lateral (select from manifests m where m.repository = $1 and m.digest = named.digest for share) held`, p.Repository, children).Exec(hold)
	}
	batch.Queue(`insert into manifest_references (repository, manifest, position, digest, kind)
		select $1, $2, n - 1, digest, kind from unnest($3::text[], $4::text[]) with ordinality as r (digest, kind, n) on conflict do nothing`, p.Repository, p.Digest, digests, kinds)
	queueVerdict(batch, p.Verdict, p.Reference, p.PushedBy)
	var findings []artifact.Finding
	if p.Scan != nil {
		if findings, err = queueScan(batch, *p.Scan); err != nil {
			return false, err
		}
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return false, err
	}
	if created && locked != len(blobs)+len(children) {
		return false, artifact.Coded(artifact.NotFound, "MANIFEST_BLOB_UNKNOWN", "what the manifest names was deleted from %s meanwhile; push it again", p.Repository)
	}
	return created, saveFindings(ctx, tx, p.Digest, findings)
}

// unique returns the digests that descriptors name, each once, in order.
func unique(all []artifact.Descriptor) []string {
	digests := make([]string, len(all))
	for i, d := range all {
		digests[i] = d.Digest.String()
	}
	slices.Sort(digests)
	return slices.Compact(digests)
}

// DeleteManifest removes a manifest with its tags, and what the service attached to it; Denied while it is promoted somewhere
// or part of an index.
func (db *DB) DeleteManifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor string) error {
	defer db.hot.forget(repository)
	return db.Transact(ctx, func(tx pgx.Tx) error {
		// What the service is about to attach comes before, and goes too, or finds its subject gone (attachable).
		if err := lockGrants(ctx, tx, repository); err != nil {
			return err
		}
		if err := db.detached(ctx, tx, repository, digest); err != nil {
			return err
		}
		own, err := ownAttachments(ctx, tx, repository, digest)
		if err != nil {
			return err
		}
		entry, err := deleteManifest(ctx, tx, repository, digest, actor)
		if err != nil {
			return err
		}
		if _, err := appendLedger(ctx, tx, entry); err != nil {
			return err
		}
		for _, d := range own {
			entry, err := deleteManifest(ctx, tx, repository, d, actor)
			if err != nil {
				return err
			}
			entry.Reason = "it was attached to " + digest.String() + ", which is deleted"
			if _, err := appendLedger(ctx, tx, entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// deleteManifest returns the ledger entry that its caller appends, once all else of the transaction is done.
func deleteManifest(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest, actor string) (ledger.Entry, error) {
	entry := ledger.Entry{Kind: "manifest.deleted", Actor: actor, Repository: repository, Digest: digest}
	// A push of an index that names it holds this row, or comes after and finds it gone.
	if _, err := tx.Exec(ctx, `select from manifests where repository = $1 and digest = $2 for update`, repository, digest); err != nil {
		return entry, err
	}
	var granted, child bool
	if err := tx.QueryRow(ctx, `select exists (select from grants where repository = $1 and digest = $2),
		exists (select from manifest_references where repository = $1 and digest = $2 and kind = 'manifest')`, repository, digest).Scan(&granted, &child); err != nil {
		return entry, err
	}
	if granted {
		return entry, artifact.Coded(artifact.Denied, "DENIED", "%s@%s is promoted, or belongs to what is; recall that first", repository, digest)
	}
	if child {
		return entry, artifact.Coded(artifact.Denied, "DENIED", "%s@%s is part of an index; delete the index first", repository, digest)
	}
	if _, err := tx.Exec(ctx, `insert into tag_history (repository, name, actor) select repository, name, $3 from tags where repository = $1 and digest = $2`, repository, digest, actor); err != nil {
		return entry, err
	}
	// What only this manifest needed is garbage from now on, not since it was pushed.
	if _, err := tx.Exec(ctx, `with needed as (select repository, digest from repository_blobs where repository = $1
			and digest in (select digest from manifest_references where repository = $1 and manifest = $2) order by digest for no key update)
		update repository_blobs b set linked_at = now() from needed n where b.repository = n.repository and b.digest = n.digest`, repository, digest); err != nil {
		return entry, err
	}
	if _, err := tx.Exec(ctx, `delete from turned_bad where repository = $1 and digest = $2`, repository, digest); err != nil {
		return entry, err
	}
	tag, err := tx.Exec(ctx, `delete from manifests where repository = $1 and digest = $2`, repository, digest)
	if err == nil && tag.RowsAffected() == 0 {
		err = artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repository, digest)
	}
	return entry, err
}

// Referrers returns descriptors of the manifests whose subject a digest is (distribution-spec 1.1, "Listing Referrers"): the
// first thousand that came. Who decides by them passes over what came later.
func (db *DB) Referrers(ctx context.Context, repository artifact.Repository, subject artifact.Digest) ([]artifact.Descriptor, error) {
	rows, err := db.Pool.Query(ctx, `select media_type, digest, length(body), artifact_type, annotations from manifests
		where repository = $1 and subject = $2 order by pushed_at, digest limit 1000`, repository, subject)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d artifact.Descriptor, err error) {
		err = row.Scan(&d.MediaType, &d.Digest, &d.Size, &d.ArtifactType, &d.Annotations)
		return d, err
	})
	return all, translate(err)
}

// Bounds of what is read of referrers, whose annotations anybody who may push writes: in one exchange with the database, and,
// in bytes of annotations, for a page.
const (
	referrersAtOnce = 32
	maxReferrers    = 2 << 20
)

// ReferrersAfter returns them all in pages, sorted by digest, of some artifact types where those are given: those after last, at most n
// and no more than maxReferrers wants, and whether more follow.
func (db *DB) ReferrersAfter(ctx context.Context, repository artifact.Repository, subject artifact.Digest, artifactTypes []string, last string, n int) (page []artifact.Descriptor, more bool, err error) {
	written := 0
	for {
		rows, err := db.Pool.Query(ctx, `select media_type, digest, length(body), artifact_type, annotations from manifests
			where repository = $1 and subject = $2 and digest collate "C" > $3 and (coalesce(cardinality($4::text[]), 0) = 0 or artifact_type = any($4))
			order by digest collate "C" limit $5`, repository, subject, last, artifactTypes, referrersAtOnce)
		if err != nil {
			return nil, false, translate(err)
		}
		some, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d artifact.Descriptor, err error) {
			err = row.Scan(&d.MediaType, &d.Digest, &d.Size, &d.ArtifactType, &d.Annotations)
			return d, err
		})
		if err != nil {
			return nil, false, translate(err)
		}
		for _, d := range some {
			if len(page) == n || written > maxReferrers {
				return page, true, nil
			}
			for name, value := range d.Annotations {
				written += len(name) + len(value)
			}
			page = append(page, d)
		}
		if len(some) < referrersAtOnce {
			return page, false, nil
		}
		last = page[len(page)-1].Digest.String()
	}
}

// Repositories returns the names of all repositories that have a manifest, sorted.
func (db *DB) Repositories(ctx context.Context) ([]artifact.Repository, error) {
	rows, err := db.Pool.Query(ctx, `select name from repositories where exists (select from manifests where repository = name) order by name collate "C"`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Repository])
	return all, translate(err)
}

// RepositoriesAfter returns names of repositories that have a manifest, sorted, after last, at most n.
func (db *DB) RepositoriesAfter(ctx context.Context, last string, n int) ([]artifact.Repository, error) {
	rows, err := db.Pool.Query(ctx, `select name from repositories where name collate "C" > $1 and exists (select from manifests where repository = name)
		order by name collate "C" limit $2`, last, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Repository])
	return all, translate(err)
}
