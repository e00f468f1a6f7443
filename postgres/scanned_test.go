package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestScanEvents: an image's first scan is told of, and each that finds something else, once, or not at all when telling
// fails.
func TestScanEvents(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var told []artifact.ScanEvent
	failing := errors.New("nobody listens")
	s.db.OnScanned = func(context.Context, pgx.Tx, artifact.ScanEvent) error { return failing }
	one, two := vulnerability("CVE-1", "openssl", artifact.Low), vulnerability("CVE-2", "openssl", artifact.High)
	database := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("1")), UpdatedAt: time.Now().Add(-time.Hour)}
	image := s.put("image", nil)
	scan := func(state artifact.ScanState, findings ...artifact.Finding) artifact.Scan {
		return artifact.Scan{Digest: image, State: state, ScannedAt: time.Now(), DatabaseDigest: database.Digest, DatabaseUpdatedAt: database.UpdatedAt, Findings: findings,
			Counts: artifact.CountFindings(findings), Vulnerabilities: hashes(findings...)}
	}
	require.NoError(t, s.db.SaveScan(s.ctx, scan(artifact.ScanFailed)), "that is no answer")
	require.ErrorIs(t, s.db.SaveScan(s.ctx, scan(artifact.Scanned, one)), failing)
	before, err := s.db.Scan(s.ctx, image)
	require.NoError(t, err)
	require.Equal(t, artifact.ScanFailed, before.State, "what cannot be told of is not written")

	s.db.OnScanned = func(_ context.Context, _ pgx.Tx, e artifact.ScanEvent) error { told = append(told, e); return nil }
	require.NoError(t, s.db.SaveScan(s.ctx, scan(artifact.Scanned, one)))
	require.Len(t, told, 1)
	require.Equal(t, []artifact.Repository{s.repository}, told[0].Repositories)
	require.True(t, told[0].First)
	require.Equal(t, map[artifact.Severity]int{artifact.Low: 1}, told[0].Counts)
	require.NoError(t, s.db.SaveScan(s.ctx, scan(artifact.Scanned, one)))
	require.Len(t, told, 1, "nothing new")
	require.NoError(t, s.db.SaveScan(s.ctx, scan(artifact.Scanned, two)))
	require.Len(t, told, 2)
	require.Equal(t, [2]int{1, 1}, [2]int{told[1].Added, told[1].Gone})
	require.False(t, told[1].First)

	next := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("2")), UpdatedAt: time.Now()}
	require.NoError(t, s.db.SaveRematch(s.ctx, next, time.Now(), []artifact.Digest{image}, nil))
	require.Len(t, told, 2)
	require.NoError(t, s.db.SaveRematch(s.ctx, next, time.Now(), nil, []artifact.Rematched{{Digest: image, Added: []artifact.Finding{one}, Vulnerabilities: hashes(one, two),
		Counts: map[artifact.Severity]int{artifact.Low: 1, artifact.High: 1}}}))
	require.Len(t, told, 3)
	require.Equal(t, next.Digest, told[2].DatabaseDigest)
	require.Equal(t, 1, told[2].Added)

	scanned(t, s.db, artifact.DigestOf([]byte("elsewhere")), database, one)
	require.Len(t, told, 3, "no repository holds it")
}

// TestAttachedIsTold: what speaks for a digest is told of when it comes and when it goes, by whomever but Waybill.
func TestAttachedIsTold(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var told []artifact.Digest
	s.db.OnAttached = func(_ context.Context, _ pgx.Tx, ref artifact.Reference) error {
		told = append(told, ref.Digest)
		return nil
	}
	image := s.put("image", tagged(t, "v1"))
	require.Empty(t, told)
	by := func(name string, change func(*artifact.Push)) func(*artifact.Push) {
		return func(p *artifact.Push) { change(p); p.PushedBy = name }
	}
	s.put("own SBOM", by(artifact.System.Name, attached(image)))
	require.Empty(t, told)
	vex := s.put("VEX", by("token:security/1", attached(image)))
	require.Equal(t, []artifact.Digest{image}, told)
	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, vex, "user:ada"))
	require.Equal(t, []artifact.Digest{image, image}, told)

	at := func(suffix string) string { return "sha256-" + image.Hex() + suffix }
	s.put("signature", by("token:ci/1", tagged(t, at(".sig"))))
	require.Len(t, told, 2)
	attestation := s.put("attestation", by("token:ci/1", tagged(t, at(".att"))))
	require.Len(t, told, 3)
	require.NoError(t, s.db.DeleteTag(s.ctx, s.repository, parsed(t, artifact.ParseTag, at(".att")), "user:ada"))
	require.Len(t, told, 4)
	s.put("attestation", by("token:ci/1", tagged(t, at(".att"))))
	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, attestation, "user:ada"))
	require.Equal(t, []artifact.Digest{image, image, image, image, image, image}, told)
}
