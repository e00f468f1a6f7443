package artifact

import "time"

// Promotion is a digest becoming an environment's current one, or ceasing to be: an append-only record.
type Promotion struct {
	ID          int64       `json:"id"`
	Action      string      `json:"action"` // promote, rollback, recall or retire
	Repository  Repository  `json:"repository"`
	Environment Environment `json:"environment"`
	Digest      Digest      `json:"digest"`
	Version     string      `json:"version,omitempty"` // the tag that was asked for, or a tag of the digest at that time
	Previous    Digest      `json:"previous,omitzero"`
	Actor       string      `json:"actor"`
	Reason      string      `json:"reason,omitempty"`
	PolicyHash  Digest      `json:"policyHash,omitzero"`
	LedgerIndex int64       `json:"ledgerIndex"`
	At          time.Time   `json:"at"`
	Overridden  []string    `json:"overridden,omitempty"` // the gates that were not met, of an override
	Release     string      `json:"release,omitempty"`    // that it was promoted with
	Advisory    string      `json:"advisory,omitempty"`   // of a recall: where to read more
}

// Deployment is what an environment's pointer of one repository stands at.
type Deployment struct {
	Repository  Repository  `json:"repository"`
	Environment Environment `json:"environment"`
	Digest      Digest      `json:"digest"`
	Version     string      `json:"version,omitempty"`
	Since       time.Time   `json:"since"`
	Actor       string      `json:"actor"`
	Reason      string      `json:"reason,omitempty"`
}

// Withdrawn is what an environment ran until it was recalled; the environment has run nothing since.
type Withdrawn struct {
	Deployment
	RecalledAt time.Time `json:"recalledAt"`
	RecalledBy string    `json:"recalledBy"`
	Why        string    `json:"recallReason"`
	Advisory   string    `json:"advisory,omitempty"` // where to read more
}

// Status is one cell of the board: what runs there, and what is known of it now.
type Status struct {
	Deployment
	Verdict Outcome          `json:"verdict"`
	Scan    ScanState        `json:"scan"`
	Counts  map[Severity]int `json:"findings,omitempty"`
	Signed  bool             `json:"signed"`
	Bad     *TurnedBad       `json:"turnedBad,omitempty"` // the policies of now deny it
}

// Cell is what a board counts of a Status.
type Cell struct {
	Repository  Repository
	Environment Environment
	Digest      Digest
	Version     string
	Since       time.Time
	Denied      bool // by the policies of now
	Severe      bool // a critical or high vulnerability was found in it
}

// Lead is by how many promotions an environment of a repository is ahead of another.
type Lead struct {
	Repository    Repository
	Ahead, Behind Environment
	By            int
}
