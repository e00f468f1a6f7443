package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// SaveScan makes s the newest scan of its image.
func (db *DB) SaveScan(ctx context.Context, s artifact.Scan) error {
	batch := &pgx.Batch{}
	if err := queueScan(batch, s); err != nil {
		return err
	}
	// A batch is one transaction. Whoever finds a scan missing makes it again, so that it need not be waited for.
	return translate(db.loose.SendBatch(ctx, batch).Close())
}

func queueScan(batch *pgx.Batch, s artifact.Scan) error {
	var packages []byte
	if s.State == artifact.Scanned {
		var err error
		if packages, err = pack(s.Packages); err != nil {
			return err
		}
	}
	if s.Counts == nil {
		s.Counts = map[artifact.Severity]int{}
	}
	batch.Queue(`insert into scans (digest, state, reason, scanned_at, database_digest, database_updated_at, packages, counts)
		values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict (digest) do update set state = excluded.state, reason = excluded.reason, scanned_at = excluded.scanned_at,
		database_digest = excluded.database_digest, database_updated_at = excluded.database_updated_at,
		packages = coalesce(excluded.packages, scans.packages), counts = excluded.counts`,
		s.Digest, s.State, s.Reason, orNull(s.ScannedAt), s.DatabaseDigest, orNull(s.DatabaseUpdatedAt), packages, s.Counts)
	batch.Queue(`delete from findings where digest = $1`, s.Digest)
	if len(s.Findings) == 0 {
		return nil
	}
	encoded, err := json.Marshal(s.Findings)
	if err != nil {
		return err
	}
	batch.Queue(`insert into findings (digest, position, id, class, severity, finding)
		select $1, position - 1, finding->>'id', finding->>'class', finding->>'severity', finding
		from jsonb_array_elements($2::jsonb) with ordinality as f (finding, position)`, s.Digest, encoded)
	return nil
}

// Scan returns the newest scan of an image with its findings; one that was never scanned is pending.
func (db *DB) Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error) {
	s := artifact.Scan{Digest: digest}
	var (
		packages           []byte
		scanned, databased *time.Time
	)
	err := db.Pool.QueryRow(ctx, `select state, reason, scanned_at, database_digest, database_updated_at, packages, counts from scans where digest = $1`, digest).
		Scan(&s.State, &s.Reason, &scanned, &s.DatabaseDigest, &databased, &packages, &s.Counts)
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
	rows, err := db.Pool.Query(ctx, `select finding from findings where digest = $1 order by position`, digest)
	if err != nil {
		return s, translate(err)
	}
	s.Findings, err = pgx.CollectRows(rows, pgx.RowTo[artifact.Finding])
	return s, translate(err)
}

// Images returns every image that some repository holds, one repository each: what a new advisory database is
// matched with.
func (db *DB) Images(ctx context.Context) ([]artifact.Reference, error) {
	rows, err := db.Pool.Query(ctx, `select distinct on (digest) repository, digest from manifests where is_image order by digest, repository`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r artifact.Reference, err error) {
		err = row.Scan(&r.Repository, &r.Digest)
		return r, err
	})
	return all, translate(err)
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
