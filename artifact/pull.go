package artifact

import "time"

// PullDay is how often a principal pulled a digest on one day of UTC.
type PullDay struct {
	Day        time.Time  `json:"day"` // midnight, UTC
	Repository Repository `json:"repository"`
	Digest     Digest     `json:"digest"`
	Principal  string     `json:"principal"` // as the ledger names actors: token:NAME/ID, or anonymous
	Pulls      int64      `json:"pulls"`
	First      time.Time  `json:"first"`
	Last       time.Time  `json:"last"`
	Type       PulledType `json:"type,omitempty"` // none of what was removed
}

// PulledType is what a digest that was pulled is.
type PulledType string

// The types. What is attached speaks for another manifest: a signature, an attestation, an SBOM.
const (
	PulledImage    PulledType = "image"
	PulledIndex    PulledType = "index"
	PulledAttached PulledType = "attached"
	PulledArtifact PulledType = "artifact"
)

// PullFilter asks for pulls. What is zero is not asked for, but for Limit, From and To: days, both included. After is the
// last row of the page before.
type PullFilter struct {
	Repository Repository
	Digest     Digest // with Repository only
	Principal  string
	From, To   time.Time
	After      PullDay
	Newest     bool // first; else the oldest
	Limit      int
}
