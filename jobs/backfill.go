package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"waybill/artifact"
	"waybill/signer"
)

// backfillArgs asks for what was allowed and never attested to be: it was pushed to an older release, or its jobs were lost.
type backfillArgs struct{}

func (backfillArgs) Kind() string { return "backfill" }

// InsertOpts: there is one at a time, and who asks meanwhile gets that one.
func (backfillArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueScan, Priority: 4, MaxAttempts: 10, UniqueOpts: river.UniqueOpts{ByState: []rivertype.JobState{rivertype.JobStateAvailable,
		rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled}}}
}

const (
	askBackfill   = 24 * time.Hour   // and at each start
	backfillAge   = 10 * time.Minute // of a push or a promotion: until then it has a job of its own
	backfillPage  = 200              // digests that are looked at together
	backfillTurn  = 30 * time.Second // then others of its queue have theirs, and its place is written
	backfillPause = time.Second
)

// BackfillStore is what a Backfiller asks; *postgres.DB is one.
type BackfillStore interface {
	// Unattested looks at images and indexes after one, in order, at most n, and at none younger than age. It returns those of
	// which something is not signed, and the last that it looked at; zero, when there are no more.
	Unattested(ctx context.Context, types artifact.PredicateTypes, after artifact.Reference, age time.Duration, n int) (all []artifact.Unattested, last artifact.Reference, err error)
}

// Backfiller signs and attests, by the policies of now, what is stored without. It goes from one digest to the next, after
// whoever pushes, for a turn at a time; where it is stands in its job's row, so that one that is cut short goes on there.
type Backfiller struct {
	river.WorkerDefaults[backfillArgs]

	Signer   *Signer
	Attester *Attester
	Store    BackfillStore
	Logger   *slog.Logger
}

// backfilled is how far a job is.
type backfilled struct {
	Repository artifact.Repository `json:"repository,omitzero"` // that it looked at last
	Digest     artifact.Digest     `json:"digest,omitzero"`
	Done       int                 `json:"done"`
	Failed     int                 `json:"failed"`
}

// Work does a turn. What fails does not hold up the rest, and is tried again when all was looked at.
func (b *Backfiller) Work(ctx context.Context, job *river.Job[backfillArgs]) error {
	var at backfilled
	if stored := job.Output(); stored != nil {
		if err := json.Unmarshal(stored, &at); err != nil {
			b.Logger.WarnContext(ctx, "attesting what was not begins anew: where it was cannot be read", "error", err)
			at = backfilled{}
		}
	}
	again, err := b.turn(artifact.DoneAgain(ctx), &at, job.CreatedAt)
	if err := river.RecordOutput(ctx, at); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if again {
		return river.JobSnooze(backfillPause)
	}
	return nil
}

// turn goes on from where it is; again says that there is more.
func (b *Backfiller) turn(ctx context.Context, at *backfilled, since time.Time) (again bool, err error) {
	types := artifact.PredicateTypes{SBOM: signer.CycloneDXPredicate, Scan: signer.ScanPredicate, Provenance: signer.ProvenancePredicate, Verification: signer.VerificationPredicate}
	for began := time.Now(); ; {
		page, last, err := b.Store.Unattested(ctx, types, artifact.Reference{Repository: at.Repository, Digest: at.Digest}, backfillAge, backfillPage)
		if err != nil {
			return false, err
		}
		for _, one := range page {
			if err := b.one(ctx, one, since); errors.As(err, new(*river.JobSnoozeError)) || ctx.Err() != nil {
				return false, err // the key or the database is away: all others would fail likewise
			} else if err != nil {
				at.Failed++
				b.Logger.WarnContext(ctx, "not attested; it is tried again", "repository", one.Repository, "digest", one.Digest, "error", err)
			} else {
				at.Done++
			}
			if at.Repository, at.Digest = one.Repository, one.Digest; time.Since(began) > backfillTurn {
				return true, nil
			}
		}
		if at.Repository, at.Digest = last.Repository, last.Digest; last.Digest.IsZero() {
			break
		}
	}
	if at.Done > 0 {
		b.Logger.InfoContext(ctx, "attested what was not", "digests", at.Done, "failed", at.Failed)
	}
	failed := at.Failed
	if *at = (backfilled{}); failed > 0 {
		return false, fmt.Errorf("%d digests are not attested; the log names them", failed)
	}
	return false, nil
}

// one signs what a digest lacks, and then summaries of where it was promoted to.
func (b *Backfiller) one(ctx context.Context, u artifact.Unattested, since time.Time) error {
	if err := giveWay(ctx, b.Signer.Busy, time.Now()); err != nil {
		return err
	}
	if u.Lacks {
		if err := b.Signer.bring(ctx, u.Repository, u.Digest, since, true); err != nil {
			return err
		}
	}
	if len(u.Environments) == 0 {
		return nil
	}
	pass, ok, err := b.Attester.pass(ctx, u.Repository, u.Digest)
	if err != nil || !ok || !pass.Signs() {
		return err
	}
	for _, e := range u.Environments {
		if err := b.Attester.promotion(ctx, pass, e); err != nil {
			return err
		}
	}
	return nil
}

func backfills() *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(askBackfill), func() (river.JobArgs, *river.InsertOpts) { return backfillArgs{}, nil }, &river.PeriodicJobOpts{RunOnStart: true})
}
