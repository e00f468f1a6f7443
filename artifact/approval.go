package artifact

import (
	"encoding/json"
	"time"
)

// Approval is somebody's word that a digest may go to an environment. It ends only by being revoked.
type Approval struct {
	ID          int64       `json:"id"`
	Repository  Repository  `json:"repository"`
	Digest      Digest      `json:"digest"`
	Environment Environment `json:"environment"`
	Version     string      `json:"version,omitempty"` // a tag of the digest at that time
	Actor       string      `json:"actor"`
	Role        Role        `json:"role"` // the actor's at that time
	Reason      string      `json:"reason,omitempty"`
	At          time.Time   `json:"at"`
	RevokedBy   string      `json:"revokedBy,omitempty"`
	RevokedAt   time.Time   `json:"revokedAt,omitzero"`
}

// Hash is of all that was given, and not of whether it was revoked since.
func (a Approval) Hash() Digest {
	a.RevokedBy, a.RevokedAt, a.At = "", time.Time{}, a.At.UTC()
	canonical, err := json.Marshal(a)
	if err != nil { // a time outside of the years that JSON has
		return Digest{}
	}
	return DigestOf(canonical)
}
