package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one thing that differs between two versions of a document.
type Change struct {
	Change string `json:"change"`        // added, removed or changed
	What   string `json:"what"`          // rule max-size, or where it stands: match.repositories
	Key    string `json:"key,omitempty"` // the rule's parameter, or its action
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
}

// The changes that there are.
const (
	added   = "added"
	removed = "removed"
	changed = "changed"
)

// String is the change on one line.
func (c Change) String() string {
	what := c.What
	if c.Key != "" {
		what += ": " + c.Key
	}
	switch c.Change {
	case added:
		return "+ " + strings.TrimSpace(what+" "+c.New)
	case removed:
		return "- " + strings.TrimSpace(what+" "+c.Old)
	}
	return "~ " + strings.TrimSpace(fmt.Sprintf("%s %s -> %s", what, c.Old, c.New))
}

// Diff returns what differs in meaning between two versions of a document, whatever its kind: rules by their name,
// parameter by parameter, and all else by where it stands. Spelling and order of keys do not count. Each source holds
// one document; an empty one holds nothing.
func Diff(from, to []byte) ([]Change, error) {
	a, err := outline(from)
	if err != nil {
		return nil, err
	}
	b, err := outline(to)
	if err != nil {
		return nil, err
	}
	all := []Change{}
	for _, key := range slices.Sorted(maps.Keys(union(a.keys, b.keys))) {
		all = append(all, diffValues(key, a.keys[key], b.keys[key])...)
	}
	for _, name := range b.order {
		if _, was := a.rules[name]; !was {
			all = append(all, Change{Change: added, What: "rule " + name, New: inline(b.rules[name])})
		}
	}
	for _, name := range a.order {
		now, is := b.rules[name]
		if !is {
			all = append(all, Change{Change: removed, What: "rule " + name, Old: inline(a.rules[name])})
			continue
		}
		was := a.rules[name]
		for _, key := range slices.Sorted(maps.Keys(union(was, now))) {
			for _, c := range diffValues(key, was[key], now[key]) {
				c.What, c.Key = "rule "+name, key
				all = append(all, c)
			}
		}
	}
	if len(all) == 0 && !slices.Equal(a.order, b.order) {
		all = append(all, Change{Change: changed, What: "order of rules", Old: strings.Join(a.order, ", "), New: strings.Join(b.order, ", ")})
	}
	return all, nil
}

// shape is a document as Diff compares it: values by where they stand, and rules by name.
type shape struct {
	keys  map[string]any
	rules map[string]map[string]any
	order []string // of the rules
}

func outline(src []byte) (shape, error) {
	s := shape{keys: map[string]any{}, rules: map[string]map[string]any{}}
	nodes, err := ParseYAML("document", src)
	if err != nil || len(nodes) == 0 {
		return s, err
	}
	var document map[string]any
	if err := nodes[0].Decode(&document); err != nil {
		return s, err
	}
	spec, _ := document["spec"].(map[string]any)
	rules, _ := spec["rules"].([]any)
	for _, one := range rules {
		s.add(one)
	}
	if rules != nil {
		delete(spec, "rules")
	}
	flatten(s.keys, "", document)
	for key, value := range s.keys { // where everything is below spec, saying so says nothing
		if short, ok := strings.CutPrefix(key, "spec."); ok {
			delete(s.keys, key)
			s.keys[short] = value
		}
	}
	return s, nil
}

// add takes a rule by its name; of several of one name, the later ones have a number.
func (s *shape) add(one any) {
	rule, _ := one.(map[string]any)
	name, _ := rule["name"].(string)
	kind, _ := rule["rule"].(string)
	if name == "" {
		name = kind
	}
	base := name
	for n := 2; s.rules[name] != nil; n++ {
		name = fmt.Sprintf("%s #%d", base, n)
	}
	values := map[string]any{}
	flatten(values, "", rule)
	delete(values, "name")
	if base == kind {
		delete(values, "rule")
	}
	for key, value := range values {
		if short, ok := strings.CutPrefix(key, "with."); ok {
			delete(values, key)
			values[short] = value
		}
	}
	s.rules[name], s.order = values, append(s.order, name)
}

// flatten puts maps into one, by the path of their keys. Lists stay.
func flatten(into map[string]any, prefix string, value any) {
	nested, ok := value.(map[string]any)
	if !ok {
		into[strings.TrimSuffix(prefix, ".")] = value
		return
	}
	for key, below := range nested {
		flatten(into, prefix+key+".", below)
	}
}

func union(a, b map[string]any) map[string]any {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

func diffValues(what string, was, is any) []Change {
	old, now := inline(was), inline(is)
	before, wasList := was.([]any)
	after, isList := is.([]any)
	switch {
	case old == now:
		return nil
	case wasList && isList && scalars(before) && scalars(after):
		return diffLists(what, before, after)
	case was == nil:
		return []Change{{Change: added, What: what, New: now}}
	case is == nil:
		return []Change{{Change: removed, What: what, Old: old}}
	}
	return []Change{{Change: changed, What: what, Old: old, New: now}}
}

// diffLists compares lists of words, such as patterns, as sets, unless only their order differs.
func diffLists(what string, before, after []any) []Change {
	var all []Change
	has := func(list []any, value any) bool {
		return slices.ContainsFunc(list, func(v any) bool { return inline(v) == inline(value) })
	}
	for _, v := range after {
		if !has(before, v) {
			all = append(all, Change{Change: added, What: what, New: inline(v)})
		}
	}
	for _, v := range before {
		if !has(after, v) {
			all = append(all, Change{Change: removed, What: what, Old: inline(v)})
		}
	}
	if all == nil {
		all = []Change{{Change: changed, What: what, Old: inline(before), New: inline(after)}}
	}
	return all
}

func scalars(list []any) bool {
	return !slices.ContainsFunc(list, func(v any) bool {
		switch v.(type) {
		case map[string]any, []any:
			return true
		}
		return false
	})
}

// inline writes a value as YAML does on one line, with its keys sorted.
func inline(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case map[string]any:
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, key+": "+inline(v[key]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		parts := make([]string, len(v))
		for i, one := range v {
			parts[i] = inline(one)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(value)
}
