package server

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitDocuments(t *testing.T) {
	t.Parallel()
	for src, lines := range map[string][]int{
		"":                                {0},
		"a: 1\n":                          {0},
		"---\na: 1\n---\nb: 2\n":          {0, 2},
		"a: 1\n--- # note\nb: 2":          {0, 1},
		"a: 1\r\n---\r\nb: 2\r\n":         {0, 1},
		"a: ---\n----\n ---\nb: |\n  ---": {0},
		"---\n---\n---":                   {0, 1, 2},
	} {
		parts := splitDocuments([]byte(src))
		var got []int
		for _, p := range parts {
			got = append(got, p.line)
		}
		require.Equal(t, lines, got, "%q", src)
	}
}

// FuzzParseDocuments: no document makes it panic, and no byte of it is lost between the parts.
func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte("---\nkind: Policy\n---\nkind: Pipeline\n"))
	f.Add([]byte("a: &a [*a]\n--- x\n...\n"))
	f.Add([]byte("%YAML 1.2\n---\n\xff"))
	f.Fuzz(func(t *testing.T, src []byte) {
		var joined []byte
		for _, p := range splitDocuments(src) {
			require.Equal(t, bytes.Count(joined, []byte("\n")), p.line)
			joined = append(joined, p.text...)
		}
		require.Equal(t, string(src), string(joined))
		_, _ = ParseDocuments("fuzz.yaml", src)
	})
}
