package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/scanner"
)

// rescanArgs asks for every image to be matched again: a new advisory database is in force.
type rescanArgs struct{}

func (rescanArgs) Kind() string                 { return "rescan" }
func (rescanArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// RescanStore is what matching again reads and writes; *postgres.DB is one.
type RescanStore interface {
	ScanStore
	// Outdated returns images after one that were scanned with another database, at most n, in order of their digests.
	Outdated(ctx context.Context, database, after artifact.Digest, n int) ([]artifact.Rematch, error)
	// SaveRematch records what a database says of images: the same as before, or what changed.
	SaveRematch(ctx context.Context, database artifact.AdvisoryDatabase, at time.Time, same []artifact.Digest, changed []artifact.Rematched) error
	// Unscanned returns images after one that have no scan by the database, or have jars that another Java database told,
	// at most n, in order of their digests.
	Unscanned(ctx context.Context, database, java, after artifact.Digest, n int) ([]artifact.Reference, error)
	// JudgeAgain has all verdicts made anew: what they rest on changed.
	JudgeAgain(ctx context.Context) error
}

// rematchBatch is how many images one exchange with the scanner matches, and one transaction records: a push that wants
// the scanner meanwhile waits for at most that, some tenths of a second.
const rematchBatch = 100

// Rescanner matches everything with the database in force: what a scan kept of an image is enough, so that no layer is
// read, and no analysis of one. What is recorded is not done again: a run that is cut short goes on where it was.
type Rescanner struct {
	river.WorkerDefaults[rescanArgs]

	Scanner *Scanner
	Store   RescanStore
	// Attest has it signed what was found.
	Attest func(ctx context.Context) error
}

// Work does all that is still to do.
func (r *Rescanner) Work(ctx context.Context, _ *river.Job[rescanArgs]) error { return r.Run(ctx) }

// Run matches every image that has no answer of the database in force yet.
func (r *Rescanner) Run(ctx context.Context) error {
	database, have, err := r.Store.AdvisoryDatabase(ctx)
	if err != nil || !have {
		return err
	}
	started, total := time.Now(), 0
	var failed error
	for after := (artifact.Digest{}); ; {
		all, err := r.Store.Outdated(ctx, database.Digest, after, rematchBatch)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			break
		}
		if err := r.rematch(ctx, database, all); err != nil {
			failed = errors.Join(failed, err)
		}
		after = all[len(all)-1].Digest
		total += len(all)
	}
	if total > 0 {
		r.Scanner.Logger.InfoContext(ctx, "matched with the new advisory database", "database", database.Digest, "images", total, "took", time.Since(started).Round(time.Millisecond))
	}
	failed = errors.Join(failed, r.rest(ctx, database))
	return errors.Join(failed, r.Store.JudgeAgain(ctx), r.Attest(ctx))
}

// rematch matches one batch. An image of which there is no answer is left to rest.
func (r *Rescanner) rematch(ctx context.Context, database artifact.AdvisoryDatabase, all []artifact.Rematch) error {
	if err := giveWay(ctx, r.Scanner.Busy, time.Now().Add(rematchYield-wayFor)); err != nil {
		return err
	}
	request := scanner.RematchRequest{Database: r.Scanner.Folder(database.Digest)}
	for _, image := range all {
		request.Images = append(request.Images, scanner.RematchImage{Contents: image.Contents, Vulnerabilities: image.Vulnerabilities})
	}
	answers, err := r.Scanner.Client.Rematch(ctx, request)
	if err != nil {
		return err
	}
	var (
		same    []artifact.Digest
		changed []artifact.Rematched
	)
	for i, answer := range answers {
		switch {
		case answer.Failed != "":
			r.Scanner.Logger.WarnContext(ctx, "not matched from what was kept; it is scanned anew", "digest", all[i].Digest, "error", answer.Failed)
		case answer.Changed:
			changed = append(changed, artifact.Rematched{Digest: all[i].Digest, Gone: answer.Gone, Added: answer.Added, Counts: answer.Counts, Vulnerabilities: answer.Vulnerabilities})
		default:
			same = append(same, all[i].Digest)
		}
	}
	return r.Store.SaveRematch(artifact.DoneAgain(ctx), database, time.Now().UTC(), same, changed)
}

// rematchYield is how long a batch lets pushes go first. That is not long: under a load that never ends all are still
// matched within a minute or so.
const rematchYield = 100 * time.Millisecond

// rest scans what has no answer of this database yet: images that were pending, or that an older version scanned.
func (r *Rescanner) rest(ctx context.Context, database artifact.AdvisoryDatabase) (failed error) {
	const page = 200
	java, _, err := r.Store.JavaDatabase(ctx)
	if err != nil {
		return err
	}
	for after := (artifact.Digest{}); ; {
		images, err := r.Store.Unscanned(ctx, database.Digest, java.Digest, after, page)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, image := range images {
			if err := r.Scanner.Refresh(ctx, image.Repository, image.Digest); err != nil && artifact.KindOf(err) != artifact.NotFound {
				failed = errors.Join(failed, err)
			}
		}
		if len(images) < page {
			return failed
		}
		after = images[len(images)-1].Digest
	}
}
