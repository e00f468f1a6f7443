package jobs

import (
	"context"
	"time"

	"github.com/riverqueue/river"
)

// keepArgs asks for a run of retention.
type keepArgs struct{}

func (keepArgs) Kind() string { return "keep" }

// InsertOpts: of all that ask, one in each day is heard. One that failed does not count.
func (keepArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByPeriod: 24 * time.Hour}}
}

// askKeep is how often retention is asked for, so that restarts more often than daily do not put it off for ever.
const askKeep = time.Hour

// Keeper runs retention, as far as it comes in jobTimeout; the next run goes on. Where no document has retention there
// is nothing to do.
type Keeper struct {
	river.WorkerDefaults[keepArgs]

	Run func(ctx context.Context) error
}

// Work does one run.
func (k *Keeper) Work(ctx context.Context, _ *river.Job[keepArgs]) error { return k.Run(ctx) }
