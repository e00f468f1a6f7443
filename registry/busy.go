package registry

import (
	"context"
	"sync/atomic"
	"time"

	"waybill/artifact"
)

// busyFor is how long after a request of a push another is expected.
const busyFor = 100 * time.Millisecond

// Busy reports whether somebody pushes at this moment, or many pull: they wait for an answer, and jobs can do without the
// processors for a while.
func (r *Registry) Busy() bool {
	now := time.Now().UnixNano()
	return now-r.pushed.Load() < int64(busyFor) || r.pulls.on(now)
}

// pushing notes that somebody does, unless it is a job.
func (r *Registry) pushing(ctx context.Context) {
	if !artifact.IsDoneAgain(ctx) {
		r.pushed.Store(time.Now().UnixNano())
	}
}

// rush notices when blobs are pulled many at a time: one client that pulls now and then is none.
type rush struct {
	began, last atomic.Int64 // Unix nanoseconds: of the span that is counted; of the last pull of a rush
	n           atomic.Int64 // pulls in the span
}

const (
	rushSpan  = int64(busyFor)
	rushPulls = 8 // in a span
)

// pull counts one. Two that begin a span at once may lose a count: that is no matter.
func (r *rush) pull(now int64) {
	if now-r.began.Load() >= rushSpan {
		r.began.Store(now)
		r.n.Store(0)
	}
	if r.n.Add(1) >= rushPulls {
		r.last.Store(now)
	}
}

func (r *rush) on(now int64) bool { return now-r.last.Load() < rushSpan }
