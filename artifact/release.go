package artifact

import "time"

// Release is services that are promoted together, each as one digest. It never changes.
type Release struct {
	Name     string           `json:"name"`
	Actor    string           `json:"actor"`
	Reason   string           `json:"reason,omitempty"`
	At       time.Time        `json:"at"`
	Services []ReleaseService `json:"services"` // by repository
}

// ReleaseService is one service of a release.
type ReleaseService struct {
	Repository Repository `json:"repository"`
	Digest     Digest     `json:"digest"`
	Version    string     `json:"version,omitempty"` // what was asked for, or a tag of the digest at that time
}
