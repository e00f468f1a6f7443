package jobs

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
)

// attachedArgs asks for a digest that waits for somebody else's signature to be judged again: something was attached.
type attachedArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (attachedArgs) Kind() string { return "attached" }

// maxRelated bounds what is judged again for one signature.
const maxRelated = 500

// attacher judges again what waits for a signature, and has it signed when the wait is over.
type attacher struct {
	river.WorkerDefaults[attachedArgs]
	rejudger *Rejudger
}

// Work judges the digest, what it holds and what holds it.
func (a *attacher) Work(ctx context.Context, job *river.Job[attachedArgs]) error {
	all, err := a.rejudger.Store.Related(ctx, artifact.Reference{Repository: job.Args.Repository, Digest: job.Args.Digest}, maxRelated)
	for err == nil && len(all) > 0 {
		n := min(len(all), judgePage)
		_, err = a.rejudger.judge(ctx, all[:n], false)
		all = all[n:]
	}
	return err
}

// Attached inserts, in the transaction that attaches something to a digest that waits for a signature, what looks at it.
func (c *Client) Attached(ctx context.Context, tx pgx.Tx, ref artifact.Reference) error {
	_, err := c.river.InsertTx(ctx, tx, attachedArgs{ref.Repository, ref.Digest}, nil)
	return err
}

// Sign has digests signed that were judged again, and may be by now. What is signed already stays as it is.
func (c *Client) Sign(ctx context.Context, all []artifact.Reference) error {
	if len(all) == 0 {
		return nil
	}
	jobs := make([]river.InsertManyParams, len(all))
	for i, ref := range all {
		jobs[i] = river.InsertManyParams{Args: signArgs{ref.Repository, ref.Digest}}
	}
	_, err := c.river.InsertMany(ctx, jobs)
	return err
}
