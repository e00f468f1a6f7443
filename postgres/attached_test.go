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

// TestDeletedWithSubject: what the service attached to a manifest goes with it, and what others attached, or made theirs, stays.
func TestDeletedWithSubject(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	own := func(change func(*artifact.Push)) func(*artifact.Push) {
		return func(p *artifact.Push) {
			p.PushedBy, p.Attached = artifact.System.Name, true
			change(p)
		}
	}
	atTag := func(subject artifact.Digest, suffix string) func(*artifact.Push) {
		return func(p *artifact.Push) {
			p.IsImage = false
			p.Manifest.Layers[0].MediaType = "text/plain"
			tagged(t, "sha256-"+subject.Hex()+suffix)(p)
		}
	}
	v1, v2 := s.put("v1", tagged(t, "v1")), s.put("v2", tagged(t, "v2"))
	gone := []artifact.Digest{s.put("SBOM", own(attached(v1))), s.put("signature", own(atTag(v1, ".sig")))}
	stay := []artifact.Digest{
		s.put("somebody's SBOM", attached(v1)),
		s.put("an SBOM that somebody tagged", own(func(p *artifact.Push) { attached(v1)(p); tagged(t, "sbom")(p) })),
		s.put("the other image's SBOM", own(attached(v2))), s.put("the other image's signature", own(atTag(v2, ".sig"))),
	}
	held := s.put("an SBOM that an index holds", own(attached(v1)))
	described := s.put("an SBOM that something refers to", own(attached(v1)))
	stay = append(stay, held, s.put("index", index(held)), described, s.put("about the SBOM", attached(described)))
	// Somebody's attestations, to which the service added its own.
	layers := s.put("attestations", atTag(v1, ".att"))
	was, err := s.db.Manifest(s.ctx, s.repository, layers)
	require.NoError(t, err)
	stay = append(stay, s.put("and more attestations", own(func(p *artifact.Push) {
		atTag(v1, ".att")(p)
		p.Manifest.Layers = append(p.Manifest.Layers, was.Manifest.Layers...)
	})))

	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, v1, "user:ada"))
	for _, d := range append(gone, v1) {
		_, err := s.db.Manifest(s.ctx, s.repository, d)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
	for _, d := range append(stay, v2) {
		_, err := s.db.Manifest(s.ctx, s.repository, d)
		require.NoError(t, err)
	}
	entries, err := s.db.Entries(s.ctx, 0, 1000)
	require.NoError(t, err)
	var deleted []string
	for _, e := range entries {
		if e.Entry.Kind == "manifest.deleted" {
			deleted = append(deleted, e.Entry.Digest.String()+" by "+e.Entry.Actor)
		}
	}
	require.ElementsMatch(t, []string{v1.String() + " by user:ada", gone[0].String() + " by user:ada", gone[1].String() + " by user:ada"}, deleted)

	late := push(t, s.db, s.repository, "late", own(attached(v1)))
	require.Equal(t, artifact.NotFound, artifact.KindOf(s.db.PutManifest(s.ctx, late, nil)), "what is attached too late is not stored")
	late = push(t, s.db, s.repository, "late signature", own(atTag(v1, ".sig")))
	require.Equal(t, artifact.NotFound, artifact.KindOf(s.db.PutManifest(s.ctx, late, nil)))
	s.put("somebody's, late", attached(v1))

	// It is whole when it comes again.
	require.Equal(t, v1, s.put("v1", tagged(t, "v1")))
	require.Equal(t, gone, []artifact.Digest{s.put("SBOM", own(attached(v1))), s.put("signature", own(atTag(v1, ".sig")))})
	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, v1, "user:ada"))
	for _, d := range gone {
		_, err := s.db.Manifest(s.ctx, s.repository, d)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
}
