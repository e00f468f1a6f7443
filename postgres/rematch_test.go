package postgres_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
)

func vulnerability(id, pkg string, severity artifact.Severity) artifact.Finding {
	return artifact.Finding{Class: artifact.ClassVulnerability, ID: id, Severity: severity, Package: pkg, Installed: "1.0"}
}

func hashes(all ...artifact.Finding) (packed []byte) {
	for _, f := range all {
		packed = binary.BigEndian.AppendUint64(packed, uint64(f.Hash()))
	}
	return packed
}

// scanned stores a scan of an image by a database.
func scanned(t testing.TB, db *postgres.DB, digest artifact.Digest, d artifact.AdvisoryDatabase, findings ...artifact.Finding) {
	t.Helper()
	require.NoError(t, db.SaveScan(t.Context(), artifact.Scan{Digest: digest, State: artifact.Scanned, ScannedAt: time.Now(), DatabaseDigest: d.Digest, DatabaseUpdatedAt: d.UpdatedAt,
		Packages: []artifact.Package{{Name: "openssl"}}, Findings: findings, Counts: artifact.CountFindings(findings), Contents: []byte("contents"), Vulnerabilities: hashes(findings...)}))
}

// TestRematch: another database changes what it changes, and nothing else; since when a finding is known stays.
func TestRematch(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	image, deleted := s.put("image", tagged(t, "v1")), artifact.DigestOf([]byte("deleted"))
	unscanned := s.put("unscanned", nil)
	first := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("1")), Schema: 2, UpdatedAt: time.Now().Add(-time.Hour), ImportedBy: "a"}
	second := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("2")), Schema: 2, UpdatedAt: time.Now(), ImportedBy: "a"}
	stays, worse, gone := vulnerability("CVE-1", "openssl", artifact.Low), vulnerability("CVE-2", "openssl", artifact.Low), vulnerability("CVE-3", "openssl", artifact.High)
	secret := artifact.Finding{Class: artifact.ClassSecret, ID: "aws", Severity: artifact.Critical, Path: "/a"}
	license := artifact.Finding{Class: artifact.ClassLicense, ID: "MIT", Severity: artifact.Low, Package: "openssl"}
	scanned(t, s.db, image, first, stays, worse, gone, secret, license)
	scanned(t, s.db, deleted, first, stays)
	before, err := s.db.Scan(s.ctx, image)
	require.NoError(t, err)
	require.Len(t, before.Findings, 5)
	since := map[string]time.Time{}
	for _, f := range before.Findings {
		since[f.ID] = f.FoundAt
	}

	require.NoError(t, s.db.SaveScan(s.ctx, artifact.Scan{Digest: unscanned, State: artifact.ScanPending, Reason: "no advisory database"}))
	require.NoError(t, s.db.SaveAdvisoryDatabase(s.ctx, second))
	backlog, err := s.db.ScanBacklog(s.ctx)
	require.NoError(t, err)
	require.Equal(t, artifact.ScanBacklog{Pending: 1, Outdated: 1}, backlog)
	outdated, err := s.db.Outdated(s.ctx, second.Digest, artifact.Digest{}, 10)
	require.NoError(t, err)
	require.Len(t, outdated, 1, "what no repository holds is not matched")
	require.Equal(t, image, outdated[0].Digest)
	require.Equal(t, []byte("contents"), outdated[0].Contents)
	none, err := s.db.Outdated(s.ctx, second.Digest, image, 10)
	require.NoError(t, err)
	require.Empty(t, none)

	nowWorse, added := vulnerability("CVE-2", "openssl", artifact.Critical), vulnerability("CVE-4", "zlib", artifact.Medium)
	require.NoError(t, s.db.SaveRematch(s.ctx, second, time.Now(), nil, []artifact.Rematched{{Digest: image, Gone: []int64{worse.Hash(), gone.Hash()}, Added: []artifact.Finding{nowWorse, added},
		Vulnerabilities: hashes(stays, nowWorse, added), Counts: artifact.CountFindings([]artifact.Finding{stays, nowWorse, added})}}))
	after, err := s.db.Scan(s.ctx, image)
	require.NoError(t, err)
	require.Equal(t, second.Digest, after.DatabaseDigest)
	require.Equal(t, map[artifact.Severity]int{artifact.Critical: 1, artifact.Medium: 1, artifact.Low: 1}, after.Counts)
	var ids []string
	for _, f := range after.Findings {
		ids = append(ids, f.ID)
		if at, known := since[f.ID]; known {
			require.Equal(t, at, f.FoundAt, f.ID)
		}
	}
	require.Equal(t, []string{"CVE-2", "aws", "CVE-4", "CVE-1", "MIT"}, ids, "the worst first")
	done, err := s.db.Outdated(s.ctx, second.Digest, artifact.Digest{}, 10)
	require.NoError(t, err)
	require.Empty(t, done, "what is recorded is not done again")
	rest, err := s.db.Unscanned(s.ctx, second.Digest, artifact.Digest{}, artifact.Digest{}, 10)
	require.NoError(t, err)
	require.Equal(t, []artifact.Reference{{Repository: s.repository, Digest: unscanned}}, rest)

	require.NoError(t, s.db.SaveRematch(s.ctx, first, time.Now(), []artifact.Digest{image}, nil))
	same, err := s.db.Scan(s.ctx, image)
	require.NoError(t, err)
	require.Equal(t, first.Digest, same.DatabaseDigest)
	require.Equal(t, after.Findings, same.Findings)
	// A whole scan keeps it too.
	scanned(t, s.db, image, second, stays, gone, license)
	again, err := s.db.Scan(s.ctx, image)
	require.NoError(t, err)
	require.Len(t, again.Findings, 3)
	for _, f := range again.Findings {
		if f.ID == "CVE-1" {
			require.Equal(t, since["CVE-1"], f.FoundAt)
		}
	}
}

// TestAffected: which images have it, by whichever tag and in whichever environment, an index's images too.
func TestAffected(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	d := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("1")), Schema: 2, UpdatedAt: time.Now(), ImportedBy: "a"}
	child := s.put("child", nil)
	m, err := s.db.Manifest(s.ctx, s.repository, child)
	require.NoError(t, err)
	index := s.put("index", func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest = artifact.Manifest{MediaType: artifact.MediaTypeIndex, Manifests: []artifact.Descriptor{{MediaType: artifact.MediaTypeManifest, Digest: child, Size: int64(len(m.Body))}}}
		tagged(t, "v2")(p)
	})
	alone, fine := s.put("alone", tagged(t, "v1")), s.put("fine", nil)
	bad := vulnerability("CVE-2024-24790", "stdlib", artifact.Critical)
	elsewhere := bad
	elsewhere.Path = "usr/bin/other"
	scanned(t, s.db, child, d, bad, elsewhere)
	scanned(t, s.db, alone, d, bad)
	scanned(t, s.db, fine, d, vulnerability("CVE-2000-1", "a", artifact.Low))
	scanned(t, s.db, artifact.DigestOf([]byte("deleted")), d, bad)

	found := map[artifact.Digest]artifact.Affected{}
	pages := 0
	for after := (artifact.Digest{}); ; pages++ {
		all, last, err := s.db.Affected(s.ctx, "CVE-2024-24790", after, 1)
		require.NoError(t, err)
		for _, a := range all {
			found[a.Digest] = a
		}
		if last.IsZero() {
			break
		}
		after = last
	}
	require.Equal(t, 3, pages)
	require.Len(t, found, 2)
	require.Equal(t, "v1", found[alone].Tags[0].String())
	require.Empty(t, found[alone].RunsIn)
	require.Equal(t, []artifact.Digest{index}, found[child].Indexes)
	require.Equal(t, "v2", found[child].Tags[0].String())
	require.Len(t, found[child].Findings, 2)
	require.WithinDuration(t, time.Now(), found[child].FoundAt, time.Minute)
	none, _, err := s.db.Affected(s.ctx, "CVE-1999-1", artifact.Digest{}, 10)
	require.NoError(t, err)
	require.Empty(t, none)
}
