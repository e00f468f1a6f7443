package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// attestWorld is what attestations are made of, and what was made.
type attestWorld struct {
	t         *testing.T
	manifests map[artifact.Digest]artifact.StoredManifest
	denied    bool
	scanned   bool
	sbom      []byte
	built     json.RawMessage
	promotion *artifact.Promotion
	stands    bool

	waiting []artifact.Digest
	made    map[string]json.RawMessage // by type and name
}

func (w *attestWorld) JudgeStored(_ context.Context, r artifact.Repository, d artifact.Digest) (policy.Verdict, error) {
	m, ok := w.manifests[d]
	if !ok {
		return policy.Verdict{}, artifact.Errorf(artifact.NotFound, "no %s", d)
	}
	documents, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(w.t, err)
	set, subject := policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}}), artifact.Subject{Repository: r, Digest: d, Manifest: m.Manifest}
	if w.denied {
		return set.Uninspectable(subject, "it has grown an sshd"), nil
	}
	return set.Artifact(subject), nil
}

func (w *attestWorld) Attest(_ context.Context, pass policy.Pass, all ...signer.Statement) error {
	require.True(w.t, pass.Valid())
	for _, one := range all {
		predicate, err := one.Predicate()
		require.NoError(w.t, err)
		w.made[strings.TrimSpace(one.PredicateType+" "+one.Name)] = predicate
	}
	return nil
}

func (w *attestWorld) Manifest(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	return w.manifests[d], nil
}

func (w *attestWorld) Scan(_ context.Context, d artifact.Digest) (artifact.Scan, error) {
	return artifact.Scan{Digest: d, State: artifact.Scanned, Findings: []artifact.Finding{{Class: artifact.ClassVulnerability, ID: "CVE-1 of " + d.Hex()[:8]}}}, nil
}

func (w *attestWorld) ScanBasis(context.Context, artifact.Repository, artifact.Digest) (string, bool, error) {
	return "basis", w.scanned, nil
}

func (w *attestWorld) Provenance(context.Context, artifact.Repository, artifact.Digest) (json.RawMessage, bool, error) {
	return w.built, w.built != nil, nil
}

func (w *attestWorld) LastPromotion(context.Context, artifact.Repository, artifact.Digest, artifact.Environment) (artifact.Promotion, bool, error) {
	if w.promotion == nil {
		return artifact.Promotion{}, false, nil
	}
	return *w.promotion, true, nil
}

func (w *attestWorld) Signatures(context.Context, artifact.Repository, artifact.Digest) ([]artifact.SignatureRecord, error) {
	return []artifact.SignatureRecord{{Manifest: artifact.DigestOf([]byte("sig"))}}, nil
}

func (w *attestWorld) Attestations(_ context.Context, r artifact.Repository, d artifact.Digest) (all []artifact.Attestation, err error) {
	for name := range w.made {
		predicate, env, _ := strings.Cut(name, " ")
		all = append(all, artifact.Attestation{Repository: r, Digest: d, Predicate: predicate, Name: env})
	}
	return all, nil
}

func (w *attestWorld) ScanAttestations(_ context.Context, _ string, after artifact.Reference, _ int) (all []artifact.Reference, err error) {
	for d := range w.manifests {
		if after.Digest.IsZero() {
			all = append(all, artifact.Reference{Repository: w.repository(), Digest: d})
		}
	}
	return all, nil
}

func (w *attestWorld) ScanAttestationStands(context.Context, string, artifact.Reference, time.Duration) (bool, error) {
	return w.stands, nil
}

func (w *attestWorld) AwaitScan(_ context.Context, _ artifact.Repository, d artifact.Digest, _ string) error {
	w.waiting = append(w.waiting, d)
	return nil
}

func (w *attestWorld) repository() artifact.Repository {
	r, err := artifact.ParseRepository("shop/returns")
	require.NoError(w.t, err)
	return r
}

func (w *attestWorld) attester() *Attester {
	return &Attester{Judge: w, Service: w, Store: w, Product: signer.Product{Version: "v1"}, Logger: slog.New(slog.DiscardHandler),
		SBOM: func(_ context.Context, _ artifact.Repository, _ artifact.Digest, format string) ([]byte, error) {
			if w.sbom == nil {
				return nil, artifact.Errorf(artifact.NotFound, "no %s", format)
			}
			return w.sbom, nil
		}}
}

func (w *attestWorld) types() (all []string) {
	for name := range w.made {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func TestAttester(t *testing.T) {
	t.Parallel()
	image, index := artifact.DigestOf([]byte("image")), artifact.DigestOf([]byte("index"))
	environment, err := artifact.ParseEnvironment("dev")
	require.NoError(t, err)
	document := []byte(`{"bomFormat":"CycloneDX"}`)
	promoted := func(d artifact.Digest) *artifact.Promotion {
		return &artifact.Promotion{ID: 1, Digest: d, Environment: environment, PolicyHash: image}
	}
	for name, c := range map[string]struct {
		world   attestWorld
		digest  artifact.Digest
		want    []string
		waiting int
	}{
		"all of an image": {attestWorld{scanned: true, sbom: document, built: json.RawMessage(`{}`), promotion: promoted(image)}, image,
			[]string{signer.ScanPredicate, signer.CycloneDXPredicate, signer.ProvenancePredicate, signer.VerificationPredicate + " dev", signer.SPDXPredicate}, 0},
		"an index":        {attestWorld{scanned: true, promotion: promoted(index)}, index, []string{signer.ScanPredicate, signer.CycloneDXPredicate, signer.VerificationPredicate + " dev", signer.SPDXPredicate}, 0},
		"not scanned":     {attestWorld{sbom: document, promotion: promoted(image)}, image, []string{signer.CycloneDXPredicate, signer.VerificationPredicate + " dev", signer.SPDXPredicate}, 1},
		"no SBOM yet":     {attestWorld{scanned: true, promotion: promoted(image)}, image, []string{signer.ScanPredicate, signer.VerificationPredicate + " dev"}, 0},
		"too large":       {attestWorld{sbom: make([]byte, signer.MaxPredicate+1), scanned: true}, image, []string{signer.ScanPredicate}, 0},
		"denied by now":   {attestWorld{denied: true, scanned: true, sbom: document, promotion: promoted(image)}, image, nil, 0},
		"deleted":         {attestWorld{scanned: true, sbom: document, promotion: promoted(image)}, artifact.DigestOf([]byte("gone")), nil, 0},
		"recalled before": {attestWorld{scanned: true, sbom: document}, image, []string{signer.ScanPredicate, signer.CycloneDXPredicate, signer.SPDXPredicate}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := c.world
			w.t, w.made = t, map[string]json.RawMessage{}
			w.manifests = map[artifact.Digest]artifact.StoredManifest{
				image: {Repository: w.repository(), Digest: image, IsImage: true, Platform: "linux/amd64"},
				index: {Repository: w.repository(), Digest: index, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeIndex, Manifests: []artifact.Descriptor{{Digest: image, Platform: &artifact.Platform{OS: "linux", Architecture: "amd64"}}}}},
			}
			job := &river.Job[attestArgs]{JobRow: &rivertype.JobRow{}, Args: attestArgs{w.repository(), c.digest, environment}}
			require.NoError(t, w.attester().Work(t.Context(), job))
			require.Equal(t, c.want, w.types())
			require.Len(t, w.waiting, c.waiting)
			if scan, ok := w.made[signer.ScanPredicate]; ok {
				require.Contains(t, string(scan), "CVE-1 of "+image.Hex()[:8], "of an index, those of its images")
			}
		})
	}
}

// TestScanAttester: what stands is left alone.
func TestScanAttester(t *testing.T) {
	t.Parallel()
	for stands, want := range map[bool]int{true: 0, false: 1} {
		w := &attestWorld{t: t, scanned: true, stands: stands, made: map[string]json.RawMessage{}}
		w.manifests = map[artifact.Digest]artifact.StoredManifest{artifact.DigestOf(nil): {Repository: w.repository(), Digest: artifact.DigestOf(nil), IsImage: true}}
		require.NoError(t, (&scanAttester{attester: w.attester()}).Work(t.Context(), nil))
		require.Len(t, w.made, want)
	}
}
