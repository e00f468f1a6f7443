package artifact

import (
	"fmt"
	"strings"
)

// An is a noun with its indefinite article, for sentences: a reader, an auditor.
func An(noun string) string {
	if noun != "" && strings.Contains("aeiou", noun[:1]) {
		return "an " + noun
	}
	return "a " + noun
}

// Count is a number with its noun, for sentences: 1 layer, 2 layers, 2 entries.
func Count[N int | int64](n N, noun string) string {
	stem, y := strings.CutSuffix(noun, "y")
	switch {
	case n == 1:
		return "1 " + noun
	case y:
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
