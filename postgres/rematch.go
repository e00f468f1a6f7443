package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Outdated returns images in order of their digests that some repository holds and that were scanned with another
// database than this, with what their match needs: those after one, at most n.
func (db *DB) Outdated(ctx context.Context, database, after artifact.Digest, n int) ([]artifact.Rematch, error) {
	rows, err := db.Pool.Query(ctx, `select digest, contents, vulnerabilities from scans where state = 'scanned' and digest > $2 and database_digest <> $1
		and contents is not null and vulnerabilities is not null and exists (select from manifests m where m.digest = scans.digest and is_image)
		order by digest limit $3`, database, after.String(), n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r artifact.Rematch, err error) {
		err = row.Scan(&r.Digest, &r.Contents, &r.Vulnerabilities)
		return r, err
	})
	return all, translate(err)
}

// ScanBacklog counts images that some repository holds without an answer of the database in force.
func (db *DB) ScanBacklog(ctx context.Context) (b artifact.ScanBacklog, err error) {
	d, _, err := db.AdvisoryDatabase(ctx)
	if err != nil {
		return b, err
	}
	err = db.Pool.QueryRow(ctx, `select
			(select count(*) from scans s where state = 'pending' and exists (select from manifests m where m.digest = s.digest)),
			(select count(*) from scans s where state = 'failed' and exists (select from manifests m where m.digest = s.digest)),
			(select count(*) from scans s where state = 'scanned' and database_digest <> $1 and exists (select from manifests m where m.digest = s.digest))`,
		d.Digest.String()).Scan(&b.Pending, &b.Failed, &b.Outdated)
	return b, translate(err)
}

// SaveRematch records what a database says of images: of those in same, what the one before said; of the others, what
// changed.
func (db *DB) SaveRematch(ctx context.Context, database artifact.AdvisoryDatabase, at time.Time, same []artifact.Digest, changed []artifact.Rematched) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if len(same) > 0 {
			names := make([]string, len(same))
			for i, d := range same {
				names[i] = d.String()
			}
			if _, err := tx.Exec(ctx, `update scans set scanned_at = $2, database_digest = $3, database_updated_at = $4 where digest = any($1)`,
				names, at, database.Digest, database.UpdatedAt); err != nil {
				return err
			}
		}
		if len(changed) == 0 {
			return nil
		}
		batch, changes := &pgx.Batch{}, map[artifact.Digest]change{}
		for _, s := range changed {
			batch.Queue(`update scans set scanned_at = $2, database_digest = $3, database_updated_at = $4, counts = $5, vulnerabilities = $6 where digest = $1`,
				s.Digest, at, database.Digest, database.UpdatedAt, s.Counts, s.Vulnerabilities)
			changes[s.Digest] = change{s.Gone, s.Added}
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := changeFindings(ctx, tx, changes); err != nil || db.OnScanned == nil {
			return err
		}
		return db.tellScanned(ctx, tx, rematched(database, at, changed)...)
	})
}

// Unscanned returns images that no scan by this database is recorded of, or one of which another Java database than this
// (none, when it is zero) told the jars, one repository each: those after one in order of their digests, at most n.
func (db *DB) Unscanned(ctx context.Context, database, java, after artifact.Digest, n int) ([]artifact.Reference, error) {
	rows, err := db.Pool.Query(ctx, `select distinct on (digest) repository, digest from manifests m where digest > $2 and is_image
		and not exists (select from scans s where s.digest = m.digest and s.database_digest = $1 and coalesce(s.java_digest, $4) = $4) order by digest, repository limit $3`, database, after.String(), n, java.String())
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r artifact.Reference, err error) {
		err = row.Scan(&r.Repository, &r.Digest)
		return r, err
	})
	return all, translate(err)
}
