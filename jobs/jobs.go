// Package jobs does what follows a push or a promotion, outside the request: inspect layers, scan, sign, attach, copy. Each worker loads,
// calls one function, and stores; River retries it until it has, on whichever replica.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"waybill/artifact"
)

// Config names everything the workers need.
type Config struct {
	Pool        *pgxpool.Pool
	Scanner     *Scanner
	Rescanner   *Rescanner
	Signer      *Signer
	Resigner    *Resigner
	Attester    *Attester
	Backfiller  *Backfiller
	Rejudger    *Rejudger
	Replicator  *Replicator
	Housekeeper *Housekeeper
	Advisories  *AdvisoryPuller // nil: nothing is pulled
	Witnesser   *Witnesser      // nil: nobody is asked
	Collector   *Collector
	Keeper      *Keeper
	Deliverer   *Deliverer
	Builder     *Builder
	// Alone says that no other replica works on this database: then what is marked as running at the start was left by
	// a process that was killed. With others, it is taken up when jobTimeout has passed.
	Alone  bool
	Logger *slog.Logger
}

// Client inserts jobs and works on them.
type Client struct {
	river *river.Client[pgx.Tx]
	lost  *lost
	tidy  func(ctx context.Context, alone bool) error // nil with other replicas
}

// jobTimeout is longer than any one scan; a rescan of everything goes on from where the next run finds it.
const jobTimeout = 15 * time.Minute

// lockRiver is the advisory lock under which River's own tables are migrated; rivermigrate takes none itself.
const lockRiver = 0x7761795f72697665

// New migrates River's tables and makes a client that is not started yet.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if err := migrate(ctx, cfg.Pool); err != nil {
		return nil, fmt.Errorf("migrate job tables: %w", err)
	}
	if cfg.Alone {
		if _, err := cfg.Pool.Exec(ctx, `update river_job set state = 'available', scheduled_at = now() where state = 'running'`); err != nil {
			return nil, fmt.Errorf("take up jobs that were killed: %w", err)
		}
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, cfg.Scanner)
	river.AddWorker(workers, cfg.Rescanner)
	river.AddWorker(workers, cfg.Signer)
	river.AddWorker(workers, cfg.Resigner)
	river.AddWorker(workers, cfg.Attester)
	river.AddWorker(workers, &scanAttester{attester: cfg.Attester})
	river.AddWorker(workers, &prover{attester: cfg.Attester})
	river.AddWorker(workers, cfg.Backfiller)
	river.AddWorker(workers, cfg.Rejudger)
	river.AddWorker(workers, &expirer{store: cfg.Rejudger.Store})
	river.AddWorker(workers, &attacher{rejudger: cfg.Rejudger})
	river.AddWorker(workers, cfg.Replicator)
	river.AddWorker(workers, cfg.Housekeeper)
	river.AddWorker(workers, cfg.Collector)
	river.AddWorker(workers, cfg.Keeper)
	river.AddWorker(workers, cfg.Deliverer)
	river.AddWorker(workers, cfg.Builder)
	river.AddWorker(workers, &tidier{tidy: cfg.Builder.Tidy})
	periodic := []*river.PeriodicJob{
		river.NewPeriodicJob(river.PeriodicInterval(10*time.Second),
			func() (river.JobArgs, *river.InsertOpts) { return houseArgs{}, nil }, &river.PeriodicJobOpts{RunOnStart: true}),
		river.NewPeriodicJob(river.PeriodicInterval(askCollect),
			func() (river.JobArgs, *river.InsertOpts) { return collectArgs{}, nil }, nil),
		river.NewPeriodicJob(river.PeriodicInterval(askKeep),
			func() (river.JobArgs, *river.InsertOpts) { return keepArgs{}, nil }, nil),
		river.NewPeriodicJob(river.PeriodicInterval(10*time.Second),
			func() (river.JobArgs, *river.InsertOpts) { return tidyArgs{}, nil }, nil),
		backfills(),
	}
	if cfg.Advisories != nil {
		river.AddWorker(workers, cfg.Advisories)
		periodic = append(periodic, cfg.Advisories.periodic())
	}
	if cfg.Witnesser != nil {
		river.AddWorker(workers, cfg.Witnesser)
		periodic = append(periodic, cfg.Witnesser.periodic())
	}
	lost := &lost{pool: cfg.Pool, logger: cfg.Logger, running: map[int64]bool{}}
	client, err := river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Workers:              workers,
		Queues:               map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 4}, queueScan: {MaxWorkers: 2}, queueReplication: {MaxWorkers: 2}, queueWebhook: {MaxWorkers: 4}, queueBuild: {MaxWorkers: cfg.Builder.Most}},
		Logger:               slog.New(quiet{cfg.Logger.Handler()}),
		PeriodicJobs:         periodic,
		Middleware:           []rivertype.Middleware{lost},
		FetchPollInterval:    500 * time.Millisecond,
		JobTimeout:           jobTimeout,
		RescueStuckJobsAfter: jobTimeout + time.Minute,
		RetryPolicy:          retryPolicy{},
	})
	if err != nil {
		return nil, err
	}
	c := &Client{river: client, lost: lost}
	if cfg.Alone {
		c.tidy = cfg.Builder.Tidy
	}
	return c, nil
}

// retryPolicy tries soon, since what fails here fails mostly for a dependency that is away, and at most a minute apart.
type retryPolicy struct{}

func (retryPolicy) NextRetry(job *rivertype.JobRow) time.Time {
	wait := time.Second << min(job.Attempt, 6)
	return time.Now().Add(min(wait, time.Minute))
}

// quiet drops what River says about its own routine.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

// Handle drops what only says that the server stops.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	stopping := false
	r.Attrs(func(a slog.Attr) bool {
		err, _ := a.Value.Any().(error)
		text := a.Value.String()
		stopping = stopping || errors.Is(err, context.Canceled) || strings.Contains(text, context.Canceled.Error())
		return !stopping
	})
	if stopping {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", int64(lockRiver)); err != nil {
		return err
	}
	defer func() {
		_, _ = conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", int64(lockRiver))
	}()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// Start begins to work.
func (c *Client) Start(ctx context.Context) error {
	if c.tidy != nil {
		if err := c.tidy(ctx, true); err != nil {
			return err
		}
	}
	if err := c.river.Start(ctx); err != nil {
		return err
	}
	go c.lost.watch(ctx, c.river.ID())
	return nil
}

// Stop lets running jobs end until ctx is done, then cancels them; River gives those to the next start.
func (c *Client) Stop(ctx context.Context) error {
	if err := c.river.Stop(ctx); err == nil {
		return nil
	}
	cancelled, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return c.river.StopAndCancel(cancelled)
}

// Accepted inserts, in the push's own transaction, what an accepted image or index sets off: a signature, and another
// scan if the one of the push failed.
func (c *Client) Accepted(ctx context.Context, tx pgx.Tx, e artifact.Event) error {
	all := []river.InsertManyParams{{Args: signArgs{e.Repository, e.Digest}}}
	if e.ScanFailed {
		all = append(all, river.InsertManyParams{Args: scanArgs{e.Repository, e.Digest}})
	}
	_, err := c.river.InsertManyTx(ctx, tx, all)
	return err
}

// RescanAll has every image matched with the advisory database anew.
func (c *Client) RescanAll(ctx context.Context) error {
	_, err := c.river.Insert(ctx, rescanArgs{}, nil)
	return err
}
