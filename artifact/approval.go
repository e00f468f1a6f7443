package artifact

import "time"

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
