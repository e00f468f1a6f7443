package policy

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"waybill/artifact"
)

// Document is a policy that was parsed and found sound.
type Document struct {
	name  string
	match match
	rules []boundRule
	hash  artifact.Digest

	turnsBad artifact.Response // "": as the default has it
}

type action string

const (
	deny action = "deny"
	warn action = "warn"
)

type source struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Match match        `yaml:"match"`
		Rules []ruleSource `yaml:"rules"`

		WhenPromotedTurnsBad artifact.Response `yaml:"whenPromotedTurnsBad"`
	} `yaml:"spec"`
}

type ruleSource struct {
	Rule   string         `yaml:"rule"`
	Action action         `yaml:"action"`
	Name   string         `yaml:"name"`
	With   map[string]any `yaml:"with"`
}

// maxRules bounds what a judgement costs.
const maxRules = 200

var documentName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

//go:embed baseline.yaml
var baseline []byte

// Baseline returns the policy that is in force from the first start: no root user, no sshd, a size cap.
func Baseline() []byte { return slices.Clone(baseline) }

// Parse reads policies, one or many documents. An unknown key, rule or parameter, or a value out of its range, is an
// Invalid error with file, line and column; file only names the source.
func Parse(file string, src []byte) ([]Document, error) {
	nodes, err := ParseYAML(file, src)
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
		return nil, artifact.Errorf(artifact.Invalid, "%s:1:1: no document; want apiVersion: waybill/v1, kind: Policy", file)
	}
	return all, nil
}

func parseDocument(n Node) (Document, error) {
	var src source
	if err := n.Decode(&src); err != nil {
		return Document{}, err
	}
	if err := CheckHeader(n, src.APIVersion, src.Kind, "Policy", src.Metadata.Name); err != nil {
		return Document{}, err
	}
	if err := src.Spec.Match.check(n); err != nil {
		return Document{}, err
	}
	if len(src.Spec.Rules) > maxRules {
		return Document{}, n.At("$.spec.rules").Errorf("%d rules; a policy has at most %d", len(src.Spec.Rules), maxRules)
	}
	d := Document{name: src.Metadata.Name, match: src.Spec.Match, turnsBad: src.Spec.WhenPromotedTurnsBad}
	if err := checkResponse(n, d.turnsBad); err != nil {
		return Document{}, err
	}
	for i, r := range src.Spec.Rules {
		bound, err := bind(n, i, r)
		if err != nil {
			return Document{}, err
		}
		d.rules = append(d.rules, bound)
	}
	// Every sound document encodes; its hash is of its meaning, not of its spelling.
	canonical, err := json.Marshal(struct {
		Name     string
		Match    match
		Rules    []ruleSource
		TurnsBad artifact.Response `json:",omitempty"` // as if it were not there, so that older documents keep their hash
	}{d.name, d.match, src.Spec.Rules, d.turnsBad})
	d.hash = artifact.DigestOf(canonical)
	return d, err
}

// CheckHeader checks what every kind of document has.
func CheckHeader(n Node, apiVersion, kind, wantKind, name string) error {
	switch {
	case apiVersion != "waybill/v1":
		return n.At("$.apiVersion").Errorf("apiVersion is %q; want waybill/v1", apiVersion)
	case kind != wantKind:
		return n.At("$.kind").Errorf("kind is %q; want %s", kind, wantKind)
	case !documentName.MatchString(name):
		return n.At("$.metadata.name").Errorf("metadata.name is %q; want at most 63 lower-case letters, digits, '.' and '-'", name)
	}
	return nil
}

// CheckMatch checks the patterns that say what a document is for.
func CheckMatch(n Node, repositories, except []string) error {
	if len(repositories) == 0 {
		return n.At("$.spec.match").Errorf("spec.match.repositories is empty; want patterns such as [\"shop/**\"], or [\"**\"] for all")
	}
	for key, patterns := range map[string][]string{"repositories": repositories, "except": except} {
		for i, p := range patterns {
			if !artifact.ValidGlob(p) {
				return n.At("$.spec.match.%s[%d]", key, i).Errorf("pattern %q: want path components such as shop/** or */returns", p)
			}
		}
	}
	return nil
}

// Name is the policy's name.
func (d Document) Name() string { return d.name }

// Hash identifies what the policy means: two spellings of the same rules have the same hash.
func (d Document) Hash() artifact.Digest { return d.hash }

// Matches reports whether the policy is for a repository, or for some of what is in it.
func (d Document) Matches(r artifact.Repository) bool {
	return anyGlob(d.match.Repositories, r.String()) && !slices.ContainsFunc(d.match.Except, func(e exception) bool {
		return e.byRepository() && anyGlob(e.Repositories, r.String())
	})
}

// Rules says each rule in words, for people.
func (d Document) Rules() []string {
	var words []string
	for _, r := range d.rules {
		words = append(words, strings.TrimSpace(string(r.action)+" "+r.name))
	}
	return words
}
