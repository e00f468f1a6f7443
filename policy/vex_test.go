package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// vexed is a document of one statement about CVE-2024-24790, which the given JSON completes.
func vexed(statement string) string {
	return `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.com/vex/1","author":"Ada","timestamp":"2026-10-01T12:00:00Z","version":1,` +
		`"statements":[{"vulnerability":{"name":"CVE-2024-24790","aliases":["GO-2024-2887"]},` + statement + `}]}`
}

func TestParseVEX(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		vexed(`"status":"not_affected","justification":"vulnerable_code_not_present"`): "",
		vexed(`"status":"fixed"`): "",
		vexed(`"status":"under_investigation","status_notes":"we look"`):                                  "",
		vexed(`"status":"affected","action_statement":"upgrade"`):                                         "",
		vexed(`"status":"not_affected"`):                                                                  "wants a justification",
		vexed(`"status":"not_affected","justification":"we feel lucky"`):                                  "is none of status",
		vexed(`"status":"fixed","justification":"component_not_present"`):                                 "is none of status",
		vexed(`"status":"affected"`):                                                                      "action_statement",
		vexed(`"status":"fine"`):                                                                          "want one of",
		vexed(`"status":"fixed","unless":"it rains"`):                                                     "unknown field",
		vexed(`"status":"fixed"`) + "{}":                                                                  "something follows",
		vexed(`"status":"fixed","products":[` + strings.Repeat(`{},`, 200) + `{}]`):                       "201 products",
		strings.Replace(vexed(`"status":"fixed"`), "v0.2.0", "v9", 1):                                     "@context",
		strings.Replace(vexed(`"status":"fixed"`), "Ada", "", 1):                                          "author",
		strings.Replace(vexed(`"status":"fixed"`), "CVE-2024-24790", "", 1):                               "names no vulnerability",
		`{"@context":"https://openvex.dev/ns","@id":"x","author":"a","timestamp":"2026-10-01T12:00:00Z"}`: "0 statements",
		strings.Repeat(" ", policy.MaxVEX+1):                                                              "at most",
		``:                                                                                                "EOF",
	} {
		_, err := policy.ParseVEX([]byte(name))
		if want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, want, "%.200s", name)
		}
	}
}

// TestVEXIsAbout: a statement counts for what it names, and for nothing else.
func TestVEXIsAbout(t *testing.T) {
	t.Parallel()
	image := artifact.DigestOf([]byte("image"))
	other := artifact.DigestOf([]byte("other"))
	finding := artifact.Finding{Class: artifact.ClassVulnerability, ID: "CVE-2024-24790", Package: "stdlib", Installed: "v1.22.3", PURL: "pkg:golang/stdlib@v1.22.3?type=x"}
	oci := "pkg:oci/returns@sha256%3A" + image.Hex() + "?repository_url=example.com/shop/returns"
	for products, want := range map[string]bool{
		``: true,
		fmt.Sprintf(`,"products":[{"@id":%q}]`, image):                                                              true,
		fmt.Sprintf(`,"products":[{"@id":"shop/returns@%s"}]`, image):                                               true,
		fmt.Sprintf(`,"products":[{"@id":%q}]`, oci):                                                                true,
		fmt.Sprintf(`,"products":[{"@id":"https://example.com/returns","identifiers":{"purl":%q}}]`, oci):           true,
		fmt.Sprintf(`,"products":[{"@id":"x","hashes":{"sha-256":%q}}]`, image.Hex()):                               true,
		fmt.Sprintf(`,"products":[{"@id":%q}]`, other):                                                              false,
		fmt.Sprintf(`,"products":[{"@id":"pkg:golang/x@%s"}]`, image):                                               false,
		fmt.Sprintf(`,"products":[{"@id":%q},{"@id":%q}]`, other, image):                                            true,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/stdlib@v1.22.3"}]}]`, image):        true,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/stdlib"}]}]`, image):                true,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/stdlib@v1.22.4"}]}]`, image):        false,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/stdlib@v1.22.3?type=y"}]}]`, image): false,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/golang.org/x/net"}]}]`, image):      false,
		fmt.Sprintf(`,"products":[{"@id":%q,"subcomponents":[{"@id":"pkg:golang/stdlib@v1.22.3"}]}]`, other):        false,
		`,"products":[{"@id":"pkg:golang/stdlib@v1.22.3"}]`:                                                         true,
		`,"products":[{"@id":"pkg:npm/stdlib@v1.22.3"}]`:                                                            false,
		`,"products":[{"@id":"pkg:golang/std%ZZlib"}]`:                                                              false,
	} {
		document, err := policy.ParseVEX([]byte(vexed(`"status":"fixed"` + products)))
		require.NoError(t, err, products)
		got := policy.ApplyVEX(image, []artifact.Finding{finding}, []policy.AttachedVEX{{AttachedBy: "token:ci", SignedBy: "key", Document: document}}, policy.VEXTrust{})
		require.Equal(t, want, got[0].VEX.Resolved(), products)
	}
}

// TestVEXCounts: whoever may push may not thereby say that findings are none, and the newest statement is what holds.
func TestVEXCounts(t *testing.T) {
	t.Parallel()
	image := artifact.DigestOf([]byte("image"))
	findings := []artifact.Finding{{Class: artifact.ClassVulnerability, ID: "GO-2024-2887"}, {Class: artifact.ClassVulnerability, ID: "CVE-2000-1"}, {Class: artifact.ClassSecret, ID: "GO-2024-2887"}}
	document := func(status, extra string, at time.Time) policy.VEX {
		d, err := policy.ParseVEX([]byte(vexed(`"status":"` + status + `"` + extra)))
		require.NoError(t, err)
		d.Timestamp = at
		return d
	}
	day := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	safe := document("not_affected", `,"justification":"component_not_present"`, day)
	unsure := document("under_investigation", "", day)
	later := document("affected", `,"action_statement":"upgrade"`, day.AddDate(0, 0, 1))
	for name, c := range map[string]struct {
		documents []policy.AttachedVEX
		pushers   []string
		want      string
	}{
		"nobody is trusted":      {[]policy.AttachedVEX{{AttachedBy: "token:ci", Document: safe}}, nil, ""},
		"another is":             {[]policy.AttachedVEX{{AttachedBy: "token:ci", Document: safe}}, []string{"token:security"}, ""},
		"who pushed it is":       {[]policy.AttachedVEX{{AttachedBy: "token:security-1", Document: safe}}, []string{"token:security-*"}, "not_affected"},
		"it is signed":           {[]policy.AttachedVEX{{AttachedBy: "token:ci", SignedBy: "key", Document: safe}}, nil, "not_affected"},
		"the newest":             {[]policy.AttachedVEX{{SignedBy: "key", Document: later}, {SignedBy: "key", Document: safe}}, nil, "affected"},
		"the newest that counts": {[]policy.AttachedVEX{{AttachedBy: "token:ci", Document: later}, {SignedBy: "key", Document: safe}}, nil, "not_affected"},
		"the least favourable":   {[]policy.AttachedVEX{{SignedBy: "key", Document: safe}, {SignedBy: "key", Document: unsure}}, nil, "under_investigation"},
	} {
		got := policy.ApplyVEX(image, findings, c.documents, policy.VEXTrust{Pushers: c.pushers})
		require.Nil(t, findings[0].VEX, "what was given is not changed")
		require.Nil(t, got[1].VEX, name)
		require.Nil(t, got[2].VEX, name)
		if c.want == "" {
			require.Nil(t, got[0].VEX, name)
			continue
		}
		require.Equal(t, c.want, got[0].VEX.Status, name)
		require.Equal(t, c.want == "not_affected", got[0].VEX.Resolved(), name)
	}
}

func FuzzParseVEX(f *testing.F) {
	f.Add(vexed(`"status":"not_affected","justification":"vulnerable_code_not_present","products":[{"@id":"pkg:oci/a@sha256%3A00","subcomponents":[{"@id":"pkg:golang/stdlib@v1?x=y#z"}]}]`))
	f.Add(`{"@context":"https://openvex.dev/ns"}`)
	f.Fuzz(func(t *testing.T, text string) {
		document, err := policy.ParseVEX([]byte(text))
		if err != nil {
			return
		}
		findings := []artifact.Finding{{Class: artifact.ClassVulnerability, ID: "CVE-2024-24790", PURL: "pkg:golang/stdlib@v1.22.3"}}
		require.Len(t, policy.ApplyVEX(artifact.DigestOf(nil), findings, []policy.AttachedVEX{{SignedBy: "key", Document: document}}, policy.VEXTrust{}), 1)
	})
}
