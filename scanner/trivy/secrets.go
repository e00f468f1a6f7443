//go:build goexperiment.jsonv2

package trivy

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	trivysecret "github.com/aquasecurity/trivy/pkg/fanal/analyzer/secret"
	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	"github.com/aquasecurity/trivy/pkg/fanal/utils"
)

// secrets is Trivy's analyser, given only those rules that a file can break. Trivy looks for each of a hundred rules'
// keywords in turn, and where it finds one tries an expression on all of the file, though most that say "key" or "lob"
// (glob, blob) say nothing of AWS or Lob; that was a third of what a Debian layer costs. What is found is the same.
type secrets struct {
	*trivysecret.SecretAnalyzer // with all rules
	scanner                     secret.Scanner
	words                       *automaton
	rules                       []filter
	unusual                     []int // words that have a file tried on all rules
}

// filter says which words a file must have one of, if a rule is to find anything there. Empty: any file will do.
type filter struct{ keywords, needs []int }

// A match of these rules has one of these in it besides a keyword; in either case, and in just this.
var (
	needs = map[string][]string{
		"aws-secret-access-key": {"aws"},
		"lob-api-key":           {"live_", "test_"},
		"lob-pub-api-key":       {"_pub_"},
	}
	needsExactly = map[string][]string{
		"aws-access-key-id": {"A3T", "AKIA", "AGPA", "AIDA", "AROA", "AIPA", "ANPA", "ANVA", "ASIA"},
		"openai-realtime-client-secret": {"ek_0", "ek_1", "ek_2", "ek_3", "ek_4", "ek_5", "ek_6", "ek_7", "ek_8", "ek_9",
			"ek_a", "ek_b", "ek_c", "ek_d", "ek_e", "ek_f"},
	}
)

// unusualLetters are those beyond ASCII that are a letter of ASCII in the other case: the Kelvin sign, the dotted capital
// and the long s.
var unusualLetters = []string{"\u212a", "\u0130", "\u017f"}

// maxFiltered is the largest file, in bytes, that is held in memory to choose its rules; a larger one is tried on all.
const maxFiltered = 8 << 20

// useSecrets puts secrets in the place of Trivy's analyser, which registered itself when the program began.
var useSecrets = sync.OnceFunc(func() {
	analyzer.DeregisterAnalyzer(analyzer.TypeSecret)
	analyzer.RegisterAnalyzer(newSecrets())
})

func newSecrets() *secrets {
	s := &secrets{scanner: secret.NewScanner(nil)}
	s.SecretAnalyzer = trivysecret.NewSecretAnalyzer(s.scanner, "")
	var all []string
	numbers := func(words []string) []int {
		var n []int
		for _, word := range words {
			n = append(n, len(all))
			all = append(all, word)
		}
		return n
	}
	for _, r := range s.scanner.Rules {
		s.rules = append(s.rules, filter{numbers(r.Keywords), numbers(needs[r.ID])})
	}
	s.unusual = numbers(unusualLetters)
	s.words = newAutomaton(all)
	return s
}

// Analyze searches a file for secrets.
func (s *secrets) Analyze(ctx context.Context, input analyzer.AnalysisInput) (*analyzer.AnalysisResult, error) {
	size := input.Info.Size()
	binary, err := utils.IsBinary(input.Content, size)
	if err != nil || size > maxFiltered || binary && !strings.HasSuffix(input.FilePath, ".pyc") {
		return s.SecretAnalyzer.Analyze(ctx, input) // which leaves other programs alone
	}
	content := make([]byte, size)
	if n, err := input.Content.ReadAt(content, 0); err != nil && (err != io.EOF || n < len(content)) { //nolint:errorlint // as io.ReaderAt has it
		return s.SecretAnalyzer.Analyze(ctx, input) // which says what is wrong with it
	}
	few := s.choose(content)
	if len(few) == 0 {
		return nil, nil
	}
	chosen := s.scanner
	chosen.Global = &secret.Global{Rules: few, AllowRules: s.scanner.AllowRules, ExcludeBlock: s.scanner.ExcludeBlock, SkipPatterns: s.scanner.SkipPatterns}
	return trivysecret.NewSecretAnalyzer(chosen, "").Analyze(ctx, input)
}

// choose returns the rules that content may break, in their order.
func (s *secrets) choose(content []byte) []secret.Rule {
	seen := s.words.in(content)
	has := func(words []int) bool {
		return len(words) == 0 || slices.ContainsFunc(words, func(word int) bool { return seen[word] })
	}
	if slices.ContainsFunc(s.unusual, func(word int) bool { return seen[word] }) {
		return s.scanner.Rules
	}
	var few []secret.Rule
	for i, r := range s.scanner.Rules {
		if has(s.rules[i].keywords) && has(s.rules[i].needs) && hasExactly(content, needsExactly[r.ID]) {
			few = append(few, r)
		}
	}
	return few
}

func hasExactly(content []byte, words []string) bool {
	return len(words) == 0 || slices.ContainsFunc(words, func(word string) bool { return bytes.Contains(content, []byte(word)) })
}

// automaton finds words in a text in one pass, with letters of ASCII alike in both cases (Aho and Corasick, Efficient
// String Matching, CACM 18, 1975).
type automaton struct {
	words int
	class [256]uint8 // of a byte; 0: in no word
	width uint32     // classes
	next  []uint32   // by state times width plus class: the next state times width, with ends set where words end
	found [][]int    // by state: which end there
}

const ends = 1 << 31

func newAutomaton(words []string) *automaton {
	a := &automaton{words: len(words), width: 1}
	for _, word := range words {
		for _, c := range []byte(word) {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if a.class[c] == 0 {
				a.class[c] = uint8(a.width)
				a.width++
			}
		}
	}
	for c := byte('A'); c <= 'Z'; c++ {
		a.class[c] = a.class[c+'a'-'A']
	}
	a.state()
	for n, word := range words {
		at := uint32(0)
		for _, c := range []byte(word) {
			edge := at*a.width + uint32(a.class[c])
			if a.next[edge] == 0 {
				child := a.state() // which may move next
				a.next[edge] = child
			}
			at = a.next[edge]
		}
		a.found[at] = append(a.found[at], n)
	}
	a.link()
	return a
}

// state adds a state and returns its number.
func (a *automaton) state() uint32 {
	a.next, a.found = append(a.next, make([]uint32, a.width)...), append(a.found, nil)
	return uint32(len(a.found)) - 1
}

// link leads every state on for every class: where its word does not go on, the longest of its endings that does. States
// are visited by their length, so that what is shorter is done.
func (a *automaton) link() {
	fallback := make([]uint32, len(a.found))
	var queue []uint32
	for class := range a.width {
		if child := a.next[class]; child != 0 {
			queue = append(queue, child)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		a.found[at] = append(a.found[at], a.found[fallback[at]]...)
		for class := range a.width {
			edge, instead := at*a.width+class, a.next[fallback[at]*a.width+class]
			if child := a.next[edge]; child != 0 {
				fallback[child] = instead
				queue = append(queue, child)
			} else {
				a.next[edge] = instead
			}
		}
	}
	for edge, to := range a.next {
		a.next[edge] = to * a.width
		if len(a.found[to]) > 0 {
			a.next[edge] |= ends
		}
	}
}

// in returns which words are in text, by their numbers.
func (a *automaton) in(text []byte) []bool {
	var state uint32
	seen, reached := make([]bool, a.words), make([]bool, len(a.found))
	for _, c := range text {
		to := a.next[state+uint32(a.class[c])]
		state = to &^ ends
		if to != state {
			reached[state/a.width] = true
		}
	}
	for state, yes := range reached {
		if yes {
			for _, word := range a.found[state] {
				seen[word] = true
			}
		}
	}
	return seen
}
