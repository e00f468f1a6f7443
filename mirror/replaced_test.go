package mirror_test

import (
	"testing"

	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func attestations(t testing.TB, envelopes ...string) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, e := range envelopes {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer([]byte(e), "application/vnd.dsse.envelope.v1+json"), MediaType: "application/vnd.dsse.envelope.v1+json"})
		require.NoError(t, err)
	}
	return img
}

// held returns the envelopes at a tag of the copy, or of what is here.
func held(t testing.TB, img v1.Image) (all []string) {
	t.Helper()
	m, err := img.Manifest()
	require.NoError(t, err)
	for _, d := range m.Layers {
		all = append(all, d.Digest.String())
	}
	return all
}

// TestReplacedAttestations: what replaces an attestation here replaces it there, and what others attested stays in both.
func TestReplacedAttestations(t *testing.T) {
	t.Parallel()
	there := newElsewhere(t, gcrregistry.WithReferrersSupport(true))
	s := newShip(t, there)
	img := s.put(image(t), "v1")
	s.rows.runs(img)
	repository := reference(t, "shop/returns:x").Repository
	tag, err := artifact.ParseTag("sha256-" + img.Hex() + ".att")
	require.NoError(t, err)
	digest := func(envelope string) string { return artifact.DigestOf([]byte(envelope)).String() }
	at := func() []string {
		got, err := remote.Image(there.ref("copies/shop/returns:" + tag.String()))
		require.NoError(t, err)
		return held(t, got)
	}
	here := func() []string {
		d, err := s.rows.ResolveTag(t.Context(), repository, tag)
		require.NoError(t, err)
		got, err := s.images.Image(t.Context(), repository, d)
		require.NoError(t, err)
		return held(t, got)
	}
	s.put(attestations(t, "ours 1"), tag.String())
	s.copied(img, "v1")
	require.Equal(t, []string{digest("ours 1")}, at())

	// Another's arrives between what is read and what replaces it.
	s.put(attestations(t, "ours 1", "another's"), tag.String())
	require.NoError(t, s.images.PutAttached(t.Context(), artifact.System, repository, tag, attestations(t, "ours 2"), []artifact.Digest{artifact.DigestOf([]byte("ours 1"))}))
	require.ElementsMatch(t, []string{digest("ours 2"), digest("another's")}, here())
	s.copied(img, "v1")
	require.ElementsMatch(t, []string{digest("ours 2"), digest("another's")}, at())

	// Who only pushes drops nothing.
	s.put(attestations(t, "ours 3"), tag.String())
	require.ElementsMatch(t, []string{digest("ours 3"), digest("ours 2"), digest("another's")}, here())

	// There, somebody else attested too: that stays, whatever is replaced here.
	require.NoError(t, remote.Write(there.ref("copies/shop/returns:"+tag.String()), attestations(t, "theirs")))
	require.NoError(t, s.images.PutAttached(t.Context(), artifact.System, repository, tag, attestations(t, "ours 4"), []artifact.Digest{artifact.DigestOf([]byte("ours 3")), artifact.DigestOf([]byte("ours 2"))}))
	s.copied(img, "v1")
	require.Subset(t, at(), []string{digest("theirs"), digest("ours 4"), digest("another's")})
}
