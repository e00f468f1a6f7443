package jobs

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
)

// attachedArgs asks for a digest to be judged again: something that speaks for it arrived, or was deleted.
type attachedArgs struct {
	Subject artifact.Digest `json:"subject"`
}

func (attachedArgs) Kind() string { return "attached" }

// Attender judges again what VEX documents, SBOMs and provenance are about when one comes or goes, so that what it says
// holds at once and not with the next advisory database.
type Attender struct {
	river.WorkerDefaults[attachedArgs]

	Rejudger *Rejudger // of single images
}

// Work judges one digest, wherever it is, and the indexes that hold it.
func (a *Attender) Work(ctx context.Context, job *river.Job[attachedArgs]) error {
	return a.Rejudger.Rescanned(artifact.DoneAgain(ctx), job.Args.Subject)
}

// Attached inserts, in the transaction that stores or removes what speaks for a digest, the job that judges it again.
func (c *Client) Attached(ctx context.Context, tx pgx.Tx, subject artifact.Digest) error {
	_, err := c.river.InsertTx(ctx, tx, attachedArgs{subject}, nil)
	return err
}
