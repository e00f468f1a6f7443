package artifact

import (
	"strings"
	"unicode"
)

// Outcome is what a verdict comes to.
type Outcome string

// The outcomes. Pending is never allow.
const (
	Allow   Outcome = "allow"
	Deny    Outcome = "deny"
	Pending Outcome = "pending"
)

// Reason is one thing a rule or a gate says against (or, for a warning, about) an artifact.
type Reason struct {
	Rule    string `json:"rule"`              // the rule's or gate's name: no-root-user, after, signed
	Policy  string `json:"policy,omitempty"`  // the policy's name, or the pipeline's
	Message string `json:"message"`           // what was found and what to do, one sentence or two
	Warning bool   `json:"warning,omitempty"` // does not deny
	// Promotion says of a warning that it denies a promotion: no push can have yet what it asks for.
	Promotion bool     `json:"promotion,omitempty"`
	Platform  string   `json:"platform,omitempty"` // of an index's image
	Evidence  []string `json:"evidence,omitempty"` // paths, packages, layers
}

// String is the reason on one line.
func (r Reason) String() string { return r.Rule + ": " + r.Message }

// Bounds of a reason's texts, in bytes.
const (
	maxMessage  = 1000
	maxEvidence = 20 // texts
)

// Bounded returns the reason as it may be stored and shown: its texts come from images, and are shortened, and rid of
// control characters, which terminals obey and PostgreSQL refuses.
func (r Reason) Bounded() Reason {
	r.Message, r.Platform = printable(r.Message), printable(r.Platform)
	evidence := r.Evidence[:min(len(r.Evidence), maxEvidence)]
	r.Evidence = nil
	for _, e := range evidence {
		r.Evidence = append(r.Evidence, printable(e))
	}
	return r
}

func printable(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage] + "…"
	}
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, c) {
			return '?'
		}
		return c
	}, s)
}

// VerdictRecord is a verdict as it is stored and shown. It cannot make a pass: only an evaluation can
// (policy.Verdict).
type VerdictRecord struct {
	Repository Repository `json:"repository"`
	Digest     Digest     `json:"digest"`
	Outcome    Outcome    `json:"outcome"`
	Reasons    []Reason   `json:"reasons"`
	PolicyHash Digest     `json:"policyHash"` // of the policies that matched, in their canonical form
	Policies   []string   `json:"policies"`   // name@version
}

// Denials returns the reasons that are not warnings.
func (v VerdictRecord) Denials() []Reason { return v.pick(false) }

// Warnings returns the reasons that do not deny.
func (v VerdictRecord) Warnings() []Reason { return v.pick(true) }

// Waiting returns the warnings that deny a promotion.
func (v VerdictRecord) Waiting() []Reason {
	var picked []Reason
	for _, r := range v.Reasons {
		if r.Promotion {
			picked = append(picked, r)
		}
	}
	return picked
}

func (v VerdictRecord) pick(warning bool) []Reason {
	var picked []Reason
	for _, r := range v.Reasons {
		if r.Warning == warning {
			picked = append(picked, r)
		}
	}
	return picked
}
