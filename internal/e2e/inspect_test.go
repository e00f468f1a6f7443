package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

// TestInspect: what an image's bytes say, as text, as JSON and as a tree of layers with what each adds, overwrites and
// wastes; and a layer that passes a bound of the configuration is denied.
func TestInspect(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("layers: {entries: 4, depth: 6}\n"), 0o600))
	s := serve(t, "--config", config)
	pusher := s.token("--role", "pusher")
	big, small := strings.Repeat("x", 3<<10), strings.Repeat("y", 1<<10)
	s.pushed(pusher, "shop/x:v1", configured(t, "1000",
		layerOf(t, file("srv/old", 0o644, big), file("srv/kept", 0o644, small), file("etc/app", 0o644, small)),
		layerOf(t, file("srv/.wh.old", 0o644, ""), file("etc/app", 0o644, big))))
	text := s.ok(pusher, "inspect", "shop/x:v1")
	for _, part := range []string{"1000", "2 (2 hidden by later layers)", "4.0 KiB wasted", "2 layers"} {
		require.Contains(t, text, part)
	}
	require.Equal(t, s.ok(pusher, "inspect", "shop/x:v1", "--output", "json"), s.ok(pusher, "inspect", "shop/x:v1", "--json"))
	var said server.Inspection
	s.json(pusher, &said, "inspect", "shop/x:v1")
	require.EqualValues(t, 4<<10, said.Image.Wasted)
	require.Equal(t, []int{2, 2}, []int{said.Image.Files, said.Image.Hidden})
	require.Len(t, said.Image.Layers, 2)
	require.EqualValues(t, 4<<10, said.Image.Layers[0].Wasted)
	tree := s.ok(pusher, "inspect", "shop/x:v1", "--tree")
	for _, part := range []string{"adds 5.0 KiB in 3 files, wastes 4.0 KiB in 2 files", "old  adds 3.0 KiB, wastes 3.0 KiB", "adds 3.0 KiB, overwrites 1.0 KiB, removes 3.0 KiB"} {
		require.Contains(t, tree, part)
	}

	many := files(t, map[string]string{"a": "", "b": "", "c": "", "d": "", "e": ""})
	require.ErrorContains(t, s.push(pusher, "shop/x:v2", configured(t, "1000", many)), "more than 4 entries")
	deep := files(t, map[string]string{"a/b/c/d/e/f/g": ""})
	require.ErrorContains(t, s.push(pusher, "shop/x:v2", configured(t, "1000", deep)), "deeper than 6")
}
