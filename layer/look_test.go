package layer

import (
	"bytes"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// passwdLine says what passwdLike looks for.
var passwdLine = regexp.MustCompile(`^(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*[^:\s]+:[^:\n]*:[+-]?[0-9]+:`)

func TestPasswdLike(t *testing.T) {
	t.Parallel()
	pieces := rapid.SampledFrom([]string{"a", ":", "\n", "\r", " ", "\t", "\f", "#", "0", "12", "+", "-", "app:x:1:", "\xff", "é"})
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		for _, piece := range rapid.SliceOfN(pieces, 0, 12).Draw(t, "pieces") {
			text = append(text, piece...)
		}
		require.Equal(t, passwdLine.Match(text), passwdLike(text), "%q", text)
	})
}

func TestRunsDaemon(t *testing.T) {
	t.Parallel()
	lines := rapid.SampledFrom([]string{"exec sshd", "# sshd", "ssh host", "dropbear -F", "", " \t#dropbear", "openssh", "service ssh start", "x=1;sshd", "sshd_config", "/usr/sbin/sshd -D", "  dropbearmulti dropbear"})
	rapid.Check(t, func(t *rapid.T) {
		var script []byte
		want := false
		for _, line := range rapid.SliceOfN(lines, 0, 5).Draw(t, "lines") {
			script = append(append(script, line...), '\n')
			trimmed := bytes.TrimSpace([]byte(line))
			want = want || len(trimmed) > 0 && trimmed[0] != '#' && daemonCommand.Match(trimmed)
		}
		require.Equal(t, want, runsDaemon(script), "%q", script)
	})
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	for _, word := range distinct {
		require.True(t, slices.ContainsFunc(anchors, func(anchor []byte) bool { return bytes.Contains(word, anchor) }), "%s", word)
	}
}
