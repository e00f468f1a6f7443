package main

import (
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// said is what pages tell people to type: in the text, and in boxes.
	said    = regexp.MustCompile(`(?s)<(?:code|pre)\b[^>]*>(.*?)</(?:code|pre)>`)
	actions = regexp.MustCompile(`(?s)\{\{.*?\}\}`)
)

// TestPagesNameCommandsThatThereAre: with the flags that they have.
func TestPagesNameCommandsThatThereAre(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../web/*/*.html")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, box := range said.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(actions.ReplaceAllString(html.UnescapeString(box[1]), "X")) {
				line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
				rest, ok := strings.CutPrefix(line, "waybill ")
				if !ok {
					continue
				}
				found++
				cmd, _, err := newRoot(newServe()).Find(strings.Fields(rest))
				require.NoError(t, err, "%s: %s", page, line)
				require.True(t, cmd.HasParent() && cmd.Runnable(), "%s: %s", page, line)
				for _, word := range strings.Fields(rest) {
					if name, long := strings.CutPrefix(word, "--"); long {
						name, _, _ = strings.Cut(name, "=")
						require.NotNil(t, cmd.Flags().Lookup(name), "%s: %s", page, line)
					}
				}
			}
		}
	}
	require.Greater(t, found, 15)
}
