package postgres_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// TestOlderPolicy: what an older policy allowed is judged anew when it is tagged, promoted or rolled back to.
func TestOlderPolicy(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	byDigest, err := w.arrive("v0", "token:ci", w.image("v0", "root"))
	require.NoError(t, err)
	w.sign(byDigest, "key-1")
	w.lands("v1", "root")
	w.lands("v2", "1000")
	w.mustPromote("v1", "dev", "staging")
	w.mustPromote("v2", "dev")
	w.enforce(strict)

	_, err = w.arrive("v0", "token:ci", w.image("v0", "root"), "v0")
	require.Equal(t, []string{"no-root-user"}, rules(t, err), "a manifest that came by its digest is judged when it is tagged")
	_, err = w.promote(byDigest.String(), "dev")
	require.Equal(t, []string{"no-root-user"}, rules(t, err))
	_, err = w.promote("v1", "production")
	require.Equal(t, []string{"no-root-user"}, rules(t, err))
	_, err = w.rollback("dev")
	require.Equal(t, []string{"no-root-user"}, rules(t, err))
	tags, err := w.db.TagsOf(w.ctx, w.repository, byDigest)
	require.NoError(t, err)
	require.Empty(t, tags)
	w.mustPromote("v2", "staging")
}

// TestTurnedBad: what is promoted and denied by a stricter policy is told once, and recalled where the policy says so.
func TestTurnedBad(t *testing.T) {
	t.Parallel()
	for response, want := range map[string]artifact.Response{"": artifact.RespondBlock, "alert": artifact.RespondAlert, "block-promotion": artifact.RespondBlock, "recall": artifact.RespondRecall} {
		t.Run(string(want)+" "+response, func(t *testing.T) {
			t.Parallel()
			w := newTown(t)
			bad, good := w.lands("v1", "root"), w.lands("v2", "1000")
			unpromoted := w.lands("v3", "root")
			w.mustPromote("v1", "dev", "staging")
			w.mustPromote("v2", "dev")
			source := strict
			if response != "" {
				source += "  whenPromotedTurnsBad: " + response + "\n"
			}
			w.enforce(source)
			n, turned := w.rejudge()
			require.Equal(t, 3, n)
			require.Len(t, turned, 1)
			require.Equal(t, bad, turned[0].Digest)
			require.Equal(t, want, turned[0].Response)
			require.Len(t, turned[0].Environments, 2, "also where it is not the current one any more")
			require.Equal(t, artifact.Deny, w.stored(bad).Outcome)
			require.Equal(t, artifact.Deny, w.stored(unpromoted).Outcome)
			require.Equal(t, artifact.Allow, w.stored(good).Outcome)
			entries, err := w.db.Entries(w.ctx, turned[0].LedgerIndex, 1)
			require.NoError(t, err)
			require.Equal(t, "digest.turned-bad", entries[0].Kind)
			require.Equal(t, string(want), entries[0].Subject)
			require.Contains(t, strings.Join(entries[0].Reasons, ""), "no-root-user")
			_, err = w.promote("v1", "production")
			require.Contains(t, rules(t, err), "no-root-user", "it goes no further")
			known, is, err := w.db.TurnedBad(w.ctx, w.repository, bad)
			require.NoError(t, err)
			require.True(t, is)
			require.JSONEq(t, asJSON(t, turned[0]), asJSON(t, known))

			board, err := w.db.Status(w.ctx)
			require.NoError(t, err)
			if want == artifact.RespondRecall {
				require.Len(t, board, 1, "staging runs nothing")
				for _, e := range []string{"dev", "staging"} {
					require.ErrorContains(t, w.pulls(e, bad), "recalled by system: the policies of now deny it: no-root-user")
				}
			} else {
				require.Len(t, board, 2)
				require.JSONEq(t, asJSON(t, turned[0]), asJSON(t, board[1].Bad))
				require.Nil(t, board[0].Bad)
				require.NoError(t, w.pulls("staging", bad), "it stays where it is")
			}

			// Once, however often it is judged; and it is told when it is allowed again.
			w.enforce(source + "# again\n")
			w.enforce(strings.Replace(source, "no-sshd, action: deny", "no-sshd, action: warn", 1))
			_, turned = w.rejudge()
			require.Empty(t, turned)
			w.enforce(lax)
			w.rejudge()
			require.Equal(t, []string{"digest.turned-bad", "digest.turned-good"}, w.entries())
			_, is, err = w.db.TurnedBad(w.ctx, w.repository, bad)
			require.NoError(t, err)
			require.False(t, is)
			w.sound()
		})
	}
}

// TestTurnedBadIndex: an index turns bad with an image of it, and a failed inspection recalls nothing.
func TestTurnedBadIndex(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	child := w.lands("amd64", "1000")
	d, err := w.arrive("v1", "token:ci", index(child), "v1")
	require.NoError(t, err)
	w.sign(d, "key-1")
	w.mustPromote("v1", "dev")
	w.enforce(lax + "  whenPromotedTurnsBad: recall\n")
	_, turned := w.rejudge()
	require.Empty(t, turned)

	// What a rescan calls finds both.
	require.NoError(t, w.db.SaveLayerFailure(w.ctx, artifact.DigestOf([]byte("layer of amd64")), "the scanner ended"))
	all, err := w.db.ImagesWith(w.ctx, child)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, []artifact.Digest{child, d}, []artifact.Digest{all[0].Digest, all[1].Digest})
	cold := w.judge // keeps nothing
	verdicts, errs := cold.JudgeManifests(w.ctx, all)
	require.Equal(t, []error{nil, nil}, errs)
	turned, err = w.db.SaveJudged(w.ctx, verdicts)
	require.NoError(t, err)
	require.Len(t, turned, 1)
	require.Equal(t, d, turned[0].Digest)
	require.Equal(t, artifact.RespondBlock, turned[0].Response)
	require.NoError(t, w.pulls("dev", child))
}

// TestRejudge: two changes are one pass, one in the midst of a pass begins the circle anew where it is, a job that was
// cut short is gone on with, and of two jobs one works.
func TestRejudge(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		w.lands(name, "1000")
	}
	n, _ := w.rejudge()
	require.Equal(t, 5, n)
	n, _ = w.rejudge()
	require.Zero(t, n)
	w.enforce(strict)
	w.enforce(lax)
	n, _ = w.rejudge()
	require.Equal(t, 5, n, "two changes, one pass")

	w.enforce(strict)
	judged := func(job int64, n int) []artifact.StoredManifest {
		page, err := w.db.NextToJudge(w.ctx, job, n)
		require.NoError(t, err)
		if len(page) > 0 {
			last := page[len(page)-1]
			require.NoError(t, w.db.Judged(w.ctx, job, artifact.Reference{Repository: last.Repository, Digest: last.Digest}))
		}
		return page
	}
	first := judged(1, 2)
	require.Len(t, first, 2)
	_, err := w.db.NextToJudge(w.ctx, 2, 2)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "another job is at it")
	w.enforce(lax)
	var rest []artifact.StoredManifest
	for page := judged(1, 2); len(page) > 0; page = judged(1, 2) {
		rest = append(rest, page...)
	}
	require.Len(t, rest, 5, "three that are left, and the two that older policies judged")
	require.Equal(t, first[0].Digest, rest[3].Digest)
	require.Equal(t, first[1].Digest, rest[4].Digest)

	w.enforce(strict)
	judged(1, 3)
	_, err = w.db.Pool.Exec(w.ctx, `update rejudging set lease = now() - interval '1 second'`) // its process was killed
	require.NoError(t, err)
	require.Len(t, judged(2, 10), 2, "it goes on where the other was cut short")
	require.Empty(t, judged(2, 10))
	var v policy.Verdict
	_, err = v.Pass()
	require.Error(t, err)
}
