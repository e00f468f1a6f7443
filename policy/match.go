package policy

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"waybill/artifact"
)

// match says what a policy is for. Media types and platforms that are not given are any.
type match struct {
	Repositories []string    `yaml:"repositories" json:"repositories"`
	MediaTypes   []string    `yaml:"mediaTypes" json:"mediaTypes,omitempty"`
	Platforms    []string    `yaml:"platforms" json:"platforms,omitempty"`
	Except       []exception `yaml:"except" json:"except,omitempty"`
}

// exception is what a policy is not for, though it matches: whatever all that is given of it fits. In YAML it is a
// mapping, or one repository pattern.
type exception struct {
	Repositories []string `yaml:"repositories" json:"repositories,omitempty"`
	MediaTypes   []string `yaml:"mediaTypes" json:"mediaTypes,omitempty"`
	Platforms    []string `yaml:"platforms" json:"platforms,omitempty"`
}

// UnmarshalYAML takes a pattern or a mapping.
func (e *exception) UnmarshalYAML(n ast.Node) error {
	if n.Type() == ast.MappingType || n.Type() == ast.MappingValueType {
		type plain exception
		return yaml.NodeToValue(n, (*plain)(e), yaml.Strict())
	}
	var pattern string
	if err := yaml.NodeToValue(n, &pattern); err != nil {
		return err
	}
	e.Repositories = []string{pattern}
	return nil
}

// MarshalJSON writes an exception of one repository pattern as that pattern: a document's hash is of its meaning.
func (e exception) MarshalJSON() ([]byte, error) {
	if e.byRepository() && len(e.Repositories) == 1 {
		return json.Marshal(e.Repositories[0])
	}
	type plain exception
	return json.Marshal(plain(e))
}

func (e exception) byRepository() bool { return len(e.MediaTypes) == 0 && len(e.Platforms) == 0 }

// check refuses patterns that cannot match.
func (m match) check(n Node) error {
	if err := CheckMatch(n, m.Repositories, nil); err != nil {
		return err
	}
	at := n.At("$.spec.match")
	if err := checkKinds(at, m.MediaTypes, m.Platforms); err != nil {
		return err
	}
	for i, e := range m.Except {
		at := n.At("$.spec.match.except[%d]", i)
		if len(e.Repositories)+len(e.MediaTypes)+len(e.Platforms) == 0 {
			return at.Errorf("this excepts nothing; want a repository pattern, or a mapping of repositories, mediaTypes and platforms")
		}
		if err := checkGlobs(at, "pattern", "path components such as shop/** or */returns", e.Repositories); err != nil {
			return err
		}
		if err := checkKinds(at, e.MediaTypes, e.Platforms); err != nil {
			return err
		}
	}
	return nil
}

func checkKinds(at Node, mediaTypes, platforms []string) error {
	if err := checkGlobs(at, "media type", "a pattern such as application/vnd.cncf.helm.*", mediaTypes); err != nil {
		return err
	}
	return checkPlatforms(at, platforms)
}

func checkGlobs(at Node, what, want string, patterns []string) error {
	for _, p := range patterns {
		if !artifact.ValidGlob(p) {
			return at.Errorf("%s %q: want %s", what, p, want)
		}
	}
	return nil
}

func checkPlatforms(at Node, patterns []string) error {
	for _, p := range patterns {
		if n := strings.Count(p, "/"); !artifact.ValidGlob(p) || n < 1 || n > 2 {
			return at.Errorf("platform %q: want os/architecture or os/architecture/variant, such as linux/amd64 or linux/*", p)
		}
	}
	return nil
}

func anyGlob(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return artifact.MatchGlob(p, name) })
}

// anyPlatform: a pattern without a variant is for all of them. A platform fits as it is spelt, and as runtimes spell it.
func anyPlatform(patterns []string, p artifact.Platform) bool {
	for _, p := range []artifact.Platform{p, asRun(p)} {
		bare := p.OS + "/" + p.Architecture
		if slices.ContainsFunc(patterns, func(pattern string) bool {
			return artifact.MatchGlob(pattern, p.String()) || strings.Count(pattern, "/") == 1 && artifact.MatchGlob(pattern, bare)
		}) {
			return true
		}
	}
	return false
}

// asRun spells a platform as containerd does before it looks whether a node runs it (containerd/platforms, Normalize), so that
// no other spelling takes an image out of a policy.
func asRun(p artifact.Platform) artifact.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "amd64" && p.Variant == "v1", p.Architecture == "arm64" && (p.Variant == "8" || p.Variant == "v8" || p.Variant == "v8.0"):
		p.Variant = "" // the only one there is, or the lowest, which some write and some do not
	case p.Architecture == "arm64" && (p.Variant == "9" || p.Variant == "9.0" || p.Variant == "v9.0"):
		p.Variant = "v9"
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm" && len(p.Variant) == 1:
		p.Variant = "v" + p.Variant
	}
	return p
}

// asked is what a match looks at besides the repository, which fits already.
type asked struct {
	repository artifact.Repository
	mediaTypes []string
	platform   *artifact.Platform // nil of what has none
}

// mediaTypes returns what something is, as patterns call it. An image is one by its bytes: what it claims to be besides
// must not take it out of a policy.
func mediaTypes(s artifact.Subject) []string {
	switch {
	case s.Manifest.IsIndex():
		return []string{s.Manifest.MediaType}
	case s.IsImage:
		return []string{s.Manifest.MediaType, artifact.MediaTypeConfig}
	}
	return []string{s.Manifest.ArtifactType}
}

// is reports whether a policy that matches the repository is for what was asked.
func (m match) is(a asked) bool {
	fits := func(patterns []string) bool {
		return slices.ContainsFunc(a.mediaTypes, func(t string) bool { return anyGlob(patterns, t) })
	}
	if len(m.MediaTypes) > 0 && !fits(m.MediaTypes) || len(m.Platforms) > 0 && a.platform != nil && !anyPlatform(m.Platforms, *a.platform) {
		return false
	}
	return !slices.ContainsFunc(m.Except, func(e exception) bool {
		return (len(e.Repositories) == 0 || anyGlob(e.Repositories, a.repository.String())) && (len(e.MediaTypes) == 0 || fits(e.MediaTypes)) &&
			(len(e.Platforms) == 0 || a.platform != nil && anyPlatform(e.Platforms, *a.platform))
	})
}

// forImage reports whether the policy is asked about an image; its platform is what its config says, and where that says no
// operating system, the node's, which is Linux.
func (d Document) forImage(img Image) bool {
	platform := img.Config.Platform()
	platform.OS = cmp.Or(platform.OS, "linux")
	return d.match.is(asked{img.Subject.Repository, mediaTypes(img.Subject), &platform})
}

// forIndex reports whether the policy is asked about an index itself, whatever its images are.
func (d Document) forIndex(s artifact.Subject) bool {
	return d.match.is(asked{s.Repository, mediaTypes(s), nil})
}

// forArtifact reports whether the policy is asked about what is no image: it must name its type.
func (d Document) forArtifact(s artifact.Subject) bool {
	return len(d.match.MediaTypes) > 0 && len(d.match.Platforms) == 0 && d.match.is(asked{s.Repository, mediaTypes(s), nil})
}
