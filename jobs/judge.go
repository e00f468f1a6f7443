package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
)

// rejudgeArgs asks for every image and index to be judged again: the policies or the waivers are others.
type rejudgeArgs struct{}

func (rejudgeArgs) Kind() string                 { return "rejudge" }
func (rejudgeArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// VerdictStore is what judging again reads and writes; *postgres.DB is one.
type VerdictStore interface {
	// NextToJudge returns the images and indexes that a job is to judge next, at most n, and none when no verdict is out
	// of date. It is a Conflict while another job is at it.
	NextToJudge(ctx context.Context, job int64, n int) ([]artifact.StoredManifest, error)
	// Judged records that a job judged up to a manifest; whoever goes on, begins after it.
	Judged(ctx context.Context, job int64, last artifact.Reference) error
	// SaveJudged makes verdicts the newest of what is stored, acts on what turned bad, and returns that.
	SaveJudged(ctx context.Context, all []policy.Verdict) ([]artifact.TurnedBad, error)
	// ImagesWith returns an image in every repository that has it, and the indexes that lead to it.
	ImagesWith(ctx context.Context, image artifact.Digest) ([]artifact.StoredManifest, error)
	// Related returns an image or index of a repository with what holds it and what it holds, at most n.
	Related(ctx context.Context, ref artifact.Reference, n int) ([]artifact.StoredManifest, error)
	// ExpireWaiver records that a waiver has expired; false while it has not.
	ExpireWaiver(ctx context.Context, id int64) (bool, error)
}

// Rejudger brings stored verdicts up to what is in force, from stored facts: no layer is read. Where that denies what is
// promoted it does what the policies ask for. It allows nothing: whoever signs or promotes asks the judge itself.
type Rejudger struct {
	river.WorkerDefaults[rejudgeArgs]

	Store VerdictStore
	// Judge is one of many (policy.Judge.Many).
	Judge interface {
		JudgeManifests(ctx context.Context, all []artifact.StoredManifest) ([]policy.Verdict, []error)
		Forget()
	}
	// Sign is told of what may be signed, and has signed what is not: it may have waited for somebody else's signature. Nil
	// signs nothing.
	Sign   func(ctx context.Context, all []artifact.Reference) error
	Busy   func() bool // as Scanner's
	Logger *slog.Logger
}

const (
	judgePage  = 100             // manifests that are judged and saved together
	judgeAgain = 2 * time.Second // after another job was found at it

	strictAttempts = 4 // at a job, before one manifest that cannot be judged does not hold up the rest
)

// Work judges what is out of date, in pages, from where the last job that was cut short ended. Of many that ask, one does
// it all.
func (r *Rejudger) Work(ctx context.Context, job *river.Job[rejudgeArgs]) error {
	total, refused, began := 0, 0, time.Now()
	defer r.Judge.Forget()
	for {
		page, err := r.Store.NextToJudge(ctx, job.ID, judgePage)
		if artifact.KindOf(err) == artifact.Conflict {
			return river.JobSnooze(judgeAgain)
		}
		if err != nil {
			return err
		}
		if len(page) == 0 {
			if total > 0 {
				r.Logger.InfoContext(ctx, "judged again under the policies in force", "manifests", total, "not allowed", refused, "seconds", time.Since(began).Seconds())
			}
			return nil
		}
		if err := giveWay(ctx, r.Busy, time.Now()); err != nil {
			return err
		}
		denied, err := r.judge(ctx, page, job.Attempt > strictAttempts)
		if err != nil {
			return err
		}
		total, refused = total+len(page), refused+denied
		last := page[len(page)-1]
		if err := r.Store.Judged(ctx, job.ID, artifact.Reference{Repository: last.Repository, Digest: last.Digest}); err != nil {
			return err
		}
	}
}

// Rescanned judges an image again wherever it is, and the indexes that hold it: another scan of it was saved.
func (r *Rejudger) Rescanned(ctx context.Context, image artifact.Digest) error {
	all, err := r.Store.ImagesWith(ctx, image)
	if err != nil {
		return err
	}
	for len(all) > 0 {
		n := min(len(all), judgePage)
		if _, err := r.judge(ctx, all[:n], false); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// judge judges manifests and saves the verdicts. What was deleted meanwhile, or has a layer without facts, keeps the one
// that it has; so does, when skip is said, what cannot be judged for another reason.
func (r *Rejudger) judge(ctx context.Context, all []artifact.StoredManifest, skip bool) (refused int, err error) {
	verdicts, errs := r.Judge.JudgeManifests(ctx, all)
	var (
		known []policy.Verdict
		sound []artifact.Reference
	)
	for i, v := range verdicts {
		switch {
		case artifact.KindOf(errs[i]) == artifact.NotFound:
			r.Logger.DebugContext(ctx, "not judged again", "repository", all[i].Repository, "digest", all[i].Digest, "error", errs[i])
		case errs[i] != nil && skip && ctx.Err() == nil:
			r.Logger.ErrorContext(ctx, "cannot be judged again; it keeps its verdict", "repository", all[i].Repository, "digest", all[i].Digest, "error", errs[i])
		case errs[i] != nil:
			return refused, errs[i]
		default:
			known = append(known, v)
			if v.Outcome != artifact.Allow {
				refused++
			}
			if pass, err := v.Pass(); err == nil && pass.Signs() {
				sound = append(sound, artifact.Reference{Repository: v.Repository, Digest: v.Digest})
			}
		}
	}
	turned, err := r.Store.SaveJudged(ctx, known)
	for _, t := range turned {
		r.Logger.WarnContext(ctx, "what is promoted is denied by the policies of now", "repository", t.Repository, "digest", t.Digest, "environments", t.Environments,
			"response", t.Response, "reasons", t.Reasons, "entry", t.LedgerIndex)
	}
	if err == nil && r.Sign != nil && len(sound) > 0 {
		err = r.Sign(ctx, sound)
	}
	return refused, err
}

// Applied inserts, in the transaction that changes what verdicts rest on, the job that brings them up to it.
func (c *Client) Applied(ctx context.Context, tx pgx.Tx) error {
	_, err := c.river.InsertTx(ctx, tx, rejudgeArgs{}, nil)
	return err
}

// expireArgs asks for a waiver's end to be recorded, and for what rested on it to be judged again.
type expireArgs struct {
	Waiver int64 `json:"waiver"`
}

func (expireArgs) Kind() string { return "expire" }

// expirer wakes when a waiver expires. That it does not hold any more is known without it.
type expirer struct {
	river.WorkerDefaults[expireArgs]
	store VerdictStore
}

func (e *expirer) Work(ctx context.Context, job *river.Job[expireArgs]) error {
	done, err := e.store.ExpireWaiver(ctx, job.Args.Waiver)
	if err == nil && !done {
		return river.JobSnooze(time.Second)
	}
	return err
}

// Waived inserts, in the transaction that creates a waiver, what is to be done when it expires.
func (c *Client) Waived(ctx context.Context, tx pgx.Tx, w artifact.Waiver) error {
	_, err := c.river.InsertTx(ctx, tx, expireArgs{w.ID}, &river.InsertOpts{ScheduledAt: w.ExpiresAt})
	return err
}
