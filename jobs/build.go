package jobs

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// queueBuild is apart, so that builds hold up nothing else, and bounds how many run at once on a replica.
const queueBuild = "build"

// buildArgs asks for a queued build.
type buildArgs struct {
	ID string `json:"id"`
}

func (buildArgs) Kind() string { return "build" }

// InsertOpts: the run itself knows whether it is to be tried again.
func (buildArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueBuild, MaxAttempts: 1}
}

// Builder builds what was queued, on whichever replica has room.
type Builder struct {
	river.WorkerDefaults[buildArgs]

	// Build builds a run, unless somebody else does.
	Build func(ctx context.Context, id string) error
	// Tidy takes up what killed processes left; alone says that no other process builds.
	Tidy func(ctx context.Context, alone bool) error
	// Limit is longer than the longest build.
	Limit time.Duration
	// Most is how many are built at once here.
	Most int
}

// Timeout is longer than the build's own.
func (b *Builder) Timeout(*river.Job[buildArgs]) time.Duration { return b.Limit }

// Work builds one.
func (b *Builder) Work(ctx context.Context, job *river.Job[buildArgs]) error {
	return b.Build(ctx, job.Args.ID)
}

// tidyArgs asks for a look at builds whose process ended.
type tidyArgs struct{}

func (tidyArgs) Kind() string                 { return "tidy-builds" }
func (tidyArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{MaxAttempts: 1} }

type tidier struct {
	river.WorkerDefaults[tidyArgs]

	tidy func(ctx context.Context, alone bool) error
}

// Work looks once.
func (t *tidier) Work(ctx context.Context, _ *river.Job[tidyArgs]) error { return t.tidy(ctx, false) }

// Build inserts, in the transaction that queues a build, the job that builds it.
func (c *Client) Build(ctx context.Context, tx pgx.Tx, id string) error {
	_, err := c.river.InsertTx(ctx, tx, buildArgs{id}, nil)
	return err
}
