package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Bounds of a label's match: RE2 takes time by the product of the two.
const (
	maxPattern = 500      // bytes of a pattern
	maxLabel   = 16 << 10 // bytes of a value
	maxLabels  = 100
)

// pattern is a regular expression (RE2) that fits a whole text, so that none needs anchors; the empty one fits any.
type pattern struct{ *regexp.Regexp }

// UnmarshalYAML compiles a scalar; its error knows where that stands.
func (p *pattern) UnmarshalYAML(n ast.Node) error {
	text := ""
	if n.Type() != ast.NullType {
		if err := yaml.NodeToValue(n, &text); err != nil {
			return err
		}
	}
	wrong := func(format string, args ...any) error {
		return &yaml.SyntaxError{Message: fmt.Sprintf(format, args...), Token: n.GetToken()}
	}
	if len(text) > maxPattern {
		return wrong("a pattern of %d bytes; at most %d are taken", len(text), maxPattern)
	}
	if _, err := regexp.Compile(text); err != nil {
		return wrong("%v", err) // before it is wrapped, so that the error shows what was written
	}
	if text != "" {
		p.Regexp = regexp.MustCompile(`\A(?:` + text + `)\z`)
	}
	return nil
}

// requiredLabels are the parameters of require-labels: a pattern of each label's value, or none.
type requiredLabels struct {
	Labels map[string]pattern `yaml:"labels"`
}

// bindRequireLabels: the image has each label, and of the wanted form. What is no image has annotations instead.
func bindRequireLabels(with Node, given bool) (check, error) {
	required, err := parameters[requiredLabels](with, given)
	if err != nil {
		return nil, err
	}
	if n := len(required.Labels); n == 0 || n > maxLabels {
		return nil, with.Errorf("require-labels wants 1 to %d labels, such as with: {labels: {org.opencontainers.image.source: 'https://git\\.example\\.com/.+', maintainer: ''}}", maxLabels)
	}
	names := slices.Sorted(maps.Keys(required.Labels))
	return func(img Image) []finding {
		labels, what := img.Config.Config.Labels, "label"
		if img.of == artifacts {
			labels, what = img.Subject.Manifest.Annotations, "annotation"
		}
		var found []finding
		for _, name := range names {
			if why := required.Labels[name].refuses(labels, name); why != "" {
				found = append(found, finding{message: fmt.Sprintf("the %s %s %s; set it in the build", what, name, why), evidence: []string{name}})
			}
		}
		return found
	}, nil
}

func (p pattern) refuses(labels map[string]string, name string) string {
	value, ok := labels[name]
	switch {
	case !ok || value == "":
		return "is missing"
	case len(value) > maxLabel:
		return fmt.Sprintf("has %d bytes, more than %d", len(value), maxLabel)
	case p.Regexp != nil && !p.MatchString(value):
		return fmt.Sprintf("is %s, which does not match what is asked", strconv.Quote(shortened(value)))
	}
	return ""
}

// shortened is a text as reasons quote it.
func shortened(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
