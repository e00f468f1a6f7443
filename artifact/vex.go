package artifact

import "time"

// Assessment is what a VEX document says of a finding in an image.
type Assessment struct {
	Status        string    `json:"status"`                  // not_affected, affected, fixed or under_investigation
	Justification string    `json:"justification,omitempty"` // why not affected, in OpenVEX's words
	Statement     string    `json:"statement,omitempty"`     // impact, action or notes, for people
	Author        string    `json:"author"`                  // as the document says
	AttachedBy    string    `json:"attachedBy"`              // who pushed it
	SignedBy      string    `json:"signedBy,omitempty"`      // id of the key, where its signature was checked
	Document      Digest    `json:"document"`                // the referrer's manifest
	At            time.Time `json:"at"`                      // of the statement
}

// Resolved reports whether the finding does not count any more. Under investigation, it still does.
func (a *Assessment) Resolved() bool {
	return a != nil && (a.Status == "not_affected" || a.Status == "fixed")
}
