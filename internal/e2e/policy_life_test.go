package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

const (
	rootWarns  = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: no-root-user, action: warn}\n"
	rootDenied = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  whenPromotedTurnsBad: alert\n  rules:\n    - {rule: no-root-user, action: deny}\n"
)

// TestPolicyChanges: what a stricter policy would do is told before, what it denies is found after and goes no further,
// and a waiver lets it through until it expires.
func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher, approver := s.admin(), s.token("--role", "pusher"), s.token("--role", "approver", "--name", "bob")
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	s.ok(admin, "apply", "-f", file(rootWarns))
	rooted, fine := configured(t, "root", files(t, map[string]string{"a": "b"})), configured(t, "1000", files(t, map[string]string{"a": "b"}))
	d := s.pushed(pusher, "shop/returns:v1", rooted)
	s.pushed(pusher, "shop/returns:v2", fine)
	later := configured(t, "root", files(t, map[string]string{"a": "c"}))
	laterDigest, err := later.Digest()
	require.NoError(t, err)
	s.pushed(pusher, "shop/returns@"+laterDigest.String(), later)
	s.await("a promotion", func() bool {
		_, _, code := s.waybill(admin, "promote", "returns", "v1", "dev")
		return code == 0
	})

	stricter := file(rootDenied)
	require.Contains(t, s.ok(pusher, "policy", "diff", "-f", stricter), "~ rule no-root-user: action warn -> deny")
	stdout, stderr, code := s.waybill(pusher, "policy", "test", stricter, "shop/returns:v1", "shop/returns:v2")
	require.Equal(t, 1, code)
	require.Contains(t, stdout, "no-root-user")
	require.Contains(t, stderr, "1 of 2 images would not be allowed")
	s.ok(pusher, "policy", "test", stricter, "shop/returns:v2")
	impact := s.ok(admin, "policy", "impact", stricter)
	require.Contains(t, impact, "3 manifests judged: 2 would be denied, 0 would be allowed")
	require.Contains(t, impact, "of what dev runs, 1 would be denied")
	require.Contains(t, impact, d)
	var verdict artifact.VerdictRecord
	s.json(pusher, &verdict, "verdict", "shop/returns:v1")
	require.Equal(t, artifact.Allow, verdict.Outcome, "nothing was changed")

	s.ok(admin, "apply", "-f", stricter)
	require.Contains(t, s.ok(pusher, "policy", "history", "baseline"), "~ rule no-root-user: action warn -> deny")
	require.Contains(t, s.ok(pusher, "policy", "diff", "baseline", "2", "--text"), "+    - {rule: no-root-user, action: deny}")
	require.Contains(t, s.ok(pusher, "policy", "show", "baseline", "--version", "2"), "action: warn")
	s.await("the promoted image to be found", func() bool { return strings.Contains(s.ok(pusher, "status"), "turned bad: alert") })
	require.Contains(t, s.ok(pusher, "show", "shop/returns:v1"), "stays where it is promoted")
	_, stderr, code = s.waybill(admin, "promote", "returns", "v1", "staging")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no-root-user")
	require.ErrorContains(t, s.push(pusher, "shop/returns:v3", rooted), "no-root-user", "what an older policy allowed is judged when it is tagged anew")

	require.ErrorContains(t, s.push(pusher, "shop/returns:later", later), "no-root-user", "and so is what came by its digest")
	_, stderr, code = s.waybill(pusher, "waiver", "create", "--rule", "no-root-user", "--digest", d, "--expires", "1h", "--reason", "x")
	require.Equal(t, 1, code, stderr)
	s.ok(approver, "waiver", "create", "--rule", "no-root-user", "--digest", d, "--expires", "20s", "--reason", "until Friday")
	require.NoError(t, s.push(pusher, "shop/returns:v3", rooted))
	s.json(pusher, &verdict, "verdict", "shop/returns:v3")
	require.Contains(t, verdict.Warnings()[0].Message, "(waiver 1: until Friday)")
	s.await("the waiver's end", func() bool {
		_, _, code := s.waybill(pusher, "verdict", "shop/returns:v3")
		return code == 1
	})
	require.Contains(t, s.ok(pusher, "waiver", "list", "--all"), "expired")
	require.ErrorContains(t, s.push(pusher, "shop/returns:v4", rooted), "no-root-user")
	s.ok(approver, "waiver", "create", "--rule", "no-root-user", "--repository", "shop/**", "--expires", "1h", "--reason", "x")
	require.NoError(t, s.push(pusher, "shop/returns:v5", rooted))
	s.ok(approver, "waiver", "revoke", "2")
	require.ErrorContains(t, s.push(pusher, "shop/returns:v6", rooted), "no-root-user", "at once")
	require.Contains(t, s.ok(admin, "audit"), "ok")
}
