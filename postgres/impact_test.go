package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// TestImpact: it tells what would change, where that runs and why, and changes nothing.
func TestImpact(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.enforce(lax)
	bad := w.lands("v1", "root")
	w.lands("v2", "1000")
	child := w.lands("child", "root")
	multi, err := w.arrive("multi", "token:ci", index(child), "multi")
	require.NoError(t, err)
	excepted := w.lands("excepted", "root")
	w.waive("no-root-user", policy.WaiverRequest{Digest: excepted})
	w.mustPromote("v1", "dev", "staging")
	w.mustPromote("v2", "dev")
	before := len(w.entries())

	parsed, err := policy.Parse("stricter.yaml", []byte(strict+"  whenPromotedTurnsBad: recall\n"))
	require.NoError(t, err)
	changes := map[artifact.Digest]policy.ImpactChange{}
	judged := 0
	everywhere := func(artifact.Repository) bool { return true }
	impact, err := w.many.Impact(w.ctx, w.db, parsed, everywhere, func(c *policy.ImpactChange, n int) {
		if judged = n; c != nil {
			changes[c.Digest] = *c
		}
	})
	require.NoError(t, err)
	require.Equal(t, policy.Impact{Images: 5, Denied: 3, Recalled: 1, Environments: map[string]int{"staging": 1}}, impact)
	require.Equal(t, 5, judged)
	require.Len(t, changes, 3)
	require.Contains(t, changes, multi)
	c := changes[bad]
	require.Equal(t, artifact.Allow, c.Was)
	require.Equal(t, artifact.Deny, c.Becomes)
	require.Equal(t, artifact.RespondRecall, c.Response)
	require.Equal(t, "v1", c.Tags[0].String())
	require.Len(t, c.Current, 1)
	require.Len(t, c.Promoted, 2)
	require.Equal(t, "no-root-user", c.Reasons[0].Rule)
	require.Empty(t, changes[child].Response, "it is promoted nowhere")
	require.Equal(t, artifact.Allow, w.outcome(bad))
	require.Len(t, w.entries(), before)

	w.enforce(strict)
	parsed, err = policy.Parse("laxer.yaml", []byte(lax))
	require.NoError(t, err)
	impact, err = w.many.Impact(w.ctx, w.db, parsed, everywhere, func(c *policy.ImpactChange, _ int) {
		if c != nil {
			require.Equal(t, artifact.Allow, c.Becomes)
			require.Equal(t, "no-root-user", c.Reasons[0].Rule, "what would not deny it any more")
		}
	})
	require.NoError(t, err)
	require.Equal(t, 3, impact.Allowed)
	nowhere := func(artifact.Repository) bool { return false }
	impact, err = w.many.Impact(w.ctx, w.db, parsed, nowhere, func(c *policy.ImpactChange, _ int) { require.Nil(t, c) })
	require.NoError(t, err)
	require.Zero(t, impact.Images)

	m, err := w.db.Manifest(w.ctx, w.repository, bad)
	require.NoError(t, err)
	v, err := w.judge.JudgeUnder(w.ctx, m, policy.Replace(nil, parsed))
	require.NoError(t, err)
	require.Equal(t, artifact.Allow, v.Outcome)
	_, err = v.Pass()
	require.Error(t, err, "what is tried out is no permission")
}
