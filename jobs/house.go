package jobs

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"waybill/artifact"
)

// houseArgs asks for one round of the regular work.
type houseArgs struct{}

func (houseArgs) Kind() string                 { return "house" }
func (houseArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{MaxAttempts: 1} }

// Housekeeper signs a checkpoint of what the ledger has gained.
type Housekeeper struct {
	river.WorkerDefaults[houseArgs]

	Checkpoint func(ctx context.Context) error
}

// Work does one round.
func (h *Housekeeper) Work(ctx context.Context, _ *river.Job[houseArgs]) error {
	return h.Checkpoint(ctx)
}

// collectArgs asks for a garbage collection.
type collectArgs struct{}

func (collectArgs) Kind() string { return "collect" }

// InsertOpts: of all that ask, one in each hour is heard. One that failed does not count.
func (collectArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByPeriod: time.Hour}}
}

// askCollect is how often a collection is asked for, so that restarts more often than hourly do not put it off for ever.
const askCollect = 10 * time.Minute

// Collector collects garbage, as much as it can in jobTimeout; the next goes on with the rest.
type Collector struct {
	river.WorkerDefaults[collectArgs]

	Collect func(ctx context.Context) error
}

// Work does one collection, unless somebody else is at it.
func (c *Collector) Work(ctx context.Context, _ *river.Job[collectArgs]) error {
	if err := c.Collect(ctx); artifact.KindOf(err) != artifact.Conflict {
		return err
	}
	return nil
}
