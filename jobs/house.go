package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river"
)

// houseArgs asks for one round of the regular work.
type houseArgs struct{}

func (houseArgs) Kind() string                 { return "house" }
func (houseArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{MaxAttempts: 1} }

// uploadAge is how long an upload that nobody continues is kept.
const uploadAge = 24 * time.Hour

// Housekeeper signs a checkpoint of what the ledger has gained, and drops uploads that were given up.
type Housekeeper struct {
	river.WorkerDefaults[houseArgs]

	Checkpoint     func(ctx context.Context) error
	CollectUploads func(ctx context.Context, olderThan time.Duration) error
}

// Work does one round.
func (h *Housekeeper) Work(ctx context.Context, _ *river.Job[houseArgs]) error {
	return errors.Join(h.Checkpoint(ctx), h.CollectUploads(ctx, uploadAge))
}
