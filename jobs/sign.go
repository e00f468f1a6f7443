package jobs

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
)

// signArgs asks for one allowed digest to be signed.
type signArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (signArgs) Kind() string { return "sign" }

// Signer judges a digest again, under the policy of now, signs what passes, and attaches its SBOM.
type Signer struct {
	river.WorkerDefaults[signArgs]

	Judge interface {
		JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error)
	}
	Service interface {
		SignImage(ctx context.Context, pass policy.Pass) error
	}
	// Describe attaches an SBOM to an image, unless it has one of ours.
	Describe func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error
	// Busy reports whether somebody pushes at this moment.
	Busy   func() bool
	Logger *slog.Logger
}

// Work signs one digest. A denied or deleted one is done: it stays without a signature.
func (s *Signer) Work(ctx context.Context, job *river.Job[signArgs]) error {
	if err := giveWay(ctx, s.Busy, job.CreatedAt); err != nil {
		return err
	}
	ctx = artifact.DoneAgain(ctx)
	verdict, err := s.Judge.JudgeStored(ctx, job.Args.Repository, job.Args.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("judge %s@%s: %w", job.Args.Repository, job.Args.Digest, err)
	}
	pass, err := verdict.Pass()
	if err != nil {
		s.Logger.Warn("not signed: the policy in force does not allow it", "repository", job.Args.Repository, "digest", job.Args.Digest, "outcome", verdict.Outcome)
		return nil
	}
	if err := s.Service.SignImage(ctx, pass); err != nil {
		return err
	}
	// Nobody waits for SBOMs, but whoever pushes next waits for the scanner that makes them.
	if err := giveWay(ctx, s.Busy, job.CreatedAt); err != nil {
		return err
	}
	return s.Describe(ctx, job.Args.Repository, job.Args.Digest)
}
