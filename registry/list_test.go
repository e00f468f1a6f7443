package registry_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestReferrersOfTypes: a client may ask for several artifact types at once, as containerd does.
func TestReferrersOfTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subject := w.mustPut("v1", w.manifest(good))
	byType := map[string]artifact.Digest{}
	for _, artifactType := range []string{"application/spdx+json", "application/vnd.cyclonedx+json", "text/markdown"} {
		byType[artifactType] = w.mustPut("", w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "artifactType": artifactType, "subject": &subject,
			"config": w.blob(artifact.MediaTypeEmpty, []byte("{}")), "layers": []artifact.Descriptor{w.blob(artifactType, []byte("about it"))}})).Digest
	}
	for _, c := range []struct{ asked, want []string }{
		{nil, []string{"application/spdx+json", "application/vnd.cyclonedx+json", "text/markdown"}},
		{[]string{"text/markdown"}, []string{"text/markdown"}},
		{[]string{"text/markdown", "application/spdx+json"}, []string{"application/spdx+json", "text/markdown"}},
		{[]string{"application/x"}, nil},
	} {
		found, err := w.Referrers(t.Context(), w.pusher, w.shop, subject.Digest, c.asked)
		require.NoError(t, err)
		var got, want []artifact.Digest
		for _, d := range found {
			got = append(got, d.Digest)
		}
		for _, artifactType := range c.want {
			want = append(want, byType[artifactType])
		}
		require.ElementsMatch(t, want, got, c.asked)
	}
}
