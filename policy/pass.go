package policy

import (
	"fmt"
	"time"

	"waybill/artifact"
)

// Verdict is what an evaluation in this process came to. The zero Verdict, and one read back from a database, never
// passes: sealed is set here and nowhere else.
type Verdict struct {
	artifact.VerdictRecord
	Scan      *artifact.Scan // of an image that was scanned for this verdict, and whose scan is not stored yet
	sealed    bool
	waiting   bool                         // for what a promotion asks for
	withheld  bool                         // from being signed, by what it waits for
	responses map[string]artifact.Response // of each policy that matched, by name
	versions  int                          // of all policies in force; see Pass.Versions
}

// seal decides the outcome from the reasons.
func (v Verdict) seal() Verdict {
	v.Outcome = artifact.Allow
	if len(v.Denials()) > 0 {
		v.Outcome = artifact.Deny
	}
	v.waiting = v.waiting || len(v.Waiting()) > 0
	for _, r := range v.Reasons {
		v.withheld = v.withheld || r.Signature
		v.restOn(r)
	}
	v.sealed = true
	return v
}

// Pass is the permission to sign exactly one digest of one repository, or to promote it too, under exactly the policies
// that allowed it. Only Verdict.Pass and Verdict.Promotion make valid ones.
type Pass struct {
	repository artifact.Repository
	digest     artifact.Digest
	policyHash artifact.Digest
	policies   []string
	signs      bool
	promotes   bool
	waivers    []int64
	until      time.Time // zero: as long as the policies
	versions   int
}

// Pass returns the permission that an allowing verdict gives; any other outcome is a Denied error with every reason.
func (v Verdict) Pass() (Pass, error) {
	if !v.sealed || v.Outcome != artifact.Allow || v.Digest.IsZero() || v.Repository.IsZero() || len(v.Denials()) > 0 {
		return Pass{}, &artifact.Error{Kind: artifact.Denied, Code: "DENIED",
			Message: fmt.Sprintf("policy does not allow %s@%s: %s", v.Repository, v.Digest, v.outcome()), Reasons: v.Denials()}
	}
	return Pass{repository: v.Repository, digest: v.Digest, policyHash: v.PolicyHash, policies: v.Policies, signs: !v.withheld, waivers: v.Waivers, until: v.Until, versions: v.versions}, nil
}

// Promotion returns the pass for a promotion, which asks for what no push can have yet besides: provenance, an SBOM. A
// Denied error has every reason.
func (v Verdict) Promotion() (Pass, error) {
	if v.sealed && v.waiting {
		return Pass{}, &artifact.Error{Kind: artifact.Denied, Code: "DENIED", Message: fmt.Sprintf("policy does not allow %s@%s to be promoted", v.Repository, v.Digest),
			Reasons: append(v.Denials(), v.Waiting()...)}
	}
	p, err := v.Pass()
	p.promotes = err == nil
	return p, err
}

func (v Verdict) outcome() string {
	if v.Outcome == "" {
		return "not judged"
	}
	return string(v.Outcome)
}

// Valid reports whether an allowing verdict made p.
func (p Pass) Valid() bool { return !p.digest.IsZero() }

// Signs reports whether p is for the signature of the image itself. One of an image that waits for somebody else's
// signature is for statements about it only.
func (p Pass) Signs() bool { return p.Valid() && p.signs }

// Promotes reports whether p is for a promotion too.
func (p Pass) Promotes() bool { return p.Valid() && p.promotes }

// Repository is where the digest may be signed or promoted.
func (p Pass) Repository() artifact.Repository { return p.repository }

// Digest is what may be signed or promoted.
func (p Pass) Digest() artifact.Digest { return p.digest }

// PolicyHash identifies the policies that allowed it.
func (p Pass) PolicyHash() artifact.Digest { return p.policyHash }

// Policies names them, name@version.
func (p Pass) Policies() []string { return p.policies }

// Waivers are those that it rests on.
func (p Pass) Waivers() []int64 { return p.waivers }

// Versions is how many versions of policies there had been, of all names, when it was allowed.
func (p Pass) Versions() int { return p.versions }

// Holds reports whether none of them has expired at an instant.
func (p Pass) Holds(now time.Time) bool { return p.until.IsZero() || now.Before(p.until) }
