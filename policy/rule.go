package policy

import (
	"maps"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// rule is a kind of check. bind decodes its parameters, strictly, and returns the check.
type rule func(with Node, given bool) (check, error)

// check returns what it finds against an image; nothing, when it is as the rule wants it.
type check func(Image) []finding

// finding is one thing against an image. A warning does not deny even where the rule does.
type finding struct {
	message  string
	evidence []string
	warning  bool
	id       string // of what was found, where there may be many and one may be waived: CVE-2024-24790

	waivers []int64   // that made it a warning
	until   time.Time // and for how long
}

// known is every rule that ships, by the name that policies use.
var known = map[string]rule{
	"no-root-user": bindNoRootUser,
	"no-sshd":      bindNoSSHD,
	"max-size":     bindMaxSize,

	"honest-config":     bindHonestConfig,
	"no-foreign-layers": bindNoForeignLayers,
}

// always are the rules that deny wherever no policy that matches has them: a policy may only make them warn.
var always = func() []boundRule {
	var all []boundRule
	for _, name := range []string{"honest-config", "no-foreign-layers"} {
		check, _ := known[name](Node{}, false)
		all = append(all, boundRule{kind: name, name: name, action: deny, check: check})
	}
	return all
}()

// boundRule is a rule with its parameters.
type boundRule struct {
	kind   string // as known calls it
	name   string // as reasons call it
	action action
	check  check
}

func bind(doc Node, i int, src ruleSource) (boundRule, error) {
	r, ok := known[src.Rule]
	if !ok {
		return boundRule{}, doc.At("$.spec.rules[%d].rule", i).Errorf("rule %q is not known; known are %s", src.Rule, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	if src.Action != deny && src.Action != warn {
		return boundRule{}, doc.At("$.spec.rules[%d].action", i).Errorf("action is %q; want deny or warn", src.Action)
	}
	with := doc.At("$.spec.rules[%d].with", i)
	check, err := r(with, src.With != nil)
	if err != nil {
		return boundRule{}, err
	}
	name := src.Rule
	if src.Name != "" {
		name = src.Name
	}
	return boundRule{kind: src.Rule, name: name, action: src.Action, check: check}, nil
}

// reasons runs the check and says what it found in a policy's name.
func (r boundRule) reasons(policy string, img Image) []artifact.Reason {
	var all []artifact.Reason
	for _, f := range few(r.waive(policy, img, r.check(img))) {
		all = append(all, artifact.Reason{Rule: r.name, Policy: policy, Message: f.message, Warning: f.warning || r.action == warn, Evidence: f.evidence,
			Finding: f.id, Waivers: f.waivers, WaivedUntil: f.until}.Bounded())
	}
	return all
}

// without refuses parameters to a rule that has none.
func without(with Node, given bool) error {
	if given {
		return with.Errorf("this rule has no parameters")
	}
	return nil
}
