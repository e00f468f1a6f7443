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
	rows, licenses := split(s.Findings)
	var packages, packedLicenses []byte
	if s.State == artifact.Scanned {
		var err error
		if packages, err = pack(s.Packages); err != nil {
			return err
		}
		if packedLicenses, err = pack(licenses); err != nil {
			return err
		}
	}
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if s.Counts == nil {
			s.Counts = map[artifact.Severity]int{}
		}
		if _, err := tx.Exec(ctx, `insert into scans (digest, state, reason, scanned_at, database_digest, database_updated_at, packages, counts, contents, vulnerabilities, licenses)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			on conflict (digest) do update set state = excluded.state, reason = excluded.reason, scanned_at = excluded.scanned_at,
			database_digest = excluded.database_digest, database_updated_at = excluded.database_updated_at,
			packages = coalesce(excluded.packages, scans.packages), counts = excluded.counts, contents = excluded.contents,
			vulnerabilities = excluded.vulnerabilities, licenses = excluded.licenses`,
			s.Digest, s.State, s.Reason, orNull(s.ScannedAt), s.DatabaseDigest, orNull(s.DatabaseUpdatedAt), packages, s.Counts, s.Contents, s.Vulnerabilities, packedLicenses); err != nil {
			return err
		}
		return replaceFindings(ctx, tx, map[artifact.Digest][]artifact.Finding{s.Digest: rows}, "")
	})
}

// Scan returns the newest scan of an image with its findings; one that was never scanned is pending.
func (db *DB) Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error) {
	s := artifact.Scan{Digest: digest}
	var (
		packages, licenses []byte
		scanned, databased *time.Time
	)
	err := db.Pool.QueryRow(ctx, `select state, reason, scanned_at, database_digest, database_updated_at, packages, counts, licenses from scans where digest = $1`, digest).
		Scan(&s.State, &s.Reason, &scanned, &s.DatabaseDigest, &databased, &packages, &s.Counts, &licenses)
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

// known is a finding as it lies in its row.
type known struct {
	position int
	at       time.Time
	finding  artifact.Finding
}

// identity is what makes two findings of an image one, whatever else became known of it.
type identity struct {
	digest                          artifact.Digest
	class, id, pkg, installed, path string
}

// replaceFindings makes the findings of images (those of one class, unless that is empty) what is given: rows that stay as
// they are are not written, and one that changes keeps since when it is known.
func replaceFindings(ctx context.Context, tx pgx.Tx, images map[artifact.Digest][]artifact.Finding, class string) error {
	digests := make([]string, 0, len(images))
	for d := range images {
		digests = append(digests, d.String())
	}
	before := map[identity][]known{}
	last := map[artifact.Digest]int{}
	rows, err := tx.Query(ctx, `select digest, position, found_at, finding from findings where digest = any($1)`, digests)
	if err != nil {
		return err
	}
	var (
		d artifact.Digest
		k known
	)
	if _, err := pgx.ForEachRow(rows, []any{&d, &k.position, &k.at, &k.finding}, func() error {
		last[d] = max(last[d], k.position+1)
		if class == "" || k.finding.Class == class {
			i := identify(d, k.finding)
			before[i] = append(before[i], k)
		}
		k.finding = artifact.Finding{} // the next is decoded into another
		return nil
	}); err != nil {
		return err
	}
	var added [][]any
	for d, findings := range images {
		for _, f := range findings {
			f.FoundAt = time.Time{}
			at, stays := time.Now(), false
			i := identify(d, f)
			if there := before[i]; len(there) > 0 {
				at, stays = there[0].at, there[0].finding == f
				if stays {
					before[i] = there[1:]
				}
			}
			if !stays {
				added = append(added, []any{d.String(), last[d], f.ID, f.Class, string(f.Severity), f, at})
				last[d]++
			}
		}
	}
	if err := deleteFindings(ctx, tx, before); err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"findings"}, []string{"digest", "position", "id", "class", "severity", "finding", "found_at"}, pgx.CopyFromRows(added))
	return err
}

func identify(d artifact.Digest, f artifact.Finding) identity {
	return identity{d, f.Class, f.ID, f.Package, f.Installed, f.Path}
}

func deleteFindings(ctx context.Context, tx pgx.Tx, gone map[identity][]known) error {
	var (
		digests   []string
		positions []int
	)
	for i, all := range gone {
		for _, k := range all {
			digests, positions = append(digests, i.digest.String()), append(positions, k.position)
		}
	}
	if len(digests) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `delete from findings using unnest($1::text[], $2::int[]) as gone (digest, position)
		where findings.digest = gone.digest and findings.position = gone.position`, digests, positions)
	return err
}
