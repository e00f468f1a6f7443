package server_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

const somePolicy = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  match: {repositories: [\"shop/**\"]}\n  rules:\n    - {rule: no-root-user, action: deny}\n"

func TestPolicyHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.documents = []server.Document{
		{Kind: "Policy", Name: "p", Version: 1, Body: somePolicy, AppliedBy: "user:ada", AppliedAt: noon},
		{Kind: "Policy", Name: "p", Version: 2, Body: strings.Replace(somePolicy, "deny", "warn", 1), AppliedBy: "user:eve", AppliedAt: noon},
	}
	s, _ := w.start(t)
	var history server.DocumentHistory
	call(t, s, "auditor", "GET", "/documents/policy/p/history", "", "").decode(t, &history)
	require.Len(t, history.Versions, 2)
	require.Equal(t, "user:eve", history.Versions[0].AppliedBy)
	require.Equal(t, "~ rule no-root-user: action deny -> warn", history.Versions[0].Changes[0].String())
	require.Empty(t, history.Versions[1].Changes)
	call(t, s, "auditor", "GET", "/documents/policy/p/history?limit=1", "", "").decode(t, &history)
	require.Len(t, history.Versions, 1)
	require.Len(t, history.Versions[0].Changes, 1, "also where the older one is on the next page")
	var d server.Document
	call(t, s, "auditor", "GET", "/documents/policy/p?version=1", "", "").decode(t, &d)
	require.Contains(t, d.Body, "deny")
	require.Equal(t, 404, call(t, s, "auditor", "GET", "/documents/policy/p?version=9", "", "").status)
	require.Equal(t, 404, call(t, s, "auditor", "GET", "/documents/policy/nothing/history", "", "").status)
}

func TestPolicyTrial(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var test server.PolicyTest
	call(t, s, "reader", "POST", "/policies/test?ref=shop/returns:v456&ref=other/thing:v1", "application/yaml", somePolicy).decode(t, &test)
	require.Len(t, test.Verdicts, 2)
	require.Equal(t, artifact.Allow, test.Verdicts[0].Outcome)
	require.Equal(t, []string{"p@1"}, test.Verdicts[0].Policies)
	require.Equal(t, artifact.Deny, test.Verdicts[1].Outcome, "the file has no policy for it")

	events := func(a answer) (all []server.ImpactEvent) {
		require.Equal(t, 200, a.status, string(a.body))
		for line := range strings.Lines(string(a.body)) {
			var e server.ImpactEvent
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			all = append(all, e)
		}
		return all
	}
	all := events(call(t, s, "auditor", "POST", "/policies/impact", "application/yaml", somePolicy))
	require.Len(t, all, 3)
	require.Equal(t, w.promoted, all[0].Change.Digest)
	require.Equal(t, 1, all[1].Images)
	require.Equal(t, 1, all[2].Result.Denied)
	all = events(call(t, s, "scoped-auditor", "POST", "/policies/impact", "application/yaml", somePolicy))
	require.Zero(t, all[len(all)-1].Result.Denied, "what is elsewhere is not told")
	w.problems = []string{"x"}
	all = events(call(t, s, "auditor", "POST", "/policies/impact", "application/yaml", somePolicy))
	require.Contains(t, all[len(all)-1].Problem.Detail, "does not answer")

	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/policies/test?ref=shop/returns:v456", "kind: Pipeline\n", 400, "apiVersion"},
		{"/policies/test?ref=shop/returns:v456&file=p.yaml", strings.Replace(somePolicy, "no-root-user", "no-rot-user", 1), 400, "p.yaml:7"},
		{"/policies/test?ref=shop/returns:none", somePolicy, 404, "no tag"},
		{"/policies/test?ref=shop", somePolicy, 400, "REPOSITORY:TAG"},
		{"/policies/test", somePolicy, 422, "required"},
		{"/policies/impact", "apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: d}\nspec:\n  match: {repositories: ['**']}\n  environments: [{name: dev}]\n", 400, "no document of kind Policy"},
		{"/policies/impact", strings.Repeat("#", 2<<20), 413, "more bytes"},
	} {
		got := call(t, s, "admin", "POST", c.path, "application/yaml", c.body)
		require.Equal(t, c.status, got.status, "%s: %s", c.path, got.body)
		require.Contains(t, string(got.body), c.want)
	}
}

func TestWaiverRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	for body, want := range map[string]string{
		`{"rule":"no-sshd","repository":"shop/**","expires":"soon","reason":"x"}`:                                       "date-time",
		`{"rule":"no-sshd","repository":"shop/**","expires":"2026-10-02T12:00:00Z"}`:                                    "reason",
		`{"rule":"no-sshd","digest":"sha256:1","expires":"2026-10-02T12:00:00Z","reason":"x"}`:                          "digest",
		`{"rule":"no-sshd","repository":"shop/**","expires":"2026-10-02T12:00:00Z","reason":"x","approver":"user:eve"}`: "approver",
	} {
		got := call(t, s, "approver", "POST", "/waivers", "application/json", body)
		require.Contains(t, []int{400, 422}, got.status, "%s: %s", body, got.body)
		require.Contains(t, string(got.body), want)
	}
	require.Equal(t, 422, call(t, s, "approver", "DELETE", "/waivers/x", "", "").status)
	require.Empty(t, w.changes())
	require.Equal(t, 200, call(t, s, "approver", "POST", "/waivers", "application/json", `{"rule":"no-sshd","repository":"shop/**","expires":"2026-10-02T12:00:00Z","reason":"x"}`).status)
	require.Equal(t, []string{"waive no-sshd in shop/** until 2026-10-02T12:00:00Z by token:approver"}, w.changes())
	require.JSONEq(t, `{"waivers":[]}`, string(call(t, s, "reader", "GET", "/waivers?all=true", "", "").body))
}
