package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// SaveScan makes s the newest scan of its image. Findings that were known before keep since when.
func (db *DB) SaveScan(ctx context.Context, s artifact.Scan) error {
	defer db.changes.touch()
	return db.Transact(artifact.DoneAgain(ctx), func(tx pgx.Tx) error {
		scanned, err := db.scannedBefore(ctx, tx, &s)
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		findings, err := queueScan(batch, s)
		if err != nil {
			return err
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := saveFindings(ctx, tx, s.Digest, findings); err != nil {
			return err
		}
		return db.tellScanned(ctx, tx, scanned)
	})
}

// queueScan writes a scan, and returns those of its findings that are still to be written, by saveFindings.
func queueScan(batch *pgx.Batch, s artifact.Scan) (findings []artifact.Finding, err error) {
	rows, licenses := split(s.Findings)
	var packages, packedLicenses []byte
	if s.State == artifact.Scanned {
		var err error
		if packages, err = pack(s.Packages); err != nil {
			return nil, err
		}
		if packedLicenses, err = pack(licenses); err != nil {
			return nil, err
		}
	}
	if s.Counts == nil {
		s.Counts = map[artifact.Severity]int{}
	}
	batch.Queue(`insert into scans (digest, state, reason, scanned_at, database_digest, database_updated_at, packages, counts, contents, vulnerabilities, licenses, java_digest)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		on conflict (digest) do update set state = excluded.state, reason = excluded.reason, scanned_at = excluded.scanned_at,
		database_digest = excluded.database_digest, database_updated_at = excluded.database_updated_at,
		packages = coalesce(excluded.packages, scans.packages), counts = excluded.counts, contents = excluded.contents,
		vulnerabilities = excluded.vulnerabilities, licenses = excluded.licenses, java_digest = excluded.java_digest`,
		s.Digest, s.State, s.Reason, orNull(s.ScannedAt), s.DatabaseDigest, orNull(s.DatabaseUpdatedAt), packages, s.Counts, s.Contents, s.Vulnerabilities, packedLicenses, javaDigest(s))
	if len(rows) == 0 {
		batch.Queue(`delete from findings where digest = $1`, s.Digest)
	}
	return rows, nil
}

// saveFindings makes an image's rows those of its newest scan.
func saveFindings(ctx context.Context, tx pgx.Tx, digest artifact.Digest, findings []artifact.Finding) error {
	if len(findings) == 0 {
		return nil
	}
	c, err := differences(ctx, tx, digest, findings)
	if err != nil {
		return err
	}
	return changeFindings(ctx, tx, map[artifact.Digest]change{digest: c})
}

// Scan returns the newest scan of an image with its findings; one that was never scanned is pending.
func (db *DB) Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error) {
	s := artifact.Scan{Digest: digest}
	var (
		packages, licenses []byte
		scanned, databased *time.Time
		java               *string
	)
	err := db.Pool.QueryRow(ctx, `select state, reason, scanned_at, database_digest, database_updated_at, packages, counts, licenses, java_digest from scans where digest = $1`, digest).
		Scan(&s.State, &s.Reason, &scanned, &s.DatabaseDigest, &databased, &packages, &s.Counts, &licenses, &java)
	if err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return artifact.Scan{Digest: digest, State: artifact.ScanPending, Reason: "not scanned yet"}, nil
		}
		return s, translate(err)
	}
	if scanned != nil {
		s.ScannedAt = *scanned
	}
	if databased != nil {
		s.DatabaseUpdatedAt = *databased
	}
	if s.UnnamedJars = java != nil; s.UnnamedJars && *java != "" {
		if s.JavaDatabaseDigest, err = artifact.ParseDigest(*java); err != nil {
			return s, err
		}
	}
	if err := unpack(packages, &s.Packages); err != nil {
		return s, err
	}
	rows, err := db.Pool.Query(ctx, `select finding, found_at from findings where digest = $1`, digest)
	if err != nil {
		return s, translate(err)
	}
	if s.Findings, err = pgx.CollectRows(rows, scanFinding); err != nil {
		return s, translate(err)
	}
	var licensed []artifact.Finding
	if err := unpack(licenses, &licensed); err != nil {
		return s, err
	}
	s.Findings = append(s.Findings, licensed...)
	artifact.SortFindings(s.Findings)
	return s, nil
}

// javaDigest is what the column of that name holds.
func javaDigest(s artifact.Scan) *string {
	if !s.UnnamedJars {
		return nil
	}
	digest := ""
	if !s.JavaDatabaseDigest.IsZero() {
		digest = s.JavaDatabaseDigest.String()
	}
	return &digest
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func scanFinding(row pgx.CollectableRow) (f artifact.Finding, err error) {
	var at time.Time
	err = row.Scan(&f, &at)
	f.FoundAt = at
	return f, err
}

// split separates licences, which are kept beside the packages, from what has a row each.
func split(all []artifact.Finding) (rows, licenses []artifact.Finding) {
	for _, f := range all {
		if f.Class == artifact.ClassLicense {
			licenses = append(licenses, f)
		} else {
			rows = append(rows, f)
		}
	}
	return rows, licenses
}

// change is what is to become of an image's findings: hashes of those that are gone, and those that are new.
type change struct {
	gone  []int64
	added []artifact.Finding
}

// differences compares an image's findings with those in its rows.
func differences(ctx context.Context, tx pgx.Tx, digest artifact.Digest, findings []artifact.Finding) (c change, err error) {
	rows, err := tx.Query(ctx, `select hash from findings where digest = $1`, digest)
	if err != nil {
		return c, err
	}
	hashes, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return c, err
	}
	there := map[int64]bool{}
	for _, h := range hashes {
		there[h] = true
	}
	for _, f := range findings {
		if h := f.Hash(); there[h] {
			delete(there, h)
		} else {
			c.added = append(c.added, f)
		}
	}
	for h := range there {
		c.gone = append(c.gone, h)
	}
	return c, nil
}

// identity is what makes two findings of an image one, whatever else became known of it.
type identity struct {
	digest                          artifact.Digest
	class, id, pkg, installed, path string
}

func identify(d artifact.Digest, f artifact.Finding) identity {
	return identity{d, f.Class, f.ID, f.Package, f.Installed, f.Path}
}

// changeFindings writes changes. A finding that is new only in what is said of it keeps since when it is known.
func changeFindings(ctx context.Context, tx pgx.Tx, changes map[artifact.Digest]change) error {
	var (
		digests []string
		gone    []int64
		added   [][]any
		since   = map[identity]time.Time{}
		now     = time.Now()
	)
	for d, c := range changes {
		for _, h := range c.gone {
			digests, gone = append(digests, d.String()), append(gone, h)
		}
	}
	if len(gone) > 0 {
		rows, err := tx.Query(ctx, `delete from findings using unnest($1::text[], $2::bigint[]) as gone (digest, hash)
			where findings.digest = gone.digest and findings.hash = gone.hash returning findings.digest, finding, found_at`, digests, gone)
		if err != nil {
			return err
		}
		var (
			d  artifact.Digest
			f  artifact.Finding
			at time.Time
		)
		if _, err := pgx.ForEachRow(rows, []any{&d, &f, &at}, func() error {
			since[identify(d, f)] = at
			f = artifact.Finding{} // the next is decoded into another
			return nil
		}); err != nil {
			return err
		}
	}
	for d, c := range changes {
		for _, f := range c.added {
			at, known := since[identify(d, f)]
			if !known {
				at = now
			}
			f.FoundAt = time.Time{} // that is the row's
			added = append(added, []any{d.String(), f.Hash(), f.ID, f.Class, string(f.Severity), f, at})
		}
	}
	if len(added) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"findings"}, []string{"digest", "hash", "id", "class", "severity", "finding", "found_at"}, pgx.CopyFromRows(added))
	return err
}
