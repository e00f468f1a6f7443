package jobs

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"waybill/artifact"
)

// advisoryArgs asks for the advisory database to be pulled.
type advisoryArgs struct{}

func (advisoryArgs) Kind() string { return "advisories" }

// AdvisoryPuller pulls the advisory database from where it is published.
type AdvisoryPuller struct {
	river.WorkerDefaults[advisoryArgs]

	Pull     func(ctx context.Context) error
	Interval time.Duration // between two that went well
}

// askPull is how often a pull is asked for, so that one that failed is tried again, and a restart puts none off.
const askPull = 10 * time.Minute

// Work pulls once.
func (p *AdvisoryPuller) Work(ctx context.Context, _ *river.Job[advisoryArgs]) error {
	return p.Pull(ctx)
}

// periodic asks: of all that ask, one in each interval is heard. One that failed does not count.
func (p *AdvisoryPuller) periodic() *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(min(askPull, p.Interval)), func() (river.JobArgs, *river.InsertOpts) {
		return advisoryArgs{}, &river.InsertOpts{Queue: queueScan, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByPeriod: p.Interval}}
	}, &river.PeriodicJobOpts{RunOnStart: true})
}

// NextPull is when the advisory database is pulled by itself next, at the latest, after an attempt (the zero one: none was).
func NextPull(last artifact.AdvisoryPull, interval time.Duration, now time.Time) time.Time {
	ask := min(askPull, interval)
	next := last.At.Add(ask)
	if last.Problem == "" && !last.At.IsZero() {
		next = last.At.Truncate(interval).Add(interval + ask) // as River cuts time into periods
	}
	if next.Before(now) {
		return now.Add(ask)
	}
	return next
}
