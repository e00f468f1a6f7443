package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestAttached: who waits for a signature is told of what is attached, and what a signature is about is found.
func TestAttached(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var told []artifact.Digest
	s.db.OnAttached = func(_ context.Context, _ pgx.Tx, ref artifact.Reference) error {
		require.Equal(t, s.repository, ref.Repository)
		told = append(told, ref.Digest)
		return nil
	}
	waits := func(p *artifact.Push) {
		p.Verdict.Reasons = []artifact.Reason{{Rule: "require-signature", Message: "nobody signed it", Warning: true, Promotion: true, Signature: true}}
	}
	waiting, whole := s.put("waiting", waits), s.put("whole", nil)
	inner := s.put("inner", index(waiting, whole))
	outer := s.put("outer", index(inner))

	bundle := func(p *artifact.Push) { p.Manifest.ArtifactType = "application/vnd.dev.sigstore.bundle.v0.3+json" }
	sbom := s.put("SBOM", attached(waiting))
	signature := s.put("signature", func(p *artifact.Push) { attached(waiting)(p); bundle(p) })
	s.put("signature of what waits for none", func(p *artifact.Push) { attached(whole)(p); bundle(p) })
	require.Equal(t, []artifact.Digest{waiting, waiting, whole}, told)
	told = nil
	tag := "sha256-" + waiting.Hex() + ".sig"
	atTag := func(p *artifact.Push) {
		tagged(t, tag)(p)
		p.IsImage = false
		p.Manifest.Layers[0].MediaType = "text/plain"
	}
	s.put("at cosign's tag", atTag)
	s.put("at cosign's tag", atTag)
	require.Equal(t, []artifact.Digest{waiting}, told, "and a push that changes nothing tells nothing")

	found, err := s.db.ReferrersLike(s.ctx, s.repository, waiting, []string{"application/vnd.dev.sigstore.bundle"}, 10)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, signature, found[0].Digest)
	found, err = s.db.ReferrersLike(s.ctx, s.repository, waiting, []string{"application/vnd.dev", ""}, 10)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Contains(t, []artifact.Digest{found[0].Digest, found[1].Digest}, sbom)
	found, err = s.db.ReferrersLike(s.ctx, s.repository, waiting, []string{""}, 1)
	require.NoError(t, err)
	require.Len(t, found, 1)

	holders, err := s.db.Holders(s.ctx, s.repository, waiting, 10)
	require.NoError(t, err)
	require.ElementsMatch(t, []artifact.Digest{inner, outer}, holders)
	holders, err = s.db.Holders(s.ctx, s.repository, outer, 10)
	require.NoError(t, err)
	require.Empty(t, holders)
	for _, d := range []artifact.Digest{inner, outer} {
		related, err := s.db.Related(s.ctx, artifact.Reference{Repository: s.repository, Digest: d}, 10)
		require.NoError(t, err)
		require.Len(t, related, 4)
		require.False(t, related[1].Manifest.IsIndex(), "what is held comes first")
		require.True(t, related[2].Manifest.IsIndex())
	}
	related, err := s.db.Related(s.ctx, artifact.Reference{Repository: s.repository, Digest: whole}, 10)
	require.NoError(t, err)
	require.Len(t, related, 3, "not what lies beside it")

	s.sign(whole, "key-1")
	all := []artifact.Reference{{Repository: s.repository, Digest: waiting}, {Repository: s.repository, Digest: whole}}
	unsigned, err := s.db.Unsigned(s.ctx, all)
	require.NoError(t, err)
	require.Equal(t, all[:1], unsigned)
}
