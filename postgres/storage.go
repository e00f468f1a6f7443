package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/storage"
)

// StorageDocuments returns the documents of kind Repositories in force, by name.
func (db *DB) StorageDocuments(ctx context.Context) ([]storage.Versioned, error) {
	return inForce(db, storage.Kind, func() ([]storage.Versioned, error) { return db.readStorageDocuments(ctx) })
}

func (db *DB) readStorageDocuments(ctx context.Context) ([]storage.Versioned, error) {
	rows, err := db.CurrentDocuments(ctx, storage.Kind)
	if err != nil {
		return nil, err
	}
	var all []storage.Versioned
	for _, row := range rows {
		parsed, err := storage.Parse(row.Name, []byte(row.Body))
		if err != nil || len(parsed) != 1 {
			return nil, fmt.Errorf("document %s@%d in the database: %w", row.Name, row.Version, err)
		}
		all = append(all, storage.Versioned{Document: parsed[0], Version: row.Version})
	}
	return all, nil
}

// RepositoryBytes is the size of a repository's blobs, and of what its uploads have brought. What is in quarantine does not count, so
// that there is room for the push that repairs it.
func (db *DB) RepositoryBytes(ctx context.Context, repository artifact.Repository) (n int64, err error) {
	err = db.Pool.QueryRow(ctx, `select ((select coalesce(sum(size), 0) from repository_blobs join blobs using (digest) where repository = $1 and quarantined_at is null)
		+ (select coalesce(sum(offset_), 0) from uploads where repository = $1))::bigint`, repository).Scan(&n)
	return n, translate(err)
}

// StoreBytes is the size of all blobs but those in quarantine, each once, and of what all uploads have brought.
func (db *DB) StoreBytes(ctx context.Context) (n int64, err error) {
	err = db.Pool.QueryRow(ctx, `select ((select coalesce(sum(size), 0) from blobs where quarantined_at is null) + (select coalesce(sum(offset_), 0) from uploads))::bigint`).Scan(&n)
	return n, translate(err)
}

// Holdings returns what a repository holds, as it is at one instant.
func (db *DB) Holdings(ctx context.Context, repository artifact.Repository) (h storage.Holdings, err error) {
	err = db.snapshot(ctx, func(tx pgx.Tx) error {
		h = storage.Holdings{Repository: repository}
		if err := tx.QueryRow(ctx, `select now()`).Scan(&h.At); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select name, digest, updated_at from tags where repository = $1 order by name`, repository)
		if err != nil {
			return err
		}
		if h.Tags, err = pgx.CollectRows(rows, pgx.RowToStructByPos[storage.Tag]); err != nil {
			return err
		}
		h.Manifests, err = heldManifests(ctx, tx, repository)
		return err
	})
	return h, err
}

func heldManifests(ctx context.Context, tx pgx.Tx, repository artifact.Repository) ([]storage.Manifest, error) {
	rows, err := tx.Query(ctx, `
		with promoted as (
			select digest, array_agg(distinct environment order by environment) as environments from (
				select digest, environment from grants where repository = $1
				union select digest, environment from deployments where repository = $1) p group by digest
		), children as (
			select manifest, array_agg(digest order by position) as digests from manifest_references where repository = $1 and kind = 'manifest' group by manifest
		), named as (
			select manifest, sum(size)::bigint as bytes from (select distinct manifest, digest from manifest_references where repository = $1 and kind <> 'manifest') r
			join blobs using (digest) group by manifest
		)
		select m.digest, m.subject, children.digests, m.is_image, length(m.body) + coalesce(named.bytes, 0), m.pushed_at, pulls.last_pulled_at, promoted.environments
		from manifests m left join promoted on promoted.digest = m.digest left join children on children.manifest = m.digest left join named on named.manifest = m.digest
		left join pulls on pulls.repository = $1 and pulls.digest = m.digest where m.repository = $1 order by m.digest`, repository)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m storage.Manifest, err error) {
		var pulled *time.Time
		err = row.Scan(&m.Digest, &m.Subject, &m.Children, &m.IsImage, &m.Bytes, &m.PushedAt, &pulled, &m.Promoted)
		if pulled != nil {
			m.PulledAt = *pulled
		}
		return m, err
	})
}

// FreedBytes is the size of the blobs that only these of a repository's manifests name.
func (db *DB) FreedBytes(ctx context.Context, repository artifact.Repository, manifests []artifact.Digest) (n int64, err error) {
	err = db.Pool.QueryRow(ctx, `select coalesce(sum(size), 0)::bigint from blobs where digest in (
		select digest from manifest_references where repository = $1 and kind <> 'manifest' and manifest = any($2)
		except select digest from manifest_references where repository = $1 and kind <> 'manifest' and manifest <> all($2))`, repository, texts(manifests)).Scan(&n)
	return n, translate(err)
}

// Retire removes a unit of a retention plan as a user's deletes would, in one transaction. Whatever has come to need a
// part of it since the holdings were read is a Conflict or a Denied error, and then all of it stays.
func (db *DB) Retire(ctx context.Context, repository artifact.Repository, u storage.Unit, asOf time.Time, actor, reason string) error {
	defer db.hot.forget(repository)
	return db.Transact(ctx, func(tx pgx.Tx) error {
		// A promotion, and a referrer to what is promoted, come before or after.
		if err := lockGrants(ctx, tx, repository); err != nil {
			return err
		}
		if err := unneeded(ctx, tx, repository, u, asOf); err != nil {
			return err
		}
		var entries []ledger.Entry
		for _, m := range u.Manifests {
			if err := db.detached(ctx, tx, repository, m.Digest); err != nil {
				return err
			}
			entry, err := deleteManifest(ctx, tx, repository, m.Digest, actor)
			if err != nil {
				return err
			}
			entries = append(entries, entry)
		}
		if len(u.Manifests) == 0 {
			for _, tag := range u.Tags {
				entry, err := deleteTag(ctx, tx, repository, tag.Name, actor)
				if err != nil {
					return err
				}
				entries = append(entries, entry)
			}
		}
		for _, entry := range entries {
			entry.Reason = reason
			if _, err := appendLedger(ctx, tx, entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// unneeded locks the unit's rows, in the order in which pushes do, and compares them with what the plan was made of.
func unneeded(ctx context.Context, tx pgx.Tx, repository artifact.Repository, u storage.Unit, asOf time.Time) error {
	changed := artifact.Errorf(artifact.Conflict, "it changed while retention ran; the next run looks at it again")
	var digests, attached []string
	for _, m := range u.Manifests {
		digests = append(digests, m.Digest.String())
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			attached = append(attached, strings.Replace(m.Digest.String(), ":", "-", 1)+suffix)
		}
	}
	var names []string
	for _, tag := range u.Tags {
		names = append(names, tag.Name.String())
	}
	locked, err := tx.Exec(ctx, `select from manifests where repository = $1 and digest = any($2) order by digest for update`, repository, digests)
	if err != nil || int(locked.RowsAffected()) != len(digests) {
		return orChanged(err, changed)
	}
	rows, err := tx.Query(ctx, `select name, digest, updated_at from tags where repository = $1 and (digest = any($2) or name = any($3)) order by name for update`, repository, digests, names)
	if err != nil {
		return err
	}
	tags, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storage.Tag])
	if err != nil {
		return err
	}
	same := func(a storage.Tag) bool {
		return slices.ContainsFunc(u.Tags, func(b storage.Tag) bool { return a.Name == b.Name && a.Digest == b.Digest && a.SetAt.Equal(b.SetAt) })
	}
	if len(tags) != len(u.Tags) || slices.ContainsFunc(tags, func(t storage.Tag) bool { return !same(t) }) {
		return changed
	}
	var needed bool
	err = tx.QueryRow(ctx, `select exists (select from manifests where repository = $1 and subject = any($2) and digest <> all($4))
		or exists (select from tags where repository = $1 and name = any($3) and digest <> all($4))
		or exists (select from pulls where repository = $1 and digest = any($2) and last_pulled_at > $5)
		or exists (select from grants g join tags t on t.repository = g.repository and t.digest = g.digest where g.repository = $1 and t.name = any($6) and t.name not like 'sha256-%')`,
		repository, digests, attached, append(slices.Clone(digests), texts(u.Referrers)...), asOf, names).Scan(&needed)
	if err != nil || needed {
		return orChanged(err, changed)
	}
	return nil
}

func orChanged(err error, changed *artifact.Error) error {
	if err != nil {
		return err
	}
	return changed
}

// texts returns digests as an array for a query; never NULL.
func texts(digests []artifact.Digest) []string {
	all := make([]string, len(digests))
	for i, d := range digests {
		all[i] = d.String()
	}
	return all
}
