package storage

import "strings"

// overlap reports whether there may be a repository that both patterns match (artifact.MatchGlob). It errs towards yes:
// a class in brackets is taken for any character.
func overlap(a, b string) bool {
	isMany := func(part string) bool { return part == "**" }
	return meet(strings.Split(a, "/"), strings.Split(b, "/"), isMany, func(x, y string) bool {
		return meet(tokens(x), tokens(y), func(t token) bool { return t.many }, func(x, y token) bool {
			return x.any || y.any || x.char == y.char
		})
	})
}

// token is a part of a pattern of path.Match: a character, any one, or many.
type token struct {
	char      byte
	any, many bool
}

func tokens(pattern string) []token {
	var all []token
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			all = append(all, token{many: true})
		case '?':
			all = append(all, token{any: true})
		case '[':
			all = append(all, token{any: true})
			for i++; i < len(pattern) && pattern[i] != ']'; i++ {
				if pattern[i] == '\\' {
					i++
				}
			}
		case '\\':
			if i++; i < len(pattern) {
				all = append(all, token{char: pattern[i]})
			}
		default:
			all = append(all, token{char: c})
		}
	}
	return all
}

// meet reports whether a sequence exists that both patterns match, where many stands for any number of elements and
// same says whether two single ones can be the same. reach[j] is whether a up to here and b up to j can meet.
func meet[T any](a, b []T, many func(T) bool, same func(x, y T) bool) bool {
	reach := make([]bool, len(b)+1)
	for i := 0; i <= len(a); i++ {
		next := make([]bool, len(b)+1)
		for j := 0; j <= len(b); j++ {
			switch {
			case i == 0 && j == 0:
				next[j] = true
			case i > 0 && many(a[i-1]):
				next[j] = reach[j] || j > 0 && next[j-1] // nothing more, or the element that b has
			case j > 0 && many(b[j-1]):
				next[j] = next[j-1] || i > 0 && reach[j]
			default:
				next[j] = i > 0 && j > 0 && reach[j-1] && same(a[i-1], b[j-1])
			}
		}
		reach = next
	}
	return reach[len(b)]
}
