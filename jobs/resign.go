package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
)

// resignArgs asks for what a revoked key signed to be signed by the key in force.
type resignArgs struct {
	Key string `json:"key"` // its id
}

func (resignArgs) Kind() string { return "resign" }

// Resigner signs again what rests on signatures of a revoked key: images, and statements that the service made about them.
// Each is judged by the policies of now; what they deny stays without a signature that counts.
type Resigner struct {
	river.WorkerDefaults[resignArgs]

	Signer *Signer
	// Attest makes all statements about a digest anew that do not count, from what is stored: none is taken from what carried it.
	Attest func(ctx context.Context, pass policy.Pass) error
	// Store; *postgres.DB is one.
	Store interface {
		SignedBy(ctx context.Context, keyID string, after artifact.SignedStatement, n int) ([]artifact.SignedStatement, error)
	}
	Logger *slog.Logger
}

const resignPage = 100

// Work signs all that is left. What fails does not hold up the rest, and is tried again.
func (r *Resigner) Work(ctx context.Context, job *river.Job[resignArgs]) error {
	var (
		failed       error
		signed, left int
		after        artifact.SignedStatement
	)
	for {
		page, err := r.Store.SignedBy(ctx, job.Args.Key, after, resignPage)
		if err != nil {
			return errors.Join(failed, err)
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			done, err := r.again(artifact.DoneAgain(ctx), s)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case artifact.KindOf(err) == artifact.Unavailable:
				r.Logger.WarnContext(ctx, "what a revoked key had signed is not signed again yet; it is tried again", "key", job.Args.Key, "error", err)
				return awaiting(job.CreatedAt, err) // the key or the database: all others would fail likewise
			case err != nil:
				failed = errors.Join(failed, fmt.Errorf("%s@%s: %w", s.Repository, s.Digest, err))
			case done:
				signed++
			default:
				left++
			}
		}
		after = page[len(page)-1]
	}
	if failed != nil {
		r.Logger.WarnContext(ctx, "some of what a revoked key had signed is not signed again; it is tried again", "key", job.Args.Key, "error", failed)
	}
	r.Logger.InfoContext(ctx, "signed again what a revoked key had signed", "key", job.Args.Key, "signed", signed, "denied or gone", left)
	return failed
}

// again signs one; false says that it is denied by now, or gone.
func (r *Resigner) again(ctx context.Context, s artifact.SignedStatement) (bool, error) {
	_, pass, ok, err := r.Signer.pass(ctx, s.Repository, s.Digest)
	if err != nil || !ok || !pass.Signs() {
		return false, err
	}
	if s.Predicate == "" {
		return true, r.Signer.Service.SignImage(ctx, pass)
	}
	return true, r.Attest(ctx, pass)
}

// KeyRevoked inserts, in the transaction that revokes a key, the job that signs again what it signed.
func (c *Client) KeyRevoked(ctx context.Context, tx pgx.Tx, keyID string) error {
	_, err := c.river.InsertTx(ctx, tx, resignArgs{keyID}, nil)
	return err
}
