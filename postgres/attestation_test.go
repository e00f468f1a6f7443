package postgres_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
)

const (
	scanPredicate    = "https://cosign.sigstore.dev/attestation/vuln/v1"
	summaryPredicate = "https://slsa.dev/verification_summary/v1"
)

// attached puts what the service attaches to a digest: an artifact that refers to it, or at a tag.
func (s *shop) attached(name string, subject artifact.Digest, annotations map[string]string, tag string) artifact.Digest {
	s.t.Helper()
	p := push(s.t, s.db, s.repository, name, func(p *artifact.Push) {
		p.IsImage, p.PushedBy = false, artifact.System.Name
		p.Manifest.Annotations, p.Manifest.ArtifactType = annotations, "application/vnd.in-toto+json"
		if tag != "" {
			tagged(s.t, tag)(p)
			return
		}
		p.Manifest.Subject = &artifact.Descriptor{Digest: subject}
	})
	var err error
	if p.Tags != nil {
		old, resolveErr := s.db.ResolveTag(s.ctx, s.repository, p.Tags[0])
		if resolveErr == nil {
			held, err := s.db.Manifest(s.ctx, s.repository, old)
			require.NoError(s.t, err)
			for _, d := range held.Manifest.Layers {
				p.Drops = append(p.Drops, d.Digest)
			}
		}
	}
	err = s.db.PutManifest(s.ctx, p, func(artifact.Tag) bool { return true })
	require.NoError(s.t, err)
	return p.Digest
}

func of(predicate, name string) map[string]string {
	m := map[string]string{"in-toto.io/predicate-type": predicate}
	if name != "" {
		m["dev.waybill.attestation.name"] = name
	}
	return m
}

// TestAttestations: what is signed is done, for its key and its basis, while it is young enough and attached; and what
// replaces it leaves neither manifest nor grant of it.
func TestAttestations(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	image := s.release("v1")
	tag := "sha256-" + image.Hex() + ".att"
	row := artifact.Attestation{Repository: s.repository, Digest: image, Predicate: scanPredicate, KeyID: "key-1", PolicyHash: artifact.DigestOf([]byte("policy")), Basis: "1"}
	done := func(a artifact.Attestation, keep time.Duration) bool {
		t.Helper()
		d, err := s.db.IntendAttestation(s.ctx, a, keep)
		require.NoError(t, err)
		return d
	}
	record := func(a artifact.Attestation, name string, annotations map[string]string) artifact.Attestation {
		t.Helper()
		require.False(t, done(a, time.Hour))
		a.Manifest, a.Envelope = s.attached(name, image, annotations, ""), artifact.DigestOf([]byte(name))
		s.attached("tag of "+name, image, nil, tag)
		require.NoError(t, s.db.RemoveSuperseded(s.ctx, s.repository, image, parsed(t, artifact.ParseTag, tag), []artifact.Attestation{a}, "in-toto.io/predicate-type", "dev.waybill.attestation.name"))
		require.NoError(t, s.db.RecordAttestations(s.ctx, []artifact.Attestation{a}))
		return a
	}
	record(row, "scan 1", of(scanPredicate, ""))
	require.True(t, done(row, time.Hour))
	require.True(t, done(row, 0))
	require.False(t, done(row, time.Microsecond), "too old")
	first := record(row, "scan 1", of(scanPredicate, ""))

	summary := row
	summary.Predicate, summary.Name = summaryPredicate, "dev"
	dev := record(summary, "dev", of(summaryPredicate, "dev"))
	summary.Name = "staging"
	staging := record(summary, "staging", of(summaryPredicate, "staging"))

	// Promoted, a deployer may pull it with all of that.
	_, err := s.service.Promote(s.ctx, s.ada, promotion.Request{Repository: s.repository, Version: "v1", Environment: parsed(t, artifact.ParseEnvironment, "dev")})
	require.NoError(t, err)
	environments := []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}
	granted := func(d artifact.Digest) bool {
		ok, err := s.db.Granted(s.ctx, environments, s.repository, d)
		require.NoError(t, err)
		return ok
	}
	require.True(t, granted(first.Manifest))
	at, err := s.db.ResolveTag(s.ctx, s.repository, parsed(t, artifact.ParseTag, tag))
	require.NoError(t, err)
	require.True(t, granted(at))

	row.Basis = "2"
	second := record(row, "scan 2", of(scanPredicate, ""))
	for _, gone := range []artifact.Digest{first.Manifest, at} {
		_, err := s.db.Manifest(s.ctx, s.repository, gone)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
		require.False(t, granted(gone))
	}
	for _, kept := range []artifact.Digest{second.Manifest, dev.Manifest, staging.Manifest} {
		require.True(t, granted(kept))
	}
	all, err := s.db.Attestations(s.ctx, s.repository, image)
	require.NoError(t, err)
	require.Len(t, all, 3)
	signed, err := s.db.Signatures(s.ctx, s.repository, image)
	require.NoError(t, err)
	require.Len(t, signed, 4)

	other := row
	other.KeyID = "key-2"
	require.False(t, done(other, time.Hour), "another key")
	record(row, "scan 3", of(scanPredicate, ""))
	require.NoError(t, s.db.DeleteTag(s.ctx, s.repository, parsed(t, artifact.ParseTag, tag), "user:ada"))
	require.False(t, done(row, time.Hour), "the tag that leads there was deleted")
}

// TestScanAttestations: a scan attestation stands until something else is found, or until it is old and a newer scan says
// the same.
func TestScanAttestations(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	image := s.put("v1", tagged(t, "v1"))
	ref := artifact.Reference{Repository: s.repository, Digest: image}
	_, scanned, err := s.db.ScanBasis(s.ctx, s.repository, image)
	require.NoError(t, err)
	require.False(t, scanned)
	require.NoError(t, s.db.AwaitScan(s.ctx, s.repository, image, scanPredicate))
	waiting, err := s.db.ScanAttestations(s.ctx, scanPredicate, artifact.Reference{}, 10)
	require.NoError(t, err)
	require.Equal(t, []artifact.Reference{ref}, waiting)
	waiting, err = s.db.ScanAttestations(s.ctx, scanPredicate, ref, 10)
	require.NoError(t, err)
	require.Empty(t, waiting)

	stands := func(keep time.Duration) bool {
		t.Helper()
		ok, err := s.db.ScanAttestationStands(s.ctx, scanPredicate, ref, keep)
		require.NoError(t, err)
		return ok
	}
	scan := func(found string) string {
		t.Helper()
		require.NoError(t, s.db.SaveScan(s.ctx, artifact.Scan{Digest: image, State: artifact.Scanned, ScannedAt: time.Now(), DatabaseDigest: artifact.DigestOf(nil), DatabaseUpdatedAt: time.Now(), Vulnerabilities: []byte(found)}))
		basis, scanned, err := s.db.ScanBasis(s.ctx, s.repository, image)
		require.NoError(t, err)
		require.True(t, scanned)
		return basis
	}
	attest := func(basis string) {
		t.Helper()
		a := artifact.Attestation{Repository: s.repository, Digest: image, Predicate: scanPredicate, KeyID: "key-1", PolicyHash: artifact.DigestOf(nil), Basis: basis}
		done, err := s.db.IntendAttestation(s.ctx, a, time.Microsecond)
		require.NoError(t, err)
		require.False(t, done)
		a.Manifest, a.Envelope = image, image
		require.NoError(t, s.db.RecordAttestations(s.ctx, []artifact.Attestation{a}))
	}
	none := scan("")
	require.False(t, stands(time.Hour), "not signed")
	attest(none)
	require.True(t, stands(time.Hour))
	require.True(t, stands(time.Microsecond), "old, and there is no newer scan")
	require.Equal(t, none, scan(""))
	require.True(t, stands(time.Hour), "a newer scan found the same")
	require.False(t, stands(time.Microsecond), "and it is old")
	some := scan("\x01\x02\x03\x04\x05\x06\x07\x08")
	require.NotEqual(t, none, some)
	require.False(t, stands(time.Hour), "a newer scan found something else")
	attest(some)
	require.True(t, stands(time.Hour))
}

// TestBuildRecord: the first build that made a digest is how it was built.
func TestBuildRecord(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	image := s.put("v1", tagged(t, "v1"))
	_, ok, err := s.db.Provenance(s.ctx, s.repository, image)
	require.NoError(t, err)
	require.False(t, ok)
	for _, key := range []string{"first", "second"} {
		k := artifact.DigestOf([]byte(key))
		require.NoError(t, s.db.StartBuild(s.ctx, s.repository, k, "user:ada"))
		require.NoError(t, s.db.EndBuild(s.ctx, s.repository, k, image, json.RawMessage(`{"key":"`+key+`"}`), ""))
	}
	predicate, ok, err := s.db.Provenance(s.ctx, s.repository, image)
	require.NoError(t, err)
	require.True(t, ok)
	require.JSONEq(t, `{"key":"first"}`, string(predicate))
}
