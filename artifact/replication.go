package artifact

import "time"

// Replication is how far the copy of a promoted digest to another registry is.
type Replication struct {
	Target      string           `json:"target"` // the other registry's name in the configuration
	Repository  Repository       `json:"repository"`
	Digest      Digest           `json:"digest"`
	Environment Environment      `json:"environment"`
	Version     string           `json:"version,omitempty"`
	State       ReplicationState `json:"state"`
	Problem     string           `json:"problem,omitempty"` // why it failed or was dropped, or what the other registry did not take
	Attempts    int              `json:"attempts"`
	Since       time.Time        `json:"since"` // of the state
}

// ReplicationState names what became of a Replication.
type ReplicationState string

// The states of a replication. A failed one is tried again until it is copied or dropped.
const (
	ReplicationWaiting ReplicationState = "waiting"
	ReplicationCopied  ReplicationState = "copied"
	ReplicationFailed  ReplicationState = "failed"
	ReplicationDropped ReplicationState = "dropped" // it was recalled, or nobody wants it there any more
)
