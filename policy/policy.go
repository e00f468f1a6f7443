// Package policy turns facts into verdicts: a pure function from what an image's bytes say, and the policies in force,
// to allow, deny or pending with every reason. Only an allowing verdict makes a Pass, and signing and promoting take
// nothing else.
package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"waybill/artifact"
)

// Image is all that a verdict about one image looks at.
type Image struct {
	Subject   artifact.Subject
	Config    artifact.ImageConfig
	Facts     artifact.ImageFacts
	Lies      []string              // of the config about its layers
	Foreign   []string              // layers that are not here
	Scan      artifact.Scan         // the newest one; the zero Scan: there is none
	Referrers []artifact.Descriptor // to the image, or to the index that is judged; with their annotations
	Signed    map[string]Signed     // what was found of signatures, by the ID of the question
	Names     []artifact.Tag        // that a push is about to give to it, or to the index that is judged
	Now       time.Time             // the moment of the judgement, from which ages count; zero: no age can be told

	memo    *memo
	waivers []artifact.Waiver // that may cover it; Set.Evaluate fills them in
	of      scope             // what it is, where it is no image
}

// memo keeps what several rules ask for while one image is evaluated.
type memo struct {
	variables map[string]any // of expressions
}

// Versioned is a policy as it is in force.
type Versioned struct {
	Document
	Version int
}

// Set is the policies in force. The zero Set has none, and so denies everything.
type Set struct {
	policies []Versioned
	waivers  []artifact.Waiver // in force; see With
}

// NewSet returns the set of the given policies; their names differ.
func NewSet(policies []Versioned) Set {
	sorted := slices.Clone(policies)
	slices.SortFunc(sorted, func(a, b Versioned) int { return compare(a.Name(), b.Name()) })
	return Set{policies: sorted}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// matching returns the policies that apply to a repository, and the hash and names that a verdict records of them.
func (s Set) matching(r artifact.Repository) (matched []Versioned, hash artifact.Digest, names []string) {
	var canonical []byte
	for _, p := range s.policies {
		if p.Matches(r) {
			matched = append(matched, p)
			names = append(names, p.Name()+"@"+strconv.Itoa(p.Version))
			canonical = append(canonical, p.Name()+" "+p.Hash().String()+"\n"...)
		}
	}
	return matched, artifact.DigestOf(canonical), names
}

// asks reports whether a policy for a repository has a rule of any of these kinds: what only they look at need not be
// fetched otherwise.
func (s Set) asks(r artifact.Repository, kinds ...string) bool {
	return slices.ContainsFunc(s.policies, func(p Versioned) bool {
		return p.Matches(r) && slices.ContainsFunc(p.rules, func(rule boundRule) bool { return slices.Contains(kinds, rule.kind) })
	})
}

// Evaluate judges an image: every reason of every policy that matches. It denies what no policy matches.
func (s Set) Evaluate(img Image) Verdict {
	matched, v := s.begin(img.Subject)
	img.memo, img.waivers = &memo{}, s.waivers
	bound, asked := map[string]bool{}, len(matched) == 0
	for _, p := range matched {
		if !p.forImage(img) {
			continue
		}
		asked = true
		for _, rule := range p.rules {
			bound[rule.kind] = true
			v.Reasons = append(v.Reasons, rule.reasons(p.Name(), img)...)
		}
	}
	if !asked {
		v.Reasons = append(v.Reasons, noPolicy(fmt.Sprintf("%s %s in %s", img.Config.Platform(), img.Subject.Manifest.MediaType, img.Subject.Repository)))
	}
	for _, rule := range always {
		if !bound[rule.kind] {
			v.Reasons = append(v.Reasons, rule.reasons("", img)...)
		}
	}
	return v.seal()
}

// Artifact judges what is no image: a chart, an SBOM, a signature. It is asked what policies that name its type ask of
// such, and is allowed wherever a policy matches the repository and none of those denies.
func (s Set) Artifact(subject artifact.Subject) Verdict {
	matched, v := s.begin(subject)
	for _, p := range matched {
		if p.forArtifact(subject) {
			v.Reasons = append(v.Reasons, p.reasons(artifacts, Image{Subject: subject, waivers: s.waivers})...)
		}
	}
	return v.seal()
}

// reasons asks the rules of a scope.
func (p Versioned) reasons(of scope, img Image) []artifact.Reason {
	img.of, img.memo = of, &memo{}
	var all []artifact.Reason
	for _, rule := range p.rules {
		if rule.of&of != 0 {
			all = append(all, rule.reasons(p.Name(), img)...)
		}
	}
	return all
}

// Uninspectable denies an image whose bytes could not be judged, with why.
func (s Set) Uninspectable(subject artifact.Subject, why ...string) Verdict {
	_, v := s.begin(subject)
	for _, w := range why[:min(len(why), maxFindings)] {
		v.Reasons = append(v.Reasons, artifact.Reason{Rule: ruleInspect, Message: w}.Bounded())
	}
	return v.seal()
}

// Pending is the verdict about what is not known yet; it never passes.
func (s Set) Pending(subject artifact.Subject, why string) Verdict {
	_, v := s.begin(subject)
	v.Outcome = artifact.Pending
	v.Reasons = append(v.Reasons, artifact.Reason{Rule: ruleInspect, Message: why})
	return v
}

// Index judges an index by the verdicts of its children, in its order: it is allowed when each is, and when the rules
// about indexes allow it.
func (s Set) Index(subject artifact.Subject, children []Child) Verdict {
	matched, v := s.begin(subject)
	for _, p := range matched {
		if p.forIndex(subject) {
			v.Reasons = append(v.Reasons, p.reasons(indexes, Image{Subject: subject, waivers: s.waivers})...)
		}
	}
	denied := false
	for _, c := range children {
		if len(c.Verdict.Reasons) >= maxReasons {
			v.waiting, v.withheld = v.waiting || c.Verdict.waiting, v.withheld || c.Verdict.withheld // by what it does not tell
		}
		for _, r := range c.Verdict.Reasons {
			r = s.waiveOfIndex(subject, r)
			v.waiting, v.withheld = v.waiting || r.Promotion, v.withheld || r.Signature
			r.Platform = cmp.Or(r.Platform, c.Platform) // of an index in it, its image's
			if len(v.Reasons) < maxReasons {
				v.Reasons = append(v.Reasons, r)
			}
			v.restOn(r)
			denied = denied || !r.Warning
		}
		if c.Verdict.Outcome == artifact.Pending {
			v.Outcome = artifact.Pending
		}
	}
	if v.Outcome == artifact.Pending {
		return v
	}
	if denied && len(v.Denials()) == 0 {
		v.Reasons = append(v.Reasons, artifact.Reason{Rule: ruleInspect, Message: "an image of the index is denied, and there are too many reasons to list; look at each image's verdict"})
	}
	return v.seal()
}

// Reasons are kept for ever, and shown whole: an image made to have a million of them has few.
const (
	maxFindings = 20  // of one rule
	maxReasons  = 200 // of an index
)

// few keeps the first findings, denials before warnings, and counts the rest.
func few(all []finding) []finding {
	if len(all) <= maxFindings {
		return all
	}
	kept := slices.Clone(all)
	slices.SortStableFunc(kept, func(a, b finding) int {
		switch {
		case a.warning == b.warning:
			return 0
		case b.warning:
			return -1
		}
		return 1
	})
	rest := finding{message: fmt.Sprintf("and %d more like these", len(all)-maxFindings), warning: kept[maxFindings].warning}
	for _, f := range kept[maxFindings:] {
		rest.until, rest.waivers = earlier(rest.until, f.until), join(rest.waivers, f.waivers)
	}
	return append(kept[:maxFindings], rest)
}

// Child is one manifest of an index, judged.
type Child struct {
	Platform string
	Verdict  Verdict
}

// ruleInspect names what is denied because it could not be looked at, or because no policy says yes.
const ruleInspect = "inspect"

func (s Set) begin(subject artifact.Subject) ([]Versioned, Verdict) {
	matched, hash, names := s.matching(subject.Repository)
	v := Verdict{responses: responses(matched), versions: s.versions(), VerdictRecord: artifact.VerdictRecord{Repository: subject.Repository, Digest: subject.Digest, Reasons: []artifact.Reason{}, PolicyHash: hash, Policies: names}}
	if len(matched) == 0 {
		v.Policies = []string{}
		v.Reasons = append(v.Reasons, noPolicy(subject.Repository.String()))
	}
	return matched, v
}

func noPolicy(what string) artifact.Reason {
	return artifact.Reason{Rule: ruleInspect, Message: "no policy applies to " + what + ", and what nothing judges is not allowed; apply a policy that matches it (waybill apply -f FILE)"}.Bounded()
}
