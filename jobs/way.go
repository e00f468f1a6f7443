package jobs

import (
	"context"
	"time"
)

// wayFor is how long a job lets pushes and pulls go first, from when it was inserted: they wait for an answer, and who
// promotes afterwards expects a signature within seconds.
const wayFor = 3 * time.Second

// giveWay waits while the registry is busy, but not for ever: under a load that never ends jobs follow at their own pace.
func giveWay(ctx context.Context, busy func() bool, since time.Time) error {
	for until := since.Add(wayFor); busy != nil && busy() && time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
