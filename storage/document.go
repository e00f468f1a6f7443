// Package storage says what repositories may hold, and for how long: which tags may be moved, how many bytes there may
// be, and what is removed once nobody needs it. Documents of kind Repositories say so; nothing here knows SQL or HTTP.
package storage

import (
	"encoding/json"
	"path"
	"slices"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Document is a document of kind Repositories that was parsed and found sound.
type Document struct {
	name         string
	repositories []string
	except       []string
	hash         artifact.Digest

	// MutableTags are patterns of the tags that may be moved, instead of those that are configured; nil where those hold.
	MutableTags []string
	Quota       policy.Quantity // bytes that each repository may hold; 0: any number
	Retention   *Retention      // nil: nothing is ever removed
}

// Versioned is a document as it is in force.
type Versioned struct {
	Document
	Version int
}

// Retention is what makes a repository's content go. A zero field keeps nothing and removes nothing.
type Retention struct {
	KeepLast         int           // so many tags, the ones set last, of those that Tags match
	KeepPulledWithin time.Duration // what was pulled, or set, so recently
	Tags             []string      // patterns of the only tags that are ever removed
	Untagged         time.Duration // manifests that no tag, index or subject holds go after so long; 0: never
}

// removesTags reports whether a tag can go at all: without a word about what to keep, all are kept.
func (r Retention) removesTags() bool { return r.KeepLast > 0 || r.KeepPulledWithin > 0 }

type source struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Match struct {
			Repositories []string `yaml:"repositories"`
			Except       []string `yaml:"except"`
		} `yaml:"match"`
		MutableTags *[]string        `yaml:"mutableTags"`
		Quota       *policy.Quantity `yaml:"quota"`
		Retention   *retentionSource `yaml:"retention"`
	} `yaml:"spec"`
}

type retentionSource struct {
	KeepLast         *int      `yaml:"keepLast"`
	KeepPulledWithin *string   `yaml:"keepPulledWithin"`
	Tags             *[]string `yaml:"tags"`
	Untagged         *string   `yaml:"untagged"`
}

// Kind is what documents of this package are called.
const Kind = "Repositories"

// Parse reads documents of kind Repositories, one or many. What is unknown or unsound is an Invalid error with file,
// line and column; file only names the source.
func Parse(file string, src []byte) ([]Document, error) {
	nodes, err := policy.ParseYAML(file, src)
	if err != nil {
		return nil, err
	}
	var all []Document
	for _, n := range nodes {
		d, err := parseDocument(n)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	if len(all) == 0 {
		return nil, artifact.Errorf(artifact.Invalid, "%s:1:1: no document; want apiVersion: waybill/v1, kind: %s", file, Kind)
	}
	return all, nil
}

func parseDocument(n policy.Node) (Document, error) {
	var src source
	if err := n.Decode(&src); err != nil {
		return Document{}, err
	}
	if err := policy.CheckHeader(n, src.APIVersion, src.Kind, Kind, src.Metadata.Name); err != nil {
		return Document{}, err
	}
	if err := policy.CheckMatch(n, src.Spec.Match.Repositories, src.Spec.Match.Except); err != nil {
		return Document{}, err
	}
	d := Document{name: src.Metadata.Name, repositories: src.Spec.Match.Repositories, except: src.Spec.Match.Except}
	if src.Spec.MutableTags == nil && src.Spec.Quota == nil && src.Spec.Retention == nil {
		return d, n.At("$.spec").Errorf("spec says nothing of its repositories; want mutableTags, quota or retention")
	}
	var err error
	if patterns := src.Spec.MutableTags; patterns != nil {
		if d.MutableTags, err = tagPatterns(n, "$.spec.mutableTags", *patterns); err != nil {
			return d, err
		}
	}
	if src.Spec.Quota != nil {
		d.Quota = *src.Spec.Quota
	}
	if rules := src.Spec.Retention; rules != nil {
		if d.Retention, err = parseRetention(n, *rules); err != nil {
			return d, err
		}
	}
	canonical, err := json.Marshal(struct {
		Name                 string
		Repositories, Except []string
		MutableTags          []string
		Quota                policy.Quantity
		Retention            *Retention
	}{d.name, d.repositories, d.except, d.MutableTags, d.Quota, d.Retention})
	d.hash = artifact.DigestOf(canonical)
	return d, err
}

// leastAge is the shortest age by which anything may go: an index's images have no tag and no index until the index is
// pushed, and pulls are recorded some seconds after they were made.
const leastAge = time.Hour

func parseRetention(n policy.Node, src retentionSource) (*Retention, error) {
	const at = "$.spec.retention"
	var (
		r   Retention
		err error
	)
	if src.KeepLast != nil {
		if r.KeepLast = *src.KeepLast; r.KeepLast < 1 {
			return nil, n.At(at+".keepLast").Errorf("keepLast is %d; want at least 1", r.KeepLast)
		}
	}
	if r.KeepPulledWithin, err = age(n, at, "keepPulledWithin", src.KeepPulledWithin); err != nil {
		return nil, err
	}
	if r.Untagged, err = age(n, at, "untagged", src.Untagged); err != nil {
		return nil, err
	}
	if !r.removesTags() {
		if src.Tags != nil {
			return nil, n.At(at + ".tags").Errorf("tags says which tags may be removed, and nothing says which of them to keep; want keepLast or keepPulledWithin too")
		}
		if r.Untagged == 0 {
			return nil, n.At(at).Errorf("retention says nothing; want keepLast, keepPulledWithin or untagged")
		}
		return &r, nil
	}
	r.Tags = []string{"*"}
	if src.Tags != nil {
		if len(*src.Tags) == 0 {
			return nil, n.At(at + ".tags").Errorf("tags is empty, and then no tag is ever removed; leave it out for all tags")
		}
		r.Tags, err = tagPatterns(n, at+".tags", *src.Tags)
	}
	return &r, err
}

func age(n policy.Node, at, key string, text *string) (time.Duration, error) {
	if text == nil {
		return 0, nil
	}
	d, err := time.ParseDuration(*text)
	if err != nil || d < leastAge {
		return 0, n.At("%s.%s", at, key).Errorf("%s is %.40q; want a duration of at least 1h, such as 720h", key, *text)
	}
	return d, nil
}

// tagPatterns returns patterns that path.Match understands; never nil.
func tagPatterns(n policy.Node, at string, patterns []string) ([]string, error) {
	for i, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" || len(p) > 128 {
			return nil, n.At("%s[%d]", at, i).Errorf("pattern %.150q: want a tag, or one with *, ? or [] such as *-dev", p)
		}
	}
	return append([]string{}, patterns...), nil
}

// matchesTag reports whether one of the patterns is a tag's.
func matchesTag(patterns []string, tag artifact.Tag) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, tag.String())
		return ok && err == nil
	})
}

// Name is the document's name.
func (d Document) Name() string { return d.name }

// Hash identifies what the document means.
func (d Document) Hash() artifact.Digest { return d.hash }

// match returns the longest of the document's patterns that is a repository's; "" when the document is not for it.
func (d Document) match(r artifact.Repository) string {
	is := func(pattern string) bool { return artifact.MatchGlob(pattern, r.String()) }
	longest := ""
	for _, p := range d.repositories {
		if len(p) > len(longest) && is(p) {
			longest = p
		}
	}
	if slices.ContainsFunc(d.except, is) {
		return ""
	}
	return longest
}

// For returns the one document that is for a repository: the one with the longest pattern that matches.
func For(all []Versioned, r artifact.Repository) (Versioned, bool) {
	var (
		found   Versioned
		longest string
	)
	for _, d := range all {
		// Of two as long, which Fit refuses, the first by name, so that every replica takes the same.
		if p := d.match(r); len(p) > len(longest) || p != "" && len(p) == len(longest) && d.name < found.name {
			found, longest = d, p
		}
	}
	return found, longest != ""
}

// Fit returns a Conflict when, with all of these in force, there could be a repository that two of them are for alike.
// It takes no account of except, nor of longer patterns that might decide: what people must read twice is refused.
func Fit(all []Document) error {
	for i, a := range all {
		for _, b := range all[:i] {
			for _, p := range a.repositories {
				for _, q := range b.repositories {
					if len(p) == len(q) && overlap(p, q) {
						return artifact.Errorf(artifact.Conflict, "%s and %s are for the same repositories alike, by the patterns %s and %s; the longer pattern would decide, so lengthen one or let them not overlap",
							b.name, a.name, q, p)
					}
				}
			}
		}
	}
	return nil
}
