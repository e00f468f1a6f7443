package artifact

import (
	"slices"
	"strings"
	"time"
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
	Rule     string   `json:"rule"`               // the rule's or gate's name: no-root-user, after, signed
	Policy   string   `json:"policy,omitempty"`   // the policy's name, or the pipeline's
	Message  string   `json:"message"`            // what was found and what to do, one sentence or two
	Warning  bool     `json:"warning,omitempty"`  // does not deny
	Finding  string   `json:"finding,omitempty"`  // what it is about, where a rule finds many: CVE-2024-24790
	Platform string   `json:"platform,omitempty"` // of an index's image
	Evidence []string `json:"evidence,omitempty"` // paths, packages, layers

	// Promotion says of a warning that it denies a promotion: no push can have yet what it asks for.
	Promotion bool `json:"promotion,omitempty"`
	// Signature says of such a warning that Waybill does not sign the digest either.
	Signature bool `json:"signature,omitempty"`
	// Tag is what is denied where that is a name only: the digest by another one is not.
	Tag string `json:"tag,omitempty"`

	Waivers     []int64   `json:"waivers,omitempty"`    // that make a denial a warning
	WaivedUntil time.Time `json:"waivedUntil,omitzero"` // and for how long

	// Awaits says of a gate that it will be met without another digest or pipeline, and by what.
	Awaits Awaited   `json:"awaits,omitempty"`
	Until  time.Time `json:"until,omitzero"` // of AwaitsTime: when
}

// Awaited is what will meet a gate.
type Awaited string

// What gates may wait for.
const (
	AwaitsTime   Awaited = "time"   // the clock, alone
	AwaitsPeople Awaited = "people" // somebody who approves, or promotes it elsewhere first
	AwaitsWork   Awaited = "work"   // the server: it signs or scans
)

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
	r.Message, r.Platform, r.Finding = printable(r.Message), printable(r.Platform), printable(r.Finding)
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
	PolicyHash Digest     `json:"policyHash"`        // of the policies that matched, in their canonical form
	Policies   []string   `json:"policies"`          // name@version
	Until      time.Time  `json:"until,omitzero"`    // when the first of the waivers that it rests on ends, and it with it
	Waivers    []int64    `json:"waivers,omitempty"` // those, all of them, also where there are too many reasons to tell
}

// Holds reports whether the verdict still stands at an instant. One that rests on a waiver ends with that.
func (v VerdictRecord) Holds(now time.Time) bool { return v.Until.IsZero() || now.Before(v.Until) }

// At is a stored verdict as it is to be read at an instant: an allowing one that has ended is pending until its digest
// is judged again.
func (v VerdictRecord) At(now time.Time) VerdictRecord {
	if v.Outcome != Allow || v.Holds(now) {
		return v
	}
	v.Outcome = Pending
	v.Reasons = append([]Reason{{Rule: "waiver", Message: "a waiver that it was allowed by has ended; it is being judged again"}}, v.Reasons...)
	return v
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

// DeniesTags reports whether all that is denied are tags: it says nothing about the digest.
func (v VerdictRecord) DeniesTags() bool {
	denials := v.Denials()
	return len(denials) > 0 && !slices.ContainsFunc(denials, func(r Reason) bool { return r.Tag == "" })
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
