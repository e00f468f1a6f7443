package jobs

import (
	"context"
	"log/slog"

	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
)

// rejudgeArgs asks for every image and index to be judged again: another policy is in force.
type rejudgeArgs struct{}

func (rejudgeArgs) Kind() string                 { return "rejudge" }
func (rejudgeArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// VerdictStore is what judging again reads and writes; *postgres.DB is one.
type VerdictStore interface {
	// ImagesAfter returns the images and indexes that come after one, in their order, at most n of them.
	ImagesAfter(ctx context.Context, after artifact.Reference, n int) ([]artifact.Reference, error)
	// UpdateVerdict makes v the newest verdict of what is stored.
	UpdateVerdict(ctx context.Context, v artifact.VerdictRecord) error
}

// Rejudger brings stored verdicts up to the policies in force, from stored facts: no layer is read. It decides nothing:
// whoever signs or promotes asks the judge itself.
type Rejudger struct {
	river.WorkerDefaults[rejudgeArgs]

	Store VerdictStore
	Judge interface {
		JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error)
	}
	Logger *slog.Logger
}

// Work judges all, in pages.
func (r *Rejudger) Work(ctx context.Context, _ *river.Job[rejudgeArgs]) error {
	const page = 200
	refused, total := 0, 0
	for after := (artifact.Reference{}); ; {
		all, err := r.Store.ImagesAfter(ctx, after, page)
		if err != nil {
			return err
		}
		for _, ref := range all {
			v, err := r.Judge.JudgeStored(ctx, ref.Repository, ref.Digest)
			if artifact.KindOf(err) == artifact.NotFound {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			if err := r.Store.UpdateVerdict(ctx, v.VerdictRecord); err != nil {
				return err
			}
			if total++; v.Outcome != artifact.Allow {
				refused++
			}
		}
		if len(all) < page {
			r.Logger.InfoContext(ctx, "judged again under the policies in force", "manifests", total, "not allowed", refused)
			return nil
		}
		after = all[len(all)-1]
	}
}
