package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// scannedBefore returns, before a scan is written, what is told of it if nothing comes between; nil when that is nothing:
// nobody listens, it is no answer, or it finds the vulnerabilities that the last one found.
func (db *DB) scannedBefore(ctx context.Context, tx pgx.Tx, s *artifact.Scan) (*artifact.ScanEvent, error) {
	if db.OnScanned == nil || s == nil || s.State != artifact.Scanned {
		return nil, nil
	}
	var before []byte
	err := tx.QueryRow(ctx, `select vulnerabilities from scans where digest = $1 and state = 'scanned'`, s.Digest).Scan(&before)
	first := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !first {
		return nil, err
	}
	added, gone := compareHashes(before, s.Vulnerabilities)
	if !first && added+gone == 0 {
		return nil, nil
	}
	return &artifact.ScanEvent{Digest: s.Digest, ScannedAt: s.ScannedAt, DatabaseDigest: s.DatabaseDigest, DatabaseUpdatedAt: s.DatabaseUpdatedAt, Counts: s.Counts,
		First: first, Added: added, Gone: gone}, nil
}

// compareHashes counts what the second of two lists of hashes, eight bytes each, has more and less.
func compareHashes(before, after []byte) (added, gone int) {
	left := map[uint64]bool{}
	for ; len(before) >= 8; before = before[8:] {
		left[binary.BigEndian.Uint64(before)] = true
	}
	for ; len(after) >= 8; after = after[8:] {
		hash := binary.BigEndian.Uint64(after)
		if !left[hash] {
			added++
		}
		delete(left, hash)
	}
	return added, len(left)
}

// tellScanned tells of scans in the transaction that writes them. What no repository holds any more is told of to nobody.
func (db *DB) tellScanned(ctx context.Context, tx pgx.Tx, all ...*artifact.ScanEvent) error {
	byDigest := map[artifact.Digest]*artifact.ScanEvent{}
	var names []string
	for _, e := range all {
		if e != nil {
			e.Repositories = nil // the transaction may be run again
			byDigest[e.Digest], names = e, append(names, e.Digest.String())
		}
	}
	if len(names) == 0 || db.OnScanned == nil {
		return nil
	}
	rows, err := tx.Query(ctx, `select digest, repository from manifests where digest = any($1) order by digest, repository`, names)
	if err != nil {
		return err
	}
	var (
		digest     artifact.Digest
		repository artifact.Repository
	)
	if _, err := pgx.ForEachRow(rows, []any{&digest, &repository}, func() error {
		byDigest[digest].Repositories = append(byDigest[digest].Repositories, repository)
		return nil
	}); err != nil {
		return err
	}
	for _, e := range all {
		if e == nil || len(e.Repositories) == 0 {
			continue
		}
		if err := db.OnScanned(ctx, tx, *e); err != nil {
			return err
		}
	}
	return nil
}

// rematched are the events of what another database changed.
func rematched(database artifact.AdvisoryDatabase, at time.Time, changed []artifact.Rematched) []*artifact.ScanEvent {
	all := make([]*artifact.ScanEvent, len(changed))
	for i, c := range changed {
		all[i] = &artifact.ScanEvent{Digest: c.Digest, ScannedAt: at, DatabaseDigest: database.Digest, DatabaseUpdatedAt: database.UpdatedAt, Counts: c.Counts,
			Added: len(c.Added), Gone: len(c.Gone)}
	}
	return all
}
