package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// Words is a policy in words, for people.
type Words struct {
	Repositories         []string          `json:"repositories"`         // patterns of where it applies
	MediaTypes           []string          `json:"mediaTypes,omitempty"` // and of what; none means all
	Platforms            []string          `json:"platforms,omitempty"`
	Except               []string          `json:"except,omitempty"` // each a clause: "shop/lab/**", "platform windows/* in shop/**"
	WhenPromotedTurnsBad artifact.Response `json:"whenPromotedTurnsBad"`
	Rules                []RuleWords       `json:"rules"`
}

// RuleWords is a rule in words.
type RuleWords struct {
	Name   string   `json:"name"`           // as reasons call it
	Rule   string   `json:"rule"`           // its kind
	Action string   `json:"action"`         // deny or warn
	Asks   string   `json:"asks"`           // a sentence
	More   []string `json:"more,omitempty"` // what its parameters make of that, each a sentence
}

// Words says the policy in words.
func (d Document) Words() Words {
	w := Words{Repositories: d.match.Repositories, MediaTypes: d.match.MediaTypes, Platforms: d.match.Platforms, WhenPromotedTurnsBad: d.turnsBad, Rules: []RuleWords{}}
	if w.WhenPromotedTurnsBad == "" {
		w.WhenPromotedTurnsBad = artifact.RespondBlock
	}
	for _, e := range d.match.Except {
		w.Except = append(w.Except, e.words())
	}
	for _, r := range d.rules {
		say := RuleWords{Name: r.name, Rule: r.kind, Action: string(r.action), Asks: asks[r.kind]}
		if more := parameterWords[r.kind]; more != nil {
			say.More = more(r.at, r.given)
		}
		w.Rules = append(w.Rules, say)
	}
	return w
}

func (e exception) words() string {
	var parts []string
	if len(e.MediaTypes) > 0 {
		parts = append(parts, "media type "+orList(e.MediaTypes))
	}
	if len(e.Platforms) > 0 {
		parts = append(parts, "platform "+orList(e.Platforms))
	}
	what := strings.Join(parts, " for ")
	switch {
	case len(e.Repositories) == 0:
		return what
	case what == "":
		return strings.Join(e.Repositories, ", ")
	}
	return what + " in " + orList(e.Repositories)
}

func orList(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// asks is what each kind of rule asks, whatever its parameters are.
var asks = map[string]string{
	"no-root-user":       "The image runs as a user that is not root, as its own /etc/passwd has it.",
	"no-sshd":            "There is no ssh daemon in the image, under any name, and nothing starts one.",
	"no-setuid":          "No file gives more rights than who runs it has: no setuid, setgid or capabilities.",
	"no-secrets":         "No key and no token is in a file, nor in the config or its history.",
	"max-size":           "The image is not bloated.",
	"max-severity":       "No bad vulnerability is known of the image, by a scan that there has to be.",
	"allowed-licenses":   "Every package is under a licence that may be here.",
	"require-labels":     "The image has its labels.",
	"platforms":          "Images are for the platforms that are run here.",
	"no-latest":          "No push sets a tag that says nothing.",
	"allowed-bases":      "The image stands on a base that somebody chose.",
	"base-age":           "What the image stands on is not old.",
	"require-provenance": "How the image was built is attached to it before it is promoted.",
	"require-sbom":       "A list of what is in the image is attached to it before it is promoted.",
	"require-signature":  "Somebody who counts signed the image.",
	"expression":         "An expression (CEL) is true of the image.",
	"honest-config":      "The config says the truth about its layers.",
	"no-foreign-layers":  "Every layer is here, and none lies elsewhere.",
}

// parameterWords say what parameters make of a rule. They were decoded when the rule was bound, so that they decode.
var parameterWords = map[string]func(with Node, given bool) []string{
	"no-setuid": says(func(x setuidExceptions, say sayer) {
		say.when(len(x.Allow) > 0, "Not asked of %s.", orList(x.Allow))
		say.when(len(x.Capabilities) > 0, "A file may give %s.", orList(x.Capabilities))
	}),
	"no-secrets": says(func(x secretExceptions, say sayer) {
		say.when(len(x.Paths) > 0, "Not asked of %s.", orList(x.Paths))
		say.when(len(x.IDs) > 0, "What the scanner calls %s does not count.", orList(x.IDs))
	}),
	"max-size": says(func(l sizeLimits, say sayer) {
		say.when(l.Compressed > 0, "At most %s as it is pulled.", l.Compressed)
		say.when(l.Uncompressed > 0, "At most %s unpacked.", l.Uncompressed)
		say.when(l.Layer > 0, "At most %s in any one layer.", l.Layer)
		say.when(l.Layers > 0, "At most %d layers.", l.Layers)
		say.when(l.Wasted > 0, "At most %s that later layers remove or replace.", l.Wasted)
		say.when(l.Files > 0, "At most %d files.", l.Files)
	}),
	"max-severity": says(func(l severityLimits, say sayer) {
		what := "Nothing"
		if len(l.Classes) > 0 {
			what = "No " + orList(l.Classes)
		}
		say.when(true, "%s of severity %s or worse.", what, l.Severity)
		say.when(l.Fixable, "A vulnerability without a fix does not count.")
		say.when(l.Grace > 0, "For %s after its advisory was published, a finding is a warning.", l.Grace)
		say.when(l.Unrated, "What nobody has rated counts as the worst.")
	}),
	"allowed-licenses": says(func(l licenseRules, say sayer) {
		say.when(len(l.Deny) > 0, "Never %s.", orList(l.Deny))
		say.when(len(l.Allow) > 0, "Only %s.", orList(l.Allow))
		say.when(l.Unknown == allow, "A package without a licence may be here.")
		say.when(l.Unknown == warn, "A package without a licence is a warning.")
		say.when(l.Unknown == "" || l.Unknown == deny, "A package without a licence may not be here.")
		say.when(len(l.Except) > 0, "Not asked of %s.", orList(l.Except))
	}),
	"require-labels": says(func(l requiredLabels, say sayer) {
		for _, name := range sortedKeys(l.Labels) {
			fits := ""
			if l.Labels[name].Regexp != nil {
				fits = ", and fits " + strings.TrimSuffix(strings.TrimPrefix(l.Labels[name].String(), `\A(?:`), `)\z`)
			}
			say.when(true, "%s is there%s.", name, fits)
		}
	}),
	"platforms": says(func(p allowedPlatforms, say sayer) {
		say.when(len(p.Allow) > 0, "Only %s.", orList(p.Allow))
		say.when(len(p.Require) > 0, "An index has an image for each of %s.", strings.Join(p.Require, ", "))
	}),
	"no-latest": says(func(r refusedTags, say sayer) {
		if len(r.Tags) == 0 {
			r.Tags = []string{"latest"}
		}
		say.when(true, "Such as %s.", orList(r.Tags))
	}),
	"allowed-bases": says(func(b allowedBases, say sayer) {
		say.when(len(b.Bases) > 0, "By its layers: %s.", orList(baseNames(b.Bases)))
		say.when(len(b.Claimed) > 0, "By the word of who built it: %s.", orList(b.Claimed))
	}),
	"base-age": says(func(b baseAges, say sayer) {
		say.when(true, "At most %s.", b.Max)
		say.when(len(b.Bases) > 0, "The policy knows the age of %s; of any other it is what the image's history says.", orList(baseNames(b.Bases)))
	}),
	"require-provenance": says(func(r requiredProvenance, say sayer) {
		say.when(len(r.Types) > 0, "As %s.", orList(r.Types))
		say.signers(r.Authorities)
		say.when(len(r.Builders) > 0, "Built by %s.", orList(r.Builders))
		say.when(len(r.Sources) > 0, "From %s.", orList(r.Sources))
		say.when(r.CEL != "", "And this is true of it: %s", oneLine(r.CEL))
	}),
	"require-sbom": says(func(r requiredSBOM, say sayer) {
		say.when(len(r.Formats) > 0, "As %s.", orList(r.Formats))
	}),
	"require-signature": says(func(r requiredSignature, say sayer) {
		say.signers(r.Authorities)
		say.when(r.At == atPush, "Asked when a tag is pushed.")
		say.when(r.At != atPush, "Asked when it is promoted.")
	}),
	"expression": says(func(e expressionSource, say sayer) {
		say.when(true, "%s", oneLine(e.CEL))
		say.when(e.Message != "", "Else: %s", oneLine(e.Message))
	}),
}

func baseNames(all []base) []string {
	var names []string
	for _, b := range all {
		if !slices.Contains(names, b.Name) {
			names = append(names, b.Name)
		}
	}
	return names
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// sayer gathers sentences.
type sayer struct{ all *[]string }

func (s sayer) when(is bool, format string, args ...any) {
	if is {
		*s.all = append(*s.all, fmt.Sprintf(format, args...))
	}
}

func (s sayer) signers(a Authorities) {
	_ = a.Check(Node{}) // it was sound when the rule was bound; this tells keys from the word that stands for our own
	s.when(!a.None(), "Signed by %s.", a)
}

// says decodes parameters and has them said.
func says[P any](f func(P, sayer)) func(Node, bool) []string {
	return func(with Node, given bool) (all []string) {
		if p, err := parameters[P](with, given); err == nil {
			f(p, sayer{&all})
		}
		return all
	}
}
