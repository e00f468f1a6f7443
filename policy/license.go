package policy

import (
	"slices"
	"strings"
)

// license is an SPDX license expression: an id, or several under an operator.
type license struct {
	id    string
	or    bool
	parts []license
}

// Bounds of an expression: packages write their own.
const (
	maxLicense      = 4 << 10 // bytes
	maxLicenseDepth = 20
)

var parentheses = strings.NewReplacer("(", " ( ", ")", " ) ")

func (l license) permitted(id func(string) bool) bool {
	permitted := func(part license) bool { return part.permitted(id) }
	switch {
	case len(l.parts) == 0:
		return id(l.id)
	case l.or:
		return slices.ContainsFunc(l.parts, permitted)
	}
	return !slices.ContainsFunc(l.parts, func(part license) bool { return !permitted(part) })
}

// parseLicense parses an expression; ok is false of what is none.
func parseLicense(text string) (license, bool) {
	if len(text) > maxLicense {
		return license{}, false
	}
	p := licenseParser{words: strings.Fields(parentheses.Replace(text))}
	parsed, ok := p.expression(0)
	return parsed, ok && len(p.words) == 0
}

type licenseParser struct{ words []string }

func (p *licenseParser) is(word string) bool {
	if len(p.words) == 0 || !strings.EqualFold(p.words[0], word) {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *licenseParser) expression(depth int) (license, bool) {
	return p.list("OR", depth, p.conjunction)
}

func (p *licenseParser) conjunction(depth int) (license, bool) { return p.list("AND", depth, p.term) }

func (p *licenseParser) list(operator string, depth int, one func(int) (license, bool)) (license, bool) {
	first, ok := one(depth)
	parts := []license{first}
	for ok && p.is(operator) {
		var next license
		next, ok = one(depth)
		parts = append(parts, next)
	}
	if len(parts) == 1 {
		return first, ok
	}
	return license{or: operator == "OR", parts: parts}, ok
}

func (p *licenseParser) term(depth int) (license, bool) {
	if depth > maxLicenseDepth || len(p.words) == 0 {
		return license{}, false
	}
	if p.is("(") {
		inner, ok := p.expression(depth + 1)
		return inner, ok && p.is(")")
	}
	id := p.words[0]
	if slices.ContainsFunc([]string{")", "OR", "AND", "WITH"}, func(w string) bool { return strings.EqualFold(w, id) }) {
		return license{}, false
	}
	p.words = p.words[1:]
	if p.is("WITH") {
		if len(p.words) == 0 {
			return license{}, false
		}
		id, p.words = id+" WITH "+p.words[0], p.words[1:]
	}
	return license{id: id}, true
}
