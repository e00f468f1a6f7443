package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// TestCompare: what two digests differ in is told to who may see both, and nothing of what was not scanned.
func TestCompare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var c server.Comparison
	call(t, s, "reader", "GET", "/compare?from=shop/returns:v456&to=shop/returns@"+w.waiting.String(), "", "").decode(t, &c)
	require.Equal(t, w.promoted, c.From.Digest)
	require.Equal(t, w.waiting, c.To.Image)
	require.Equal(t, "linux/amd64", c.To.Platform)
	require.Equal(t, []artifact.ConfigChange{{Name: "User", From: "10001", To: "10002"}}, c.Difference.Config)
	require.Equal(t, 1, c.Difference.Shared)
	require.False(t, c.Difference.Scanned, "one is not scanned")
	require.Equal(t, artifact.ScanPending, c.To.Scan)
	require.Empty(t, c.Difference.Fixed)
	require.True(t, c.Difference.Stacked)
	require.Empty(t, c.Difference.Files)
	require.False(t, c.Difference.Same)

	call(t, s, "reader", "GET", "/compare?from=shop/returns:v456&to=shop/returns:v456", "", "").decode(t, &c)
	require.True(t, c.Difference.Same)
	require.True(t, c.Difference.Scanned)
	body := string(call(t, s, "reader", "GET", "/compare?from=shop/returns:v456&to=other/thing:v1", "", "").body)
	require.Contains(t, body, `"findingsIntroduced":[]`, "a list is never null")
	require.NotContains(t, body, "hunter2")

	for path, status := range map[string]int{"/compare?from=shop/returns:v456": 422, "/compare?from=shop/returns:v456&to=shop/returns:none": 404, "/compare?from=shop/returns:v456&to=SHOP:x": 400} {
		got := call(t, s, "reader", "GET", path, "", "")
		require.Equal(t, status, got.status, path)
		requireProblem(t, got)
	}
	// Who may see one of the two learns nothing of the other.
	for _, path := range []string{"/compare?from=shop/returns:v456&to=shop/returns:v457", "/compare?from=shop/returns:v457&to=shop/returns:v456"} {
		require.Equal(t, 403, call(t, s, "deployer", "GET", path, "", "").status, path)
	}
	require.Equal(t, 403, call(t, s, "scoped-reader", "GET", "/compare?from=other/thing:v1&to=shop/returns:v456", "", "").status)
}
