package policy

import (
	"maps"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// rule is a kind of check. bind decodes its parameters, strictly, and returns the check.
type rule struct {
	of   scope
	bind func(with Node, given bool) (check, error)
}

// scope is what a rule can be asked of. An index has no bytes of its own: its images are asked one by one.
type scope int

const (
	images scope = 1 << iota
	indexes
	artifacts // whatever is neither, where a policy names its type
)

// check returns what it finds against an image; nothing, when it is as the rule wants it.
type check func(Image) []finding

// finding is one thing against an image. A warning does not deny even where the rule does.
type finding struct {
	message   string
	evidence  []string
	tag       string // that it is about, where the digest is not meant
	warning   bool
	promotion bool   // it denies a promotion; a push it cannot deny, since what it asks for comes after
	unsigned  bool   // Waybill does not sign it either, since its signature says that nothing is lacking
	id        string // of what was found, where there may be many and one may be waived: CVE-2024-24790

	waivers []int64   // that made it a warning
	until   time.Time // and for how long
}

// known is every rule that ships, by the name that policies use.
var known = map[string]rule{
	"no-root-user":     {images, bindNoRootUser},
	"no-sshd":          {images, bindNoSSHD},
	"no-setuid":        {images, bindNoSetuid},
	"max-size":         {images | artifacts, bindMaxSize},
	"platforms":        {images | indexes, bindPlatforms},
	"no-latest":        {images | indexes | artifacts, bindNoLatest},
	"require-labels":   {images | artifacts, bindRequireLabels},
	"allowed-bases":    {images, bindAllowedBases},
	"base-age":         {images, bindBaseAge},
	"expression":       {images | artifacts, bindExpression},
	"max-severity":     {images, bindMaxSeverity},
	"no-secrets":       {images, bindNoSecrets},
	"allowed-licenses": {images, bindAllowedLicenses},

	"require-provenance": {images, bindRequireProvenance},
	"require-sbom":       {images, bindRequireSBOM},
	"require-signature":  {images, bindRequireSignature},

	"honest-config":     {images, bindHonestConfig},
	"no-foreign-layers": {images, bindNoForeignLayers},
}

// always are the rules that deny wherever no policy that matches has them: a policy may only make them warn.
var always = func() []boundRule {
	var all []boundRule
	for _, name := range []string{"honest-config", "no-foreign-layers"} {
		check, _ := known[name].bind(Node{}, false)
		all = append(all, boundRule{kind: name, name: name, of: images, action: deny, check: check})
	}
	return all
}()

// boundRule is a rule with its parameters.
type boundRule struct {
	kind   string // as known calls it
	name   string // as reasons call it
	of     scope
	action action
	check  check
	asks   *SignatureQuestion // nil: nothing
	at     Node               // its parameters
	given  bool               // whether it has any
}

func bind(doc Node, i int, src ruleSource) (boundRule, error) {
	r, ok := known[src.Rule]
	if !ok {
		return boundRule{}, doc.At("$.spec.rules[%d].rule", i).Errorf("rule %q is not known; known are %s", src.Rule, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	if src.Action != deny && src.Action != warn {
		return boundRule{}, doc.At("$.spec.rules[%d].action", i).Errorf("action is %q; want deny or warn", src.Action)
	}
	with := doc.At("$.spec.rules[%d]", i)
	if src.With != nil {
		with = with.At("$.with")
	}
	check, err := r.bind(with, src.With != nil)
	if err != nil {
		return boundRule{}, err
	}
	name := src.Rule
	if src.Name != "" {
		name = src.Name
	}
	bound := boundRule{kind: src.Rule, name: name, of: r.of, action: src.Action, check: check, at: with, given: src.With != nil}
	if ask := asking[src.Rule]; ask != nil {
		bound.asks = ask(with, src.With != nil)
	}
	return bound, nil
}

// reasons runs the check and says what it found in a policy's name.
func (r boundRule) reasons(policy string, img Image) []artifact.Reason {
	var all []artifact.Reason
	for _, f := range few(r.waive(policy, img, r.check(img))) {
		warning := f.warning || r.action == warn
		awaits := artifact.Awaited("")
		if f.unsigned {
			awaits = artifact.AwaitsPeople // who sign
		}
		all = append(all, artifact.Reason{Rule: r.name, Awaits: awaits, Policy: policy, Message: f.message, Warning: warning || f.promotion, Promotion: f.promotion && !warning, Signature: f.unsigned && !warning, Tag: f.tag,
			Evidence: f.evidence, Finding: f.id, Waivers: f.waivers, WaivedUntil: f.until}.Bounded())
	}
	return all
}

// parameters decodes a rule's parameters, strictly; they are all absent when none are given.
func parameters[P any](with Node, given bool) (p P, err error) {
	if given {
		err = with.Decode(&p)
	}
	return p, err
}

// without refuses parameters to a rule that has none.
func without(with Node, given bool) error {
	if given {
		return with.Errorf("this rule has no parameters")
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
