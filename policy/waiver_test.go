package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

var start = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

func waiver(id int64, rule string, d artifact.Digest, life time.Duration) artifact.Waiver {
	w := artifact.Waiver{ID: id, Rule: rule, Digest: d, Reason: "because", CreatedBy: "user:bob", CreatedAt: start.Add(-time.Hour), ExpiresAt: start.Add(life)}
	if d.IsZero() {
		w.Repositories = []string{"shop/**"}
	}
	return w
}

// TestWaive: what a waiver covers is a warning until it ends, and nothing else is.
func TestWaive(t *testing.T) {
	t.Parallel()
	image := policy.Image{Subject: subject(t), Lies: []string{"layer 1 lies"}}
	image.Config.Config.User = "0"
	image.Subject.Digest = artifact.DigestOf([]byte("image"))
	d := image.Subject.Digest
	for what, c := range map[string]struct {
		waivers []artifact.Waiver
		denials []string
		until   time.Time
	}{
		"none":                {nil, []string{"no-root-user", "honest-config"}, time.Time{}},
		"another rule":        {[]artifact.Waiver{waiver(1, "no-sshd", d, time.Hour)}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"another digest":      {[]artifact.Waiver{waiver(1, "no-root-user", artifact.DigestOf(nil), time.Hour)}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"another repository":  {[]artifact.Waiver{{ID: 1, Rule: "no-root-user", Repositories: []string{"lab/**"}, ExpiresAt: start.Add(time.Hour)}}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"the digest":          {[]artifact.Waiver{waiver(1, "no-root-user", d, time.Hour)}, []string{"honest-config"}, start.Add(time.Hour)},
		"the repository":      {[]artifact.Waiver{waiver(1, "no-root-user", artifact.Digest{}, time.Hour)}, []string{"honest-config"}, start.Add(time.Hour)},
		"the longer of two":   {[]artifact.Waiver{waiver(1, "no-root-user", d, time.Hour), waiver(2, "no-root-user", d, 2*time.Hour)}, []string{"honest-config"}, start.Add(2 * time.Hour)},
		"one that ends now":   {[]artifact.Waiver{waiver(1, "no-root-user", d, 0)}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"one that is revoked": {[]artifact.Waiver{{ID: 1, Rule: "no-root-user", Digest: d, ExpiresAt: start.Add(time.Hour), RevokedAt: start}}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"another finding":     {[]artifact.Waiver{{ID: 1, Rule: "no-root-user", Finding: "CVE-2024-1", Digest: d, ExpiresAt: start.Add(time.Hour)}}, []string{"no-root-user", "honest-config"}, time.Time{}},
		"what always holds":   {[]artifact.Waiver{waiver(1, "honest-config", d, time.Hour), waiver(2, "inspect", d, time.Hour)}, []string{"no-root-user", "honest-config"}, time.Time{}},
	} {
		set := baseline(t).With(c.waivers, start)
		v := set.Evaluate(image)
		var denials []string
		for _, r := range v.Denials() {
			denials = append(denials, r.Rule)
		}
		require.Equal(t, c.denials, denials, what)
		require.True(t, c.until.Equal(v.Until), what)
		require.Equal(t, artifact.Deny, set.Uninspectable(image.Subject, "a bomb").Outcome, what)
	}
	honest := image
	honest.Lies = nil
	v := baseline(t).With([]artifact.Waiver{waiver(7, "no-root-user", d, time.Hour)}, start).Evaluate(honest)
	require.Equal(t, artifact.Allow, v.Outcome)
	require.Equal(t, []int64{7}, v.Waivers)
	require.Equal(t, "waived until 2026-10-01T13:00:00Z by user:bob (waiver 7: because)", v.Warnings()[0].Message[:len("waived until 2026-10-01T13:00:00Z by user:bob (waiver 7: because)")])
	pass, err := v.Pass()
	require.NoError(t, err)
	require.Equal(t, []int64{7}, pass.Waivers())
	require.True(t, pass.Holds(start.Add(time.Hour-1)))
	require.False(t, pass.Holds(start.Add(time.Hour)))
	require.Equal(t, artifact.Allow, v.At(start).Outcome)
	require.Equal(t, artifact.Pending, v.At(start.Add(time.Hour)).Outcome)
}

// TestWaiveIndex: a waiver of an index is for its images in it, and not for them alone.
func TestWaiveIndex(t *testing.T) {
	t.Parallel()
	image := policy.Image{Subject: subject(t)}
	image.Subject.Digest = artifact.DigestOf([]byte("image"))
	index := subject(t)
	index.Digest = artifact.DigestOf([]byte("index"))
	set := baseline(t).With([]artifact.Waiver{waiver(1, "no-root-user", index.Digest, time.Hour)}, start)
	child := set.Evaluate(image)
	require.Equal(t, artifact.Deny, child.Outcome)
	v := set.Index(index, []policy.Child{{Platform: "linux/amd64", Verdict: child}})
	require.Equal(t, artifact.Allow, v.Outcome)
	require.Equal(t, []int64{1}, v.Waivers)
	require.True(t, start.Add(time.Hour).Equal(v.Until))
	set = baseline(t).With([]artifact.Waiver{waiver(1, "no-root-user", image.Subject.Digest, time.Hour)}, start)
	v = set.Index(index, []policy.Child{{Platform: "linux/amd64", Verdict: set.Evaluate(image)}})
	require.Equal(t, artifact.Allow, v.Outcome, "what is waived of an image is waived in its index")
	require.True(t, start.Add(time.Hour).Equal(v.Until))
}

// TestWaiveMany: of more findings than are told, what is waived still counts until its end.
func TestWaiveMany(t *testing.T) {
	t.Parallel()
	image := policy.Image{Subject: subject(t)}
	image.Config.Config.User = "1000"
	image.Facts.Files = map[string]artifact.VisibleFile{}
	for i := range 30 {
		p := fmt.Sprintf("%d/bin/sshd", i)
		image.Facts.Notable = append(image.Facts.Notable, p)
		image.Facts.Files[p] = artifact.VisibleFile{File: artifact.File{Path: p, Type: artifact.Regular, Mode: 0o755}}
	}
	require.Equal(t, artifact.Deny, baseline(t).Evaluate(image).Outcome)
	v := baseline(t).With([]artifact.Waiver{waiver(1, "no-sshd", artifact.Digest{}, time.Hour)}, start).Evaluate(image)
	require.Equal(t, artifact.Allow, v.Outcome)
	require.Len(t, v.Reasons, 21)
	require.Equal(t, []int64{1}, v.Reasons[20].Waivers)
	require.Equal(t, []int64{1}, v.Waivers)
	require.True(t, start.Add(time.Hour).Equal(v.Until))
}

// TestResponse: the strictest of the policies that deny decides, and what no policy denies is never recalled.
func TestResponse(t *testing.T) {
	t.Parallel()
	document := func(name, rule, response string) policy.Versioned {
		parsed, err := policy.Parse("p.yaml", fmt.Appendf(nil, "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: %s}\nspec:\n  match: {repositories: ['**']}\n%s  rules:\n    - {rule: %s, action: deny}\n", name, response, rule))
		require.NoError(t, err)
		return policy.Versioned{Document: parsed[0], Version: 1}
	}
	recall, alert := "  whenPromotedTurnsBad: recall\n", "  whenPromotedTurnsBad: alert\n"
	image := policy.Image{Subject: subject(t)}
	for what, c := range map[string]struct {
		policies []policy.Versioned
		lies     []string
		want     artifact.Response
	}{
		"the default":           {[]policy.Versioned{document("a", "no-root-user", "")}, nil, artifact.RespondBlock},
		"alert":                 {[]policy.Versioned{document("a", "no-root-user", alert)}, nil, artifact.RespondAlert},
		"the strictest":         {[]policy.Versioned{document("a", "no-root-user", alert), document("b", "no-root-user", recall)}, nil, artifact.RespondRecall},
		"of those that deny":    {[]policy.Versioned{document("a", "no-root-user", alert), document("b", "no-sshd", recall)}, nil, artifact.RespondAlert},
		"what no policy denies": {[]policy.Versioned{document("b", "no-sshd", recall)}, []string{"a lie"}, ""},
		"what always holds":     {[]policy.Versioned{document("a", "no-root-user", alert)}, []string{"a lie"}, artifact.RespondBlock},
		"no policy":             {nil, nil, artifact.RespondBlock},
	} {
		image.Lies = c.lies
		if what == "what no policy denies" {
			image.Config.Config.User = "1000"
			c.want = artifact.RespondBlock
		} else {
			image.Config.Config.User = ""
		}
		require.Equal(t, c.want, policy.NewSet(c.policies).Evaluate(image).Response(), what)
	}
	require.Equal(t, artifact.RespondBlock, policy.NewSet([]policy.Versioned{document("b", "no-sshd", recall)}).Uninspectable(image.Subject, "the scanner ended").Response())
	_, err := policy.Parse("p.yaml", []byte("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: a}\nspec:\n  match: {repositories: ['**']}\n  whenPromotedTurnsBad: destroy\n  rules: []\n"))
	require.ErrorContains(t, err, "6:25")
	require.ErrorContains(t, err, "alert, block-promotion or recall")
}
