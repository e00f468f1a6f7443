//go:build goexperiment.jsonv2

package trivy

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/stretchr/testify/require"
)

// leaks are one of what each rule with more needs than its keyword looks for, and of some others; broken up, so that
// nobody finds them here.
var leaks = []string{
	"\naws_secret_access|_key = " + strings.Repeat("aB3/", 10) + "\n", " AKIA|" + strings.Repeat("Q7", 8) + " ", "\"A3TX|" + strings.Repeat("Q7", 8) + "\" ASIA ",
	"lob_key = 'live|_" + strings.Repeat("a", 35) + "'", "LOB: 'test|_" + strings.Repeat("0", 35) + "'", "lob = 'test|_pub_" + strings.Repeat("f", 31) + "'",
	" ek_|" + strings.Repeat("0a", 16) + " ", "ghp_|" + strings.Repeat("a1B2", 9), "glpat-|" + strings.Repeat("a", 20), "linear = '|" + strings.Repeat("0a", 16) + "'",
	"SK|" + strings.Repeat("0a", 16), "npm_|x '" + "npm_|" + strings.Repeat("a1", 18) + "'", "-----BEGIN RSA |PRIVATE KEY-----\n" + strings.Repeat("MIIa", 20) + "\n-----END RSA |PRIVATE KEY-----\n",
	"aw\u017f|_secret_access_\u212aey = " + strings.Repeat("aB3/", 10) + "\n", "l\u0131nked\u0130n", "facebook = '|" + strings.Repeat("0a", 16) + "'", "dapi|" + strings.Repeat("0a", 16),
}

// TestSecrets: the rules that are chosen find what all find, and each leak is found.
func TestSecrets(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	found := map[string]bool{}
	same := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		file, err := os.Open(path)
		require.NoError(t, err)
		defer file.Close()
		info, err := file.Stat()
		require.NoError(t, err)
		input := analyzer.AnalysisInput{FilePath: name, Info: info, Content: file}
		theirs, err := s.SecretAnalyzer.Analyze(context.Background(), input)
		require.NoError(t, err)
		_, err = file.Seek(0, 0)
		require.NoError(t, err)
		ours, err := s.Analyze(context.Background(), input)
		require.NoError(t, err)
		require.Equal(t, theirs, ours, "%q", content)
		if ours != nil {
			for _, f := range ours.Secrets[0].Findings {
				found[f.RuleID] = true
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	filler := strings.Repeat("the keys of a blob, weekly globs asia ek_x lob test_x AIDA, passwords\n", 20)
	for _, leak := range leaks {
		leak = strings.ReplaceAll(leak, "|", "")
		same("a.txt", []byte(leak))
		same("a.txt", []byte(filler+leak+filler))
		same("a.pyc", []byte("\x00\x01\x02"+leak+"\x00\xff"+filler))
		same("a", []byte("\x00\x01\x02"+leak))
		same("a.txt", []byte(strings.ToUpper(leak)+" "+strings.ToLower(leak)))
	}
	for range 100 {
		var b bytes.Buffer
		for range 1 + random.IntN(4) {
			b.WriteString(filler[:random.IntN(len(filler))] + strings.ReplaceAll(leaks[random.IntN(len(leaks))], "|", ""))
		}
		same("a.txt", b.Bytes())
	}
	for _, rule := range []string{"aws-secret-access-key", "aws-access-key-id", "lob-api-key", "lob-pub-api-key", "openai-realtime-client-secret", "github-pat", "private-key", "npm-access-token"} {
		require.True(t, found[rule], rule)
	}
}

// TestNeeds: what a rule is said to need follows from its expression, which another release of Trivy may change.
func TestNeeds(t *testing.T) {
	t.Parallel()
	expected := map[string]string{
		"aws-secret-access-key":         `(?i)["']?aws_?(sec(ret)?)?_?(access)?_?key["']?\s*(:|=>|=)?\s*["']?(?P<secret>[A-Za-z0-9\/\+=]{40})["']?[.,]?(\s+|$)`,
		"lob-api-key":                   `(?i)(?P<key>lob[a-z0-9_ .\-,]{0,25})(=|>|:=|\|\|:|<=|=>|:).{0,5}['\"](?P<secret>(live|test)_[a-f0-9]{35})['\"]`,
		"lob-pub-api-key":               `(?i)(?P<key>lob[a-z0-9_ .\-,]{0,25})(=|>|:=|\|\|:|<=|=>|:).{0,5}['\"](?P<secret>(test|live)_pub_[a-f0-9]{31})['\"]`,
		"aws-access-key-id":             `([^0-9a-zA-Z_]|^)((?P<secret>(A3T[A-Z0-9]|AKIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ASIA)[A-Z0-9]{16})["']?[.,]?(\s+|$))`,
		"openai-realtime-client-secret": `([^0-9a-zA-Z_]|^)(?P<secret>ek_[a-f0-9]{32})([^0-9a-zA-Z_]|$)`,
	}
	got := map[string]string{}
	for _, r := range newSecrets().scanner.Rules {
		if needs[r.ID] != nil || needsExactly[r.ID] != nil {
			got[r.ID] = r.Regex.String()
		}
	}
	require.Equal(t, expected, got)
	require.Len(t, got, len(needs)+len(needsExactly))
}

func FuzzAutomaton(f *testing.F) {
	f.Add("he she his hers", "uSHErs")
	f.Add("a aa aaa ab", "aaaab")
	f.Add("\u212a \xc4\xb0 k", "\u212ak")
	f.Fuzz(func(t *testing.T, list, text string) {
		words := strings.Fields(list)
		seen := newAutomaton(words).in([]byte(text))
		for i, word := range words {
			require.Equal(t, bytes.Contains(asciiLowered(text), asciiLowered(word)), seen[i], "%q in %q", word, text)
		}
	})
}

func asciiLowered(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return b
}
