package jobs

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/signer"
)

// proveArgs asks for how a digest was built to be signed.
type proveArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (proveArgs) Kind() string { return "prove" }

// prover signs provenance, also of what waits for a signature until it has that. Most often the digest's own signature comes
// first, and has it signed with the rest; then nothing is left to do.
type prover struct {
	river.WorkerDefaults[proveArgs]

	attester *Attester
}

// Work signs that of one digest.
func (w *prover) Work(ctx context.Context, job *river.Job[proveArgs]) error {
	a := w.attester
	if err := giveWay(ctx, a.Busy, job.CreatedAt); err != nil {
		return err
	}
	ctx = artifact.DoneAgain(ctx)
	pass, ok, err := a.pass(ctx, job.Args.Repository, job.Args.Digest)
	if err != nil || !ok {
		return err
	}
	statement, ok, err := a.provenance(ctx, job.Args.Repository, job.Args.Digest)
	if err != nil || !ok {
		return err
	}
	return awaiting(job.CreatedAt, a.Service.Attest(ctx, pass, statement))
}

func (a *Attester) provenance(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (one signer.Statement, ok bool, err error) {
	predicate, ok, err := a.Store.Provenance(ctx, repository, digest)
	return signer.Statement{PredicateType: signer.ProvenancePredicate, Predicate: func() (json.RawMessage, error) { return predicate, nil }}, ok, err
}

// Built inserts, in the transaction that ends a build, the job that has its provenance signed.
func (c *Client) Built(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error {
	_, err := c.river.InsertTx(ctx, tx, proveArgs{repository, digest}, nil)
	return err
}
