package web

import (
	"strings"

	"github.com/pmezard/go-difflib/difflib"
)

// diffLine is a line of two texts beside each other.
type diffLine struct {
	Sign     string // +, - or a space; "…" where lines that are the same are left out
	Old, New int    // its number in each, from 1; 0: it is not there
	Text     string
}

// Class is how the line looks.
func (l diffLine) Class() string {
	return map[string]string{"+": "plus", "-": "minus", "…": "gap", "→": "wrong"}[l.Sign]
}

// diffLines returns the lines that differ, with three around them; long when there are more than a page shows.
func diffLines(before, after string) (lines []diffLine, long bool) {
	if len(before)+len(after) > 2*maxDiffText {
		return nil, true
	}
	a, b := textLines(before), textLines(after)
	for _, group := range difflib.NewMatcher(a, b).GetGroupedOpCodes(3) {
		if len(lines) > 0 || group[0].I1 > 0 || group[0].J1 > 0 {
			lines = append(lines, diffLine{Sign: "…"})
		}
		for _, op := range group {
			if op.Tag == 'e' {
				for i := op.I1; i < op.I2; i++ {
					lines = append(lines, diffLine{Sign: " ", Old: i + 1, New: op.J1 + i - op.I1 + 1, Text: clipped(a[i])})
				}
				continue
			}
			for i := op.I1; i < op.I2; i++ {
				lines = append(lines, diffLine{Sign: "-", Old: i + 1, Text: clipped(a[i])})
			}
			for j := op.J1; j < op.J2; j++ {
				lines = append(lines, diffLine{Sign: "+", New: j + 1, Text: clipped(b[j])})
			}
		}
	}
	size := 0
	for i, l := range lines {
		if size += len(l.Text); i >= maxDiffLines || size > maxDiffSize {
			return lines[:i], true
		}
	}
	return lines, false
}

func textLines(text string) []string {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
