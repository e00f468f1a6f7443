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
		done, err := s.db.IntendSignature(s.ctx, s.repository, d, "", key, artifact.DigestOf([]byte("policy")))
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
