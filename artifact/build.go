package artifact

import "time"

// BuildState is how far a build is.
type BuildState string

// The states of a build.
const (
	BuildQueued    BuildState = "queued"
	BuildRunning   BuildState = "running"
	BuildDone      BuildState = "done"
	BuildFailed    BuildState = "failed"
	BuildCancelled BuildState = "cancelled"
)

// BuildStates in the order in which a build goes through them.
var BuildStates = []BuildState{BuildQueued, BuildRunning, BuildDone, BuildFailed, BuildCancelled}

// Ended reports whether nothing more comes of it.
func (s BuildState) Ended() bool { return s != BuildQueued && s != BuildRunning }

// Build is a request for a build, and what it came to.
type Build struct {
	ID         string     `json:"id"`
	Repository Repository `json:"repository"`
	Tags       []Tag      `json:"tags,omitempty"`
	Key        Digest     `json:"key"`              // of the inputs
	Source     string     `json:"source,omitempty"` // where the context is from, as the request says: a repository, and its commit behind @
	State      BuildState `json:"state"`
	AskedBy    string     `json:"askedBy"`
	AskedAt    time.Time  `json:"askedAt"`
	StartedAt  time.Time  `json:"startedAt,omitzero"`
	EndedAt    time.Time  `json:"endedAt,omitzero"`
	Attempts   int        `json:"attempts,omitempty"` // how often it was begun
	Digest     Digest     `json:"digest,omitzero"`    // once it is done
	New        bool       `json:"new,omitempty"`      // false: the same inputs were built before
	Failure    string     `json:"failure,omitempty"`

	CancelledBy string `json:"cancelledBy,omitempty"`
}

// BuildFilter asks for builds, newest first. What is zero is not asked for, but for Limit. After is the last of the page before.
type BuildFilter struct {
	Repository Repository
	State      BuildState
	After      Build // ID and AskedAt
	Limit      int
}

// BuiltOn says that an image was built on another, and what is wrong with that one by now.
type BuiltOn struct {
	Repository     Repository `json:"repository"`
	Digest         Digest     `json:"digest"`
	BaseRepository Repository `json:"baseRepository"`
	BaseDigest     Digest     `json:"baseDigest"`
	BaseTag        string     `json:"baseTag,omitempty"` // as the Dockerfile had it
	At             time.Time  `json:"at"`
	Recalled       bool       `json:"recalled,omitempty"`  // the base was
	Denied         bool       `json:"denied,omitempty"`    // by the policies of now
	Gone           bool       `json:"gone,omitempty"`      // the base was deleted
	ReplacedBy     Digest     `json:"replacedBy,omitzero"` // what the base's tag stands at now, where that is another
}

// Stale reports whether there is a reason to build anew.
func (b BuiltOn) Stale() bool { return b.Recalled || b.Denied || b.Gone || !b.ReplacedBy.IsZero() }
