package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

func expression(cel string) string {
	return document("p", `{repositories: ["**"]}`, fmt.Sprintf("[{rule: expression, action: deny, with: {cel: %q}}]", cel))
}

// TestExpressionBounds: what would cost too much is refused before it is in force, and ends when it is evaluated.
func TestExpressionBounds(t *testing.T) {
	t.Parallel()
	for cel, want := range map[string]string{
		"image.os == '" + strings.Repeat("a", 5000) + "'":                                       "at most 4096 are taken",
		strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300):                            "the expression does not compile",
		"facts.packages.all(p, facts.packages.all(q, facts.packages.all(r, p.name == r.name)))": "steps on a large image",
		"[1,2,3].all(a, facts.packages.exists(p, p.name.size() > a))":                           "",
		"['aaaaaaaa']" + strings.Repeat(".map(a, a + a)", 40) + ".size() == 1":                  "steps on a large image",
		"image.os.matches('" + strings.Repeat("(a{30}){30}", 3) + "')":                          "regex",
	} {
		_, err := policy.Parse("p.yaml", []byte(expression(cel)))
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want, cel[:min(60, len(cel))])
		require.Regexp(t, `^p\.yaml:\d+:\d+: `, err.Error())
	}
	// A list longer than any that the estimate reckons with: the evaluation ends, and the image is denied.
	image := policy.Image{Subject: subject(t), Now: noon}
	image.Facts.Packages = make([]artifact.Package, 400_000)
	v := set(t, expression("facts.packages.all(p, p.name != 'x')")).Evaluate(image)
	require.Equal(t, artifact.Deny, v.Outcome)
	require.Contains(t, v.Reasons[0].Message, "cost limit exceeded")
}

// FuzzExpression: whatever is written is refused with its place, or evaluated to an end.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"image.config.user == ''", "facts.layers.exists(l, l.entries > 5)", "findings.all(f, f.id.matches('^CVE'))", "now - image.created < duration('1h')",
		"[1][2] == 3", "image.config.labels.map(k, k).size() / 0 == 1", "'a'.repeat(3)", "\"", "{'a': 1}.a == 1", "b'\\xff' == b''", "dyn(1) == 'x'"} {
		f.Add(seed)
	}
	image := policy.Image{Subject: subject(f), Now: noon, Scan: artifact.Scan{State: artifact.Scanned, Findings: []artifact.Finding{{ID: "CVE-1"}}}}
	image.Config.Config.Labels = map[string]string{"a": "b"}
	image.Facts.Packages = make([]artifact.Package, 100)
	f.Fuzz(func(t *testing.T, cel string) {
		parsed, err := policy.Parse("p.yaml", []byte(expression(cel)))
		if err != nil {
			if artifact.KindOf(err) == "" || !strings.HasPrefix(err.Error(), "p.yaml:") {
				t.Fatalf("no place, or no kind: %v", err)
			}
			return
		}
		v := policy.NewSet([]policy.Versioned{{Document: parsed[0], Version: 1}}).Evaluate(image)
		if v.Outcome != artifact.Allow && v.Outcome != artifact.Deny {
			t.Fatalf("%q came to %q", cel, v.Outcome)
		}
	})
}

// FuzzLabel: a label's value, from an image, and a pattern, from a policy.
func FuzzLabel(f *testing.F) {
	f.Add("https://.+", "https://x")
	f.Add("(a|b)*c", strings.Repeat("ab", 1000))
	f.Add("a)|(b", "b")
	f.Fuzz(func(t *testing.T, pattern, value string) {
		doc := document("p", `{repositories: ["**"]}`, fmt.Sprintf("[{rule: require-labels, action: deny, with: {labels: {x: %q}}}]", pattern))
		parsed, err := policy.Parse("p.yaml", []byte(doc))
		if err != nil {
			return
		}
		image := policy.Image{Subject: subject(t), Now: noon}
		image.Subject.IsImage = true
		image.Config.Config.Labels = map[string]string{"x": value}
		v := policy.NewSet([]policy.Versioned{{Document: parsed[0], Version: 1}}).Evaluate(image)
		if value == "" && v.Outcome != artifact.Deny {
			t.Fatal("an empty label is as good as none")
		}
	})
}

// FuzzLicense: what packages say of their licence is judged to an end, and denying all denies it.
func FuzzLicense(f *testing.F) {
	for _, seed := range []string{"MIT", "(MIT OR GPL-2.0-only) AND X WITH y", "((((", "OR", "a OR b AND c", "GPL-2/Artistic"} {
		f.Add(seed)
	}
	denying := set(f, document("p", `{repositories: ["**"]}`, `[{rule: allowed-licenses, action: deny, with: {deny: ["*"]}}]`))
	f.Fuzz(func(t *testing.T, license string) {
		image := policy.Image{Subject: subject(t), Now: noon, Scan: artifact.Scan{State: artifact.Scanned, Packages: []artifact.Package{{Name: "a", Licenses: []string{license}}}}}
		if v := denying.Evaluate(image); v.Outcome != artifact.Deny {
			t.Fatalf("%q was allowed", license)
		}
	})
}
