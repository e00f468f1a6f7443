package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
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
	// Attest signs a statement.
	Attest func(ctx context.Context, pass policy.Pass, predicateType string, predicate json.RawMessage) error
	// Carrier returns what carries signatures or statements; NotFound when it is gone.
	Carrier func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (gcr.Image, error)
	// Store; *postgres.DB is one.
	Store interface {
		SigningKeys(ctx context.Context) ([]artifact.SigningKey, error)
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
	public, err := r.public(ctx, job.Args.Key)
	if err != nil {
		return err
	}
	for {
		page, err := r.Store.SignedBy(ctx, job.Args.Key, after, resignPage)
		if err != nil {
			return errors.Join(failed, err)
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			done, err := r.again(artifact.DoneAgain(ctx), s, public)
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

func (r *Resigner) public(ctx context.Context, id string) (string, error) {
	known, err := r.Store.SigningKeys(ctx)
	if err != nil {
		return "", err
	}
	for _, k := range known {
		if k.ID == id {
			return k.PublicKey, nil
		}
	}
	return "", river.JobCancel(fmt.Errorf("key %s never signed here", id))
}

// again signs one; false says that it is denied by now, or gone.
func (r *Resigner) again(ctx context.Context, s artifact.SignedStatement, public string) (bool, error) {
	pass, ok, err := r.Signer.pass(ctx, s.Repository, s.Digest)
	if err != nil || !ok || !pass.Signs() {
		return false, err
	}
	if s.Predicate == "" {
		return true, r.Signer.Service.SignImage(ctx, pass)
	}
	carrier, err := r.Carrier(ctx, s.Repository, s.Manifest)
	if artifact.KindOf(err) == artifact.NotFound {
		return false, nil
	} else if err != nil {
		return false, err
	}
	// From the manifest that was recorded when it was signed, so that nothing comes in that was forged with the key since.
	predicate, err := signer.Predicate(carrier, s.Digest, s.Predicate, public)
	if errors.Is(err, signer.ErrNoStatement) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, r.Attest(ctx, pass, s.Predicate, predicate)
}

// KeyRevoked inserts, in the transaction that revokes a key, the job that signs again what it signed.
func (c *Client) KeyRevoked(ctx context.Context, tx pgx.Tx, keyID string) error {
	_, err := c.river.InsertTx(ctx, tx, resignArgs{keyID}, nil)
	return err
}
