package registry_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"waybill/artifact"
	"waybill/registry"
)

const signatureAnnotation = "dev.cosignproject.cosign/signature"

// signature is what cosign would push: signatures of one payload, by as many keys.
func (w *world) signature(signatures ...string) []byte {
	w.t.Helper()
	payload := w.blob(simpleSigning, []byte(`{"critical":{"identity":{}}}`))
	var layers []artifact.Descriptor
	var diffs []string
	for _, s := range signatures {
		payload.Annotations = map[string]string{signatureAnnotation: s}
		layers, diffs = append(layers, payload), append(diffs, fmt.Sprintf("%q", payload.Digest))
	}
	config := w.blob(artifact.MediaTypeConfig, []byte(`{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[`+strings.Join(diffs, ",")+`]}}`))
	return w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "config": config, "layers": layers})
}

// signatures returns what a tag holds.
func (w *world) signatures(tag string) []string {
	w.t.Helper()
	m, err := w.GetManifest(w.t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Tag: parse(w.t, artifact.ParseTag, tag)})
	require.NoError(w.t, err)
	var all []string
	for _, d := range m.Manifest.Layers {
		all = append(all, d.Annotations[signatureAnnotation])
	}
	return all
}

func TestPushBeside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tag := "sha256-" + strings.Repeat("0", 64) + ".sig"
	first := w.mustPut(tag, w.signature("waybill"))
	copied := w.signature("copied", "another")
	pushed, err := w.put(tag, copied)
	require.NoError(t, err)
	require.Len(t, pushed.Warnings, 1)
	require.Equal(t, []string{"copied", "another", "waybill"}, w.signatures(tag))
	there, err := w.GetManifest(t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Digest: pushed.Digest})
	require.NoError(t, err)
	require.Equal(t, copied, there.Body, "what was pushed is there by its digest")

	// A copy of what is there, and of what was, changes nothing.
	for _, body := range [][]byte{copied, w.signature("waybill"), w.signature("another")} {
		w.mustPut(tag, body)
		require.ElementsMatch(t, []string{"copied", "another", "waybill"}, w.signatures(tag))
	}
	// What is deleted is not kept.
	require.NoError(t, w.DeleteManifest(t.Context(), w.admin, artifact.Reference{Repository: w.shop, Tag: parse(t, artifact.ParseTag, tag)}))
	require.Equal(t, first.Digest, w.mustPut(tag, w.signature("waybill")).Digest)
	require.Equal(t, []string{"waybill"}, w.signatures(tag))

	// What is no signature is stored nowhere.
	for what, body := range map[string][]byte{"image": w.manifest(good), "index": w.wire(map[string]any{"mediaType": artifact.MediaTypeIndex, "manifests": []artifact.Descriptor{}})} {
		_, err = w.put(tag, body)
		require.ErrorContains(t, err, "where cosign keeps", what)
		_, err = w.GetManifest(t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Digest: artifact.DigestOf(body)})
		require.Equal(t, artifact.NotFound, artifact.KindOf(err), what)
	}
}

// TestPushBesideAtOnce: of several who push at the same moment each finds its signature kept.
func TestPushBesideAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tag := "sha256-" + strings.Repeat("0", 64) + ".sig"
	var all []string
	var pushers errgroup.Group
	for i := range 8 {
		all = append(all, fmt.Sprint(i))
		body := w.signature(all[i])
		pushers.Go(func() error {
			_, err := w.put(tag, body)
			return err
		})
	}
	require.NoError(t, pushers.Wait())
	require.ElementsMatch(t, all, w.signatures(tag))
}

// TestPushBesideByDigest: a tag that comes as a parameter of a push by digest is one as any.
func TestPushBesideByDigest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tag := parse(t, artifact.ParseTag, "sha256-"+strings.Repeat("0", 64)+".sig")
	other := parse(t, artifact.ParseTag, "sha256-"+strings.Repeat("1", 64)+".sig")
	plain := parse(t, artifact.ParseTag, "signed")
	w.mustPut(tag.String(), w.signature("waybill"))
	copied := w.signature("copied")
	push := func(d artifact.Digest, tags ...artifact.Tag) (registry.Pushed, error) {
		return w.PutManifest(t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Digest: d}, artifact.MediaTypeManifest, copied, tags)
	}
	pushed, err := push(artifact.DigestOf(copied), plain, tag, other)
	require.NoError(t, err)
	require.Equal(t, artifact.DigestOf(copied), pushed.Digest)
	require.ElementsMatch(t, []artifact.Tag{plain, tag, other}, pushed.Tags)
	require.Len(t, pushed.Warnings, 1)
	require.Equal(t, []string{"copied", "waybill"}, w.signatures(tag.String()))
	require.Equal(t, []string{"copied"}, w.signatures(other.String()))
	require.Equal(t, []string{"copied"}, w.signatures(plain.String()))

	_, err = push(artifact.DigestOf([]byte("another")), tag)
	require.ErrorContains(t, err, "the manifest is "+artifact.DigestOf(copied).String())
	sum := artifact.NewHash("sha512")
	sum.Write(copied)
	long := artifact.DigestFrom("sha512", sum)
	pushed, err = push(long, tag)
	require.NoError(t, err)
	require.Equal(t, long, pushed.Digest, "as it was asked for")
	require.Equal(t, []string{"copied", "waybill"}, w.signatures(tag.String()))
}
