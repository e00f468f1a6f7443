package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// TestWaiver: what it exempts is a warning that names it, on every path, until the instant at which it expires.
func TestWaiver(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.enforce(strict)
	root, err := w.arrive("v1", "token:ci", w.image("v1", "root"), "v1")
	require.Equal(t, []string{"no-root-user"}, rules(t, err))

	made := w.waive("no-root-user", policy.WaiverRequest{Digest: root, Reason: "until the base image has a user"})
	_, err = w.arrive("v1", "token:ci", w.image("v1", "root"), "v1")
	require.NoError(t, err)
	w.sign(root, "key-1")
	v := w.stored(root)
	require.Equal(t, artifact.Allow, v.Outcome)
	require.Len(t, v.Warnings(), 1)
	for _, part := range []string{"waiver 1", "until the base image has a user", "user:bob", "2026-10-04T12:00:00Z", "USER"} {
		require.Contains(t, v.Warnings()[0].Message, part)
	}
	require.True(t, v.Until.Equal(made.ExpiresAt))
	w.mustPromote("v1", "dev")
	require.Equal(t, []string{"waiver.created", "waiver.used", "waiver.used"}, w.entries())

	w.pass(72*time.Hour - time.Microsecond)
	require.Equal(t, artifact.Allow, w.outcome(root))
	require.Equal(t, artifact.Allow, w.stored(root).Outcome)
	w.pass(time.Microsecond)
	require.Equal(t, artifact.Deny, w.outcome(root), "at the instant")
	require.Equal(t, artifact.Pending, w.stored(root).Outcome, "a stored verdict does not outlive it")
	board, err := w.db.Status(w.ctx)
	require.NoError(t, err)
	require.Equal(t, artifact.Pending, board[0].Verdict)
	pushes, err := w.db.RecentPushes(w.ctx, artifact.Allow, 10)
	require.NoError(t, err)
	require.Equal(t, artifact.Pending, pushes[0].Outcome)
	_, err = w.promote("v1", "staging")
	require.Contains(t, rules(t, err), "no-root-user")
	_, err = w.arrive("v1", "token:ci", w.image("v1", "root"), "another")
	require.Equal(t, []string{"no-root-user"}, rules(t, err), "nor is it tagged anew")

	done, err := w.db.ExpireWaiver(w.ctx, made.ID)
	require.NoError(t, err)
	require.True(t, done)
	_, turned := w.rejudge()
	require.Len(t, turned, 1)
	require.Equal(t, artifact.Deny, w.stored(root).Outcome)
	require.NoError(t, w.pulls("dev", root), "what was promoted stays where it is, unless a policy recalls it")
	done, err = w.db.ExpireWaiver(w.ctx, made.ID)
	require.NoError(t, err)
	require.True(t, done)
	require.Equal(t, []string{"waiver.created", "waiver.used", "waiver.used", "waiver.expired", "digest.turned-bad"}, w.entries(), "once")
	w.sound()
}

// TestWaiverEndsMeanwhile: a verdict that was made while the waiver held does not pass after its end.
func TestWaiverEndsMeanwhile(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.enforce(strict)
	w.waive("no-root-user", policy.WaiverRequest{Repository: "shop/**"})
	root := w.lands("v1", "root")
	v, err := w.judge.JudgeStored(w.ctx, w.repository, root)
	require.NoError(t, err)
	pass, err := v.Promotion()
	require.NoError(t, err)
	p := artifact.Promotion{Action: "promote", Repository: w.repository, Environment: parsed(t, artifact.ParseEnvironment, "dev"), Digest: root, Actor: "user:ada", PolicyHash: pass.PolicyHash()}

	late := push(t, w.db, w.repository, "v2", w.image("v2", "root"))
	late.Verdict = v.VerdictRecord
	late.Verdict.Digest = late.Digest
	_, err = w.waiving.Revoke(w.ctx, w.bob, 1)
	require.NoError(t, err)
	_, err = w.db.Promote(w.ctx, w.to(p, pass))
	require.ErrorContains(t, err, "ended at this moment")
	require.ErrorContains(t, w.db.PutManifest(w.ctx, late, func(artifact.Tag) bool { return true }), "ended at this moment")
	require.Equal(t, artifact.Pending, w.stored(root).Outcome)

	w.waive("no-root-user", policy.WaiverRequest{Repository: "shop/**"})
	v, err = w.judge.JudgeStored(w.ctx, w.repository, root)
	require.NoError(t, err)
	pass, err = v.Promotion()
	require.NoError(t, err)
	w.pass(72 * time.Hour)
	_, err = w.db.Promote(w.ctx, w.to(p, pass))
	require.ErrorContains(t, err, "promote again")

	good := w.lands("v3", "1000")
	v, err = w.judge.JudgeStored(w.ctx, w.repository, good)
	require.NoError(t, err)
	pass, err = v.Promotion()
	require.NoError(t, err)
	w.enforce(lax)
	p.Digest = good
	_, err = w.db.Promote(w.ctx, w.to(p, pass))
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "nor does a verdict of older policies")
	w.sound()
}

// TestWhoMayWaive: an approver of the repositories, and not who pushed the digest.
func TestWhoMayWaive(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.enforce(strict)
	root, err := w.arrive("v1", "user:bob", w.image("v1", "root"), "v1")
	require.Error(t, err)
	ours, err := w.arrive("v2", "token:ci/ba9876543210", w.image("v2", "root"), "v2")
	require.Error(t, err)
	until := w.now().Add(time.Hour)
	scoped := artifact.Principal{Name: "user:eve", Role: artifact.Approver, Repositories: []string{"shop/*"}}
	elsewhere := artifact.Principal{Name: "user:eve", Role: artifact.Approver, Repositories: []string{"lab/**"}}
	for what, c := range map[string]struct {
		by      artifact.Principal
		request policy.WaiverRequest
		want    string
	}{
		"the pusher":           {w.bob, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: until, Reason: "x"}, "nobody waives a rule for what they pushed"},
		"by another token":     {artifact.Principal{Name: "token:ci/0123456789ab", Role: artifact.Approver}, policy.WaiverRequest{Rule: "no-root-user", Digest: ours, Expires: until, Reason: "x"}, "nobody waives a rule for what they pushed"},
		"a promoter":           {w.ada, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: until, Reason: "x"}, "role approver"},
		"of other places":      {elsewhere, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: until, Reason: "x"}, "nobody pushed"},
		"a wider pattern":      {scoped, policy.WaiverRequest{Rule: "no-root-user", Repository: "shop/**", Expires: until, Reason: "x"}, "not approve in all of shop/**"},
		"another pattern":      {scoped, policy.WaiverRequest{Rule: "no-root-user", Repository: "**", Expires: until, Reason: "x"}, "not approve in all"},
		"what nobody pushed":   {scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: artifact.DigestOf([]byte("x")), Expires: until, Reason: "x"}, "nobody pushed"},
		"inspect":              {scoped, policy.WaiverRequest{Rule: "inspect", Digest: root, Expires: until, Reason: "x"}, "cannot be waived"},
		"honest-config":        {scoped, policy.WaiverRequest{Rule: "honest-config", Digest: root, Expires: until, Reason: "x"}, "cannot be waived"},
		"a rule that none has": {scoped, policy.WaiverRequest{Rule: "no-rot-user", Digest: root, Expires: until, Reason: "x"}, "no policy in force has a rule"},
		"no reason":            {scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: until, Reason: " "}, "needs a reason"},
		"both":                 {scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Repository: "shop/x", Expires: until, Reason: "x"}, "give one of them"},
		"neither":              {scoped, policy.WaiverRequest{Rule: "no-root-user", Expires: until, Reason: "x"}, "give one of them"},
		"too long":             {scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: w.now().Add(91 * 24 * time.Hour), Reason: "x"}, "at most"},
		"in the past":          {scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: w.now(), Reason: "x"}, "expired already"},
		"a rule of words":      {scoped, policy.WaiverRequest{Rule: "no root", Digest: root, Expires: until, Reason: "x"}, "RULE:FINDING"},
	} {
		_, err := w.waiving.Create(w.ctx, c.by, c.request)
		require.ErrorContains(t, err, c.want, what)
	}
	made, err := w.waiving.Create(w.ctx, scoped, policy.WaiverRequest{Rule: "no-root-user", Digest: root, Expires: until, Reason: "x"})
	require.NoError(t, err)
	require.Equal(t, []string{"shop/*"}, made.Repositories, "it holds where its creator approves")
	_, err = w.arrive("v1", "user:eve", w.image("v1", "root"), "v1")
	require.ErrorContains(t, err, "nobody waives a rule for what they push", "nor does who waived push it then")
	_, err = w.arrive("v1", "user:bob", w.image("v1", "root"), "v1")
	require.NoError(t, err)

	listed, _, err := w.waiving.List(w.ctx, elsewhere, true, 0, 10)
	require.NoError(t, err)
	require.Empty(t, listed)
	_, err = w.waiving.Revoke(w.ctx, elsewhere, made.ID)
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	w.waive("no-sshd", policy.WaiverRequest{Repository: "lab/**"})
	w.waive("no-sshd", policy.WaiverRequest{Repository: "shop/**"})
	_, err = w.waiving.Create(w.ctx, w.bob, policy.WaiverRequest{Rule: "no-sshd", Repository: "x/y", Expires: until, Reason: "x"})
	require.ErrorContains(t, err, "3 waivers are in force")
	ended, err := w.waiving.Revoke(w.ctx, w.bob, made.ID)
	require.NoError(t, err)
	require.Equal(t, "user:bob", ended.RevokedBy)
	require.Equal(t, artifact.Deny, w.outcome(root), "at once")
	_, err = w.waiving.Revoke(w.ctx, w.bob, made.ID)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	w.sound()

	_, err = w.db.Pool.Exec(w.ctx, `update waivers set expires_at = expires_at + interval '1 year'`)
	require.ErrorContains(t, err, "only ends")
	_, err = w.db.Pool.Exec(w.ctx, `alter table waivers disable trigger waiver_only_ends`)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(w.ctx, `update waivers set expires_at = expires_at + interval '1 year' where id = $1`, made.ID)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(w.ctx, `update waivers set revoked_at = null, revoked_by = null where id = $1`, made.ID)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(w.ctx, `insert into waivers (rule, repositories, reason, created_by, created_at, expires_at, ledger_index) values ('no-sshd', '{**}', 'x', 'user:eve', now(), now() + interval '1 hour', 0)`)
	require.NoError(t, err)
	report, err := w.db.Audit(w.ctx)
	require.NoError(t, err)
	require.Len(t, report.Problems, 3, "an audit finds a waiver that was changed, that it was revoked, and one that was slipped in: %v", report.Problems)
}
