package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestDeletedSignature: what was signed is done, unless its signature or the tag that leads to it was deleted.
func TestDeletedSignature(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	intend := func(d artifact.Digest, key string) bool {
		done, err := s.db.IntendSignature(s.ctx, s.repository, d, "", keyID(key), artifact.DigestOf([]byte("policy")))
		require.NoError(t, err)
		return done
	}
	v1, v2, v3 := s.release("v1"), s.put("v2", tagged(t, "v2")), s.put("v3", tagged(t, "v3"))
	require.True(t, intend(v1, "key-1"))
	require.False(t, intend(v2, "key-1"))
	require.NoError(t, s.db.DeleteTag(s.ctx, s.repository, parsed(t, artifact.ParseTag, "sha256-"+v1.Hex()+".sig"), "user:ada"))
	require.False(t, intend(v1, "key-1"))

	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, s.sign(v3, "key-1"), "user:ada"))
	require.False(t, intend(v3, "key-1"))
}

// TestCosignTagKeeps: an overwrite that would drop what a cosign tag holds is refused as one to be tried again, and one
// that adds to it is not.
func TestCosignTagKeeps(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	image := s.put("v1", tagged(t, "v1"))
	tag := "sha256-" + image.Hex() + ".sig"
	signature := func(names ...string) artifact.Push {
		return push(t, s.db, s.repository, names[0], func(p *artifact.Push) {
			p.IsImage, p.Manifest.Layers = false, nil
			for _, name := range names {
				p.Manifest.Layers = append(p.Manifest.Layers, artifact.Descriptor{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json",
					Digest: artifact.DigestOf([]byte("one payload")), Size: 11, Annotations: map[string]string{"dev.cosignproject.cosign/signature": name}})
			}
			tagged(t, tag)(p)
		})
	}
	mutable := func(artifact.Tag) bool { return true }
	require.NoError(t, s.db.PutManifest(s.ctx, signature("a"), mutable))
	err := s.db.PutManifest(s.ctx, signature("b"), mutable)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), err)
	both := signature("a", "b")
	require.NoError(t, s.db.PutManifest(s.ctx, both, mutable))
	at, err := s.db.ResolveTag(s.ctx, s.repository, parsed(t, artifact.ParseTag, tag))
	require.NoError(t, err)
	require.Equal(t, both.Digest, at)
}
