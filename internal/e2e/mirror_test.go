package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
)

// config writes a configuration file for serve.
func config(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestMirror: one Waybill mirrors another. What is pulled through is judged, scanned, signed and promoted as if it had
// been pushed; and it is served while the other is away.
func TestMirror(t *testing.T) {
	t.Parallel()
	up := serve(t)
	pusher := up.token("--role", "pusher")
	ours := configured(t, "1000", files(t, map[string]string{"app": "v1"}))
	digest := up.pushed(pusher, "base/app:v1", ours)
	policy := config(t, "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: no-root-user, action: warn}\n")
	up.ok(up.admin(), "apply", "-f", policy)
	up.pushed(pusher, "base/rooted:v1", configured(t, "root", files(t, map[string]string{"app": "rooted"})))

	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte(up.token("--role", "reader", "--repository", "base/**")+"\n"), 0o600))
	s := serve(t, "--config", config(t, fmt.Sprintf("mirrors:\n  - {name: up, url: %q, insecure: true, username: mirror, passwordFile: %s, ttl: 1s}\n", up.url, password)))
	reader := s.token("--role", "reader")
	deployer := s.token("--role", "deployer", "--environment", "dev")

	require.Contains(t, refused(t, "crane", "manifest", s.host+"/mirror/up/base/app:v1"), "UNAUTHORIZED")
	ref, err := name.ParseReference(s.host + "/mirror/up/base/app:v1")
	require.NoError(t, err)
	img, err := remote.Image(ref, s.auth(reader))
	require.NoError(t, err)
	got, err := img.Digest()
	require.NoError(t, err)
	require.Equal(t, digest, got.String())
	layers, err := img.Layers()
	require.NoError(t, err)
	for _, layer := range layers {
		_, err := layer.DiffID() // reads it all
		require.NoError(t, err)
	}

	status, body := s.get(reader, "/v2/mirror/up/base/rooted/manifests/v1")
	require.Equal(t, http.StatusForbidden, status, body)
	require.Contains(t, body, "no-root-user")
	require.ErrorContains(t, s.push(s.admin(), "mirror/up/base/app:v2", ours), "read-only")

	s.signed(reader, "mirror/up/base/app@"+digest)
	status, _ = s.get(deployer, "/v2/mirror/up/base/app/manifests/v1")
	require.Equal(t, http.StatusForbidden, status)
	s.ok(s.admin(), "promote", "mirror/up/base/app", "v1", "dev")
	status, body = s.get(deployer, "/v2/mirror/up/base/app/manifests/dev")
	require.Equal(t, http.StatusOK, status, body)

	up.stop(syscall.SIGTERM)
	s.await("the tag to be asked for again", func() bool {
		resp, err := http.DefaultClient.Do(func() *http.Request {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.url+"/v2/mirror/up/base/app/manifests/v1", nil)
			require.NoError(t, err)
			req.SetBasicAuth("x", reader)
			return req
		}())
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		return resp.Header.Get("Warning") == `110 - "Response is Stale"`
	})
	status, body = s.get(reader, "/v2/mirror/up/base/other/manifests/v1")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "up ("+up.url+")")
	require.Contains(t, s.ok(s.admin(), "audit"), "ok")
}
