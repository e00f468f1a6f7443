package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestDenied: what policy denies prints every reason, and leaves nothing that can be pulled.
func TestDenied(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	withSSHD := debian(t, "openssh-server")

	err := s.push(pusher, "shop/bad:v1", image(t, withSSHD, ""))
	require.ErrorContains(t, err, "no-root-user")
	require.ErrorContains(t, err, "no-sshd", "every reason, not the first")
	require.ErrorContains(t, err, "usr/sbin/sshd")
	status, body := s.get(s.admin(), "/v2/shop/bad/manifests/v1")
	require.Equal(t, 404, status, body)
	digest, err := image(t, withSSHD, "").Digest()
	require.NoError(t, err)
	status, _ = s.get(s.admin(), "/v2/shop/bad/manifests/"+digest.String())
	require.Equal(t, 404, status)

	for name, c := range map[string]struct {
		user string
		rule string
	}{
		"zeros": {"000", "no-root-user"}, "plus": {"+0", "no-root-user"}, "group": {"0:1000", "no-root-user"}, "root:root": {"root:root", "no-root-user"},
		"nobody knows": {"ghost", "no-root-user"}, "sshd for a daemon user": {"65532", "no-sshd"},
	} {
		require.ErrorContains(t, s.push(pusher, "shop/bad:x", image(t, withSSHD, c.user)), c.rule, name)
	}
	// Installed below, removed above: a warning, since the bytes still travel.
	removed := files(t, map[string]string{"usr/sbin/.wh.sshd": "", "var/lib/dpkg/.wh.status": "", "etc/passwd": "app:x:1000:1000::/:/bin/sh\n"})
	base := image(t, withSSHD, "app")
	layers, err := base.Layers()
	require.NoError(t, err)
	s.pushed(pusher, "shop/removed:v1", configured(t, "app", append(layers, removed)...))
	var verdict artifact.VerdictRecord
	s.json(pusher, &verdict, "verdict", "shop/removed:v1")
	require.Equal(t, artifact.Allow, verdict.Outcome)
	require.NotEmpty(t, verdict.Warnings())
}

// TestApply: a policy of an existing name replaces it, versioned; a wrong one is refused where it is wrong.
func TestApply(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	apply := func(text string) (string, string, int) {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return s.waybill(admin, "apply", "-f", path)
	}
	rootImage := configured(t, "root", files(t, map[string]string{"a": "b"}))
	require.ErrorContains(t, s.push(pusher, "lab/x:v1", rootImage), "no-root-user")

	_, stderr, code := apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: no-rot-user, action: deny}\n")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "7:")
	require.Contains(t, stderr, "no-rot-user")
	_, stderr, code = apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  matches: {repositories: ['**']}\n  rules: []\n")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "5:")

	stdout, stderr, code := apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**'], except: ['lab/**']}\n" +
		"  rules:\n    - {rule: no-root-user, action: deny}\n---\napiVersion: waybill/v1\nkind: Policy\nmetadata: {name: lab}\nspec:\n  match: {repositories: ['lab/**']}\n" +
		"  rules:\n    - {rule: no-root-user, action: warn}\n")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "baseline")
	require.NoError(t, s.push(pusher, "lab/x:v1", rootImage))
	require.ErrorContains(t, s.push(pusher, "shop/x:v1", rootImage), "no-root-user")
	require.Contains(t, s.ok(admin, "audit"), "ok")
	_, _, code = s.waybill(pusher, "apply", "-f", "/dev/null")
	require.NotZero(t, code)
}
