package artifact

import (
	"crypto/sha256"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"
)

// Waiver is a recorded exception to one rule, for a while: what the rule finds is told, and does not deny.
type Waiver struct {
	ID           int64     `json:"id"`
	Rule         string    `json:"rule"`                   // as reasons name it
	Finding      string    `json:"finding,omitempty"`      // of the rule, such as CVE-2024-24790; empty: all that it finds
	Digest       Digest    `json:"digest,omitzero"`        // zero: whatever is in Repositories
	Repositories []string  `json:"repositories,omitempty"` // patterns of where it holds; none means everywhere, of a digest
	Reason       string    `json:"reason"`
	CreatedBy    string    `json:"createdBy"` // who answers for it
	CreatedAt    time.Time `json:"createdAt"`
	ExpiresAt    time.Time `json:"expiresAt"`
	RevokedBy    string    `json:"revokedBy,omitempty"`
	RevokedAt    time.Time `json:"revokedAt,omitzero"`
}

// InForce reports whether the waiver holds at an instant. At the one at which it expires it does not.
func (w Waiver) InForce(now time.Time) bool { return w.RevokedAt.IsZero() && now.Before(w.ExpiresAt) }

// Covers reports whether the waiver is for a finding of a rule in a digest of a repository.
func (w Waiver) Covers(r Repository, d Digest, rule, finding string) bool {
	return w.Rule == rule && (w.Finding == "" || w.Finding == finding) && (w.Digest.IsZero() || w.Digest == d) && w.In(r)
}

// In reports whether the waiver may hold in a repository.
func (w Waiver) In(r Repository) bool {
	return len(w.Repositories) == 0 && !w.Digest.IsZero() ||
		slices.ContainsFunc(w.Repositories, func(pattern string) bool { return MatchGlob(pattern, r.String()) })
}

// Subject is what the waiver exempts from, RULE or RULE:FINDING.
func (w Waiver) Subject() string {
	if w.Finding == "" {
		return w.Rule
	}
	return w.Rule + ":" + w.Finding
}

// Hash identifies all that was decided when the waiver was made: the ledger keeps it.
func (w Waiver) Hash() Digest {
	w.RevokedBy, w.RevokedAt = "", time.Time{}
	w.CreatedAt, w.ExpiresAt = w.CreatedAt.UTC(), w.ExpiresAt.UTC()
	canonical, err := json.Marshal(w)
	if err != nil { // a time outside of the years that JSON has
		return Digest{}
	}
	sum := sha256.New()
	sum.Write(canonical)
	return DigestFrom("sha256", sum)
}

// GlobCovers reports whether one pattern matches every name that another does. It says no where it is not sure.
func GlobCovers(pattern, narrower string) bool {
	return coversParts(strings.Split(pattern, "/"), strings.Split(narrower, "/"))
}

func coversParts(pattern, narrower []string) bool {
	if len(pattern) == 0 {
		return len(narrower) == 0
	}
	if pattern[0] == "**" {
		for len(pattern) > 1 && pattern[1] == "**" {
			pattern = pattern[1:]
		}
		for i := 0; i <= len(narrower); i++ {
			if coversParts(pattern[1:], narrower[i:]) {
				return true
			}
		}
		return false
	}
	return len(narrower) > 0 && coversPart(pattern[0], narrower[0]) && coversParts(pattern[1:], narrower[1:])
}

func coversPart(pattern, narrower string) bool {
	switch {
	case narrower == "**":
		return false
	case pattern == "*", pattern == narrower:
		return true
	case strings.ContainsAny(narrower, `*?[\`):
		return false
	}
	ok, err := path.Match(pattern, narrower)
	return ok && err == nil
}

// CanAll reports whether p may do an action in every repository that a pattern matches.
func (p Principal) CanAll(a Action, pattern string) bool {
	return p.CanEverywhere(a) || slices.ContainsFunc(p.Patterns(a), func(own string) bool { return GlobCovers(own, pattern) })
}

// Response is what happens to a promoted digest that the policies of now deny.
type Response string

// The responses, from mildest to strictest. A promotion is judged afresh under each.
const (
	RespondAlert  Response = "alert"           // it is told
	RespondBlock  Response = "block-promotion" // and it is said to go no further
	RespondRecall Response = "recall"          // it is taken out of every environment
)

// Responses in ascending order.
var Responses = []Response{RespondAlert, RespondBlock, RespondRecall}

// TurnedBad says that a digest was promoted, and that the policies of now deny it.
type TurnedBad struct {
	Repository   Repository    `json:"repository"`
	Digest       Digest        `json:"digest"`
	Response     Response      `json:"response"`
	Reasons      []Reason      `json:"reasons"`
	PolicyHash   Digest        `json:"policyHash"`
	Environments []Environment `json:"environments,omitempty"` // where it could be pulled then
	LedgerIndex  int64         `json:"ledgerIndex"`
	Since        time.Time     `json:"since"`
}
