package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestDeniedTag: a push that was denied for its tag leaves the digest's verdict as it is; one that was denied for what
// it holds replaces it.
func TestDeniedTag(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	p := push(t, s.db, s.repository, "v1", nil)
	require.NoError(t, s.db.PutManifest(s.ctx, p, movable))
	outcome := func() artifact.Outcome {
		v, err := s.db.RefusedVerdict(s.ctx, s.repository, p.Digest.String())
		require.NoError(t, err)
		return v.Outcome
	}
	p.Verdict.Outcome, p.Verdict.Reasons = artifact.Deny, []artifact.Reason{{Rule: "no-latest", Tag: "latest"}, {Rule: "max-size", Warning: true}}
	require.NoError(t, s.db.SaveDenied(s.ctx, p))
	require.Equal(t, artifact.Allow, outcome())
	p.Verdict.Reasons = append(p.Verdict.Reasons, artifact.Reason{Rule: "no-sshd"})
	require.NoError(t, s.db.SaveDenied(s.ctx, p))
	require.Equal(t, artifact.Deny, outcome())
	entries, err := s.db.Entries(s.ctx, 0, 100)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(entries), 3, "each denial is recorded")

	fresh := push(t, s.db, s.repository, "latest", nil)
	fresh.Verdict.Outcome, fresh.Verdict.Reasons = artifact.Deny, []artifact.Reason{{Rule: "no-latest", Tag: "latest"}}
	require.NoError(t, s.db.SaveDenied(s.ctx, fresh))
	v, err := s.db.RefusedVerdict(s.ctx, s.repository, "latest")
	require.NoError(t, err)
	require.Equal(t, fresh.Digest, v.Digest, "who pushed it finds out why")
}
