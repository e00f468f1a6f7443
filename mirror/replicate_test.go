package mirror_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/mirror"
	"waybill/postgres"
)

// ship is a registry of ours, and where an environment of it stands.
type ship struct {
	*world
	*mirror.Copier
	rows *promoted
}

// promoted is the real rows, but for what runs where.
type promoted struct {
	*postgres.DB
	mu       sync.Mutex
	current  []artifact.Digest // answers in turn; the last one stays
	recalled []string
}

func (p *promoted) Current(_ context.Context, r artifact.Repository, e artifact.Environment) (artifact.Deployment, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := artifact.Deployment{Repository: r, Environment: e}
	if len(p.current) > 0 {
		d.Digest = p.current[0]
	}
	if len(p.current) > 1 {
		p.current = p.current[1:]
	}
	return d, !d.Digest.IsZero(), nil
}

func (p *promoted) RecalledIn(context.Context, artifact.Repository, artifact.Digest) ([]string, error) {
	return p.recalled, nil
}

func (p *promoted) runs(digests ...artifact.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = digests
}

func newShip(t testing.TB, there *elsewhere) *ship {
	w := newWorld(t)
	s := &ship{world: w, rows: &promoted{DB: w.db}}
	production, err := artifact.ParseEnvironment("production")
	require.NoError(t, err)
	s.Copier, err = mirror.NewCopier(mirror.CopierConfig{Targets: []mirror.Target{{Remote: mirror.Remote{Name: "edge", URL: there.URL, Insecure: true}, Repositories: []string{"shop/**"},
		Environments: []artifact.Environment{production}, Prefix: "copies"}}, Promoted: s.rows, Bytes: w.bytes, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return s
}

func (s *ship) put(img v1.Image, tags ...string) artifact.Digest {
	s.t.Helper()
	var parsed []artifact.Tag
	for _, text := range tags {
		tag, err := artifact.ParseTag(text)
		require.NoError(s.t, err)
		parsed = append(parsed, tag)
	}
	d, err := s.images.PutImage(s.t.Context(), artifact.System, reference(s.t, "shop/returns:x").Repository, parsed, img)
	require.NoError(s.t, err)
	return d
}

// released is an image with what belongs to it: cosign's signature, an SBOM as a referrer, a signature of the SBOM.
func (s *ship) released(tag string) (img, sig, sbom, sbomSig artifact.Digest) {
	s.t.Helper()
	img = s.put(image(s.t), tag)
	sig = s.put(signatures(s.t, nil, "signature of "+tag), "sha256-"+img.Hex()+".sig")
	sbom = s.put(referrer(s.t, s.world, img))
	return img, sig, sbom, s.put(referrer(s.t, s.world, sbom))
}

func signatures(t testing.TB, base v1.Image, payload string) v1.Image {
	t.Helper()
	if base == nil {
		base = mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	}
	img, err := mutate.Append(base, mutate.Addendum{Layer: static.NewLayer([]byte(payload), "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": "by us"}, MediaType: "application/vnd.dev.cosign.simplesigning.v1+json"})
	require.NoError(t, err)
	return img
}

func referrer(t testing.TB, w *world, subject artifact.Digest, more ...string) v1.Image {
	t.Helper()
	m, err := w.db.Manifest(t.Context(), reference(t, "shop/returns:x").Repository, subject)
	require.NoError(t, err)
	hash, err := v1.NewHash(subject.String())
	require.NoError(t, err)
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	img, err := mutate.AppendLayers(base, static.NewLayer([]byte(`{"of":"`+subject.String()+strings.Join(more, " ")+`"}`), "application/vnd.cyclonedx+json"))
	require.NoError(t, err)
	return mutate.Subject(img, v1.Descriptor{MediaType: types.MediaType(m.Manifest.MediaType), Digest: hash, Size: int64(len(m.Body))}).(v1.Image)
}

func (s *ship) replicate(digest artifact.Digest, version string) (artifact.Replication, error) {
	production, err := artifact.ParseEnvironment("production")
	require.NoError(s.t, err)
	return s.Copy(s.t.Context(), artifact.Replication{Target: "edge", Repository: reference(s.t, "shop/returns:x").Repository, Digest: digest, Environment: production, Version: version})
}

func (s *ship) copied(digest artifact.Digest, version string) {
	s.t.Helper()
	r, err := s.replicate(digest, version)
	require.NoError(s.t, err)
	require.Equal(s.t, artifact.ReplicationCopied, r.State)
	require.Empty(s.t, r.Problem)
}

// at returns what a reference of the copy stands at, or "".
func (e *elsewhere) at(ref string) string {
	d, err := remote.Head(e.ref("copies/shop/returns" + ref))
	if err != nil {
		return ""
	}
	return d.Digest.String()
}

func TestReplicates(t *testing.T) {
	t.Parallel()
	for name, referrers := range map[string]bool{"with the referrers API": true, "with referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			there := newElsewhere(t, gcrregistry.WithReferrersSupport(referrers))
			s := newShip(t, there)
			img, sig, sbom, sbomSig := s.released("v1")
			other := s.put(image(t), "v0")
			s.rows.runs(img)
			s.copied(img, "v1")
			for ref, want := range map[string]artifact.Digest{":v1": img, ":production": img, ":sha256-" + img.Hex() + ".sig": sig, "@" + sbom.String(): sbom, "@" + sbomSig.String(): sbomSig} {
				require.Equal(t, want.String(), there.at(ref), ref)
			}
			require.Empty(t, there.at("@"+other.String()), "nothing else goes with it")
			for subject, want := range map[artifact.Digest]artifact.Digest{img: sbom, sbom: sbomSig} {
				list, err := remote.Referrers(there.ref("copies/shop/returns@" + subject.String()).Context().Digest(subject.String()))
				require.NoError(t, err)
				index, err := list.IndexManifest()
				require.NoError(t, err)
				require.Len(t, index.Manifests, 1)
				require.Equal(t, want.String(), index.Manifests[0].Digest.String())
			}
			pulled, err := remote.Image(there.ref("copies/shop/returns:production"))
			require.NoError(t, err)
			layers, err := pulled.Layers()
			require.NoError(t, err)
			require.Len(t, layers, 2)

			// Again: what is there is not sent again.
			there.forget()
			s.copied(img, "v1")
			require.Zero(t, there.count("POST"))
			require.Zero(t, there.count("PUT /v2/copies/shop/returns/manifests/"+img.String()))

			// What arrives later comes along.
			late := s.put(referrer(t, s.world, img, "late"))
			s.copied(img, "")
			require.Equal(t, late.String(), there.at("@"+late.String()))
		})
	}
}

func TestReplicatesIndex(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	index, amd, arm := platforms(t)
	s.put(amd)
	s.put(arm)
	raw, err := index.RawManifest()
	require.NoError(t, err)
	_, err = s.images.PutManifest(t.Context(), artifact.System, reference(t, "shop/returns:v1"), artifact.MediaTypeIndex, raw, nil)
	require.NoError(t, err)
	digest := artifact.DigestOf(raw)
	s.copied(digest, "v1")
	require.Equal(t, digest.String(), there.at(":v1"))
	require.NotEmpty(t, there.at("@"+digestOf(t, amd)))
	require.NotEmpty(t, there.at("@"+digestOf(t, arm)))
	require.Empty(t, there.at(":production"), "it is not what runs there")
}

// TestReplicationGoesOn: whatever fails, the next attempt finishes it, and nothing is tagged before all is there.
func TestReplicationGoesOn(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	img, _, sbom, _ := s.released("v1")
	s.rows.runs(img)
	for _, at := range []string{"/v2/", "/blobs/uploads", "/manifests/" + img.String(), "/manifests/" + sbom.String(), ".sig", "/manifests/v1", "/manifests/production"} {
		there.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead || !strings.Contains(r.URL.Path, at) {
				return false
			}
			w.WriteHeader(http.StatusInsufficientStorage)
			return true
		})
		_, err := s.replicate(img, "v1")
		require.ErrorContains(t, err, "edge ("+there.URL+")", at)
		require.ErrorContains(t, err, "507")
		require.NotEmpty(t, artifact.KindOf(err))
		if !strings.Contains(at, "manifests/v1") && !strings.Contains(at, "production") {
			require.Empty(t, there.at(":v1"), at)
		}
		require.Empty(t, there.at(":production"), at)
	}
	there.answer(nil)
	s.copied(img, "v1")
	require.Equal(t, img.String(), there.at(":production"))
}

// TestReplicationOfTwo: the environment's name ends where it stands here, whichever copy ends last.
func TestReplicationOfTwo(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	old, newer := s.put(image(t), "v1"), s.put(image(t), "v2")
	s.rows.runs(newer)
	s.copied(newer, "v2")
	s.copied(old, "v1") // late
	require.Equal(t, newer.String(), there.at(":production"))
	require.Equal(t, old.String(), there.at(":v1"))

	s.rows.runs(old, newer) // it moves while the older one is being named
	s.copied(old, "v1")
	require.Equal(t, newer.String(), there.at(":production"))
}

// TestSignaturesAreMerged: what another signer left there stays, and ours is added.
func TestSignaturesAreMerged(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	img, _, _, _ := s.released("v1")
	tag := "copies/shop/returns:sha256-" + img.Hex() + ".sig"
	there.push(tag, signatures(t, nil, "theirs"))
	s.copied(img, "v1")
	payloads := func() []string {
		signed, err := remote.Image(there.ref(tag))
		require.NoError(t, err)
		m, err := signed.Manifest()
		require.NoError(t, err)
		var all []string
		for _, d := range m.Layers {
			require.Equal(t, "by us", d.Annotations["dev.cosignproject.cosign/signature"])
			all = append(all, d.Digest.String())
		}
		config, err := partial.ConfigLayer(signed)
		require.NoError(t, err)
		_, err = config.Uncompressed()
		require.NoError(t, err)
		return all
	}
	want := []string{artifact.DigestOf([]byte("theirs")).String(), artifact.DigestOf([]byte("signature of v1")).String()}
	require.Equal(t, want, payloads())
	s.copied(img, "v1")
	require.Equal(t, want, payloads(), "once")
}

// TestSignedMeanwhile: another Waybill signs what arrives at the same moment, and lets no signature be dropped.
func TestSignedMeanwhile(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	img, _, _, _ := s.released("v1")
	tag := "copies/shop/returns:sha256-" + img.Hex() + ".sig"
	there.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, ".sig") {
			return false
		}
		there.answer(nil)
		there.push(tag, signatures(t, nil, "theirs"))
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	s.copied(img, "v1")
	signed, err := remote.Image(there.ref(tag))
	require.NoError(t, err)
	layers, err := signed.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 2)
}

func TestReplicationDropped(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	img := s.put(image(t), "v1")
	s.rows.recalled = []string{"it was recalled by user:ada: CVE"}
	r, err := s.replicate(img, "v1")
	require.NoError(t, err)
	require.Equal(t, artifact.ReplicationDropped, r.State)
	require.Contains(t, r.Problem, "CVE")
	s.rows.recalled = nil
	r, err = s.replicate(artifact.DigestOf([]byte("x")), "v1")
	require.NoError(t, err)
	require.Equal(t, artifact.ReplicationDropped, r.State)
	require.Zero(t, there.count(""))
	r, err = s.Copy(t.Context(), artifact.Replication{Target: "nowhere", Digest: img})
	require.NoError(t, err)
	require.Equal(t, artifact.ReplicationDropped, r.State)
}

// TestKeepsItsNames: a registry that keeps an environment's name to itself has the digest all the same.
func TestKeepsItsNames(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t)
	s := newShip(t, there)
	img := s.put(image(t), "v1")
	s.rows.runs(img)
	there.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/manifests/production") {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	r, err := s.replicate(img, "v1")
	require.NoError(t, err)
	require.Equal(t, artifact.ReplicationCopied, r.State)
	require.Contains(t, r.Problem, "keeps the tag production")
}

func TestTargets(t *testing.T) {
	t.Parallel()
	s := newShip(t, newElsewhere(t))
	production, err := artifact.ParseEnvironment("production")
	require.NoError(t, err)
	staging, err := artifact.ParseEnvironment("staging")
	require.NoError(t, err)
	require.Equal(t, []string{"edge"}, s.Targets(reference(t, "shop/a:x").Repository, production))
	require.Empty(t, s.Targets(reference(t, "shop/a:x").Repository, staging))
	require.Empty(t, s.Targets(reference(t, "lab/a:x").Repository, production))
}

var _ mirror.Bytes = (*blob.File)(nil)
