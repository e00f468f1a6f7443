package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

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

// Signer judges a digest again, under the policy of now, signs what passes, attaches its SBOM, and attests what is known
// of it.
type Signer struct {
	river.WorkerDefaults[signArgs]

	Judge interface {
		JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error)
	}
	Service interface {
		SignImage(ctx context.Context, pass policy.Pass) error
	}
	// Describe attaches an SBOM to an image, unless it has one of ours, and says whether it did.
	Describe func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (attached bool, err error)
	// Described judges an image again whose SBOM was attached.
	Described func(ctx context.Context, image artifact.Digest) error
	// Attest signs what is known of a digest.
	Attest func(ctx context.Context, pass policy.Pass) error
	// Busy reports whether somebody pushes at this moment.
	Busy   func() bool
	Logger *slog.Logger
}

// Work signs one digest. A denied or deleted one is done: it stays without a signature.
func (s *Signer) Work(ctx context.Context, job *river.Job[signArgs]) error {
	if err := giveWay(ctx, s.Busy, job.CreatedAt); err != nil {
		return err
	}
	return s.bring(artifact.DoneAgain(ctx), job.Args.Repository, job.Args.Digest, job.CreatedAt, job.Attempt > 1)
}

// bring signs, describes and attests one digest, whatever of that is not done yet. again says that an attempt before may have
// described it.
func (s *Signer) bring(ctx context.Context, repository artifact.Repository, digest artifact.Digest, since time.Time, again bool) error {
	verdict, pass, ok, err := s.pass(ctx, repository, digest)
	if err != nil || !ok {
		return err
	}
	if !pass.Signs() {
		s.Logger.InfoContext(ctx, "not signed yet: it waits for somebody else's signature", "repository", repository, "digest", digest)
	} else if err := s.Service.SignImage(ctx, pass); err != nil {
		s.Logger.WarnContext(ctx, "not signed; it is tried again", "repository", repository, "digest", digest, "error", err)
		return awaiting(since, err)
	}
	// Nobody waits for SBOMs, but whoever pushes next waits for the scanner that makes them.
	if err := giveWay(ctx, s.Busy, since); err != nil {
		return err
	}
	attached, err := s.Describe(ctx, repository, digest)
	if err != nil {
		return err
	}
	if lacksSBOM(verdict) && (attached || again) {
		if err := s.Described(ctx, digest); err != nil {
			return err
		}
	}
	if !pass.Signs() {
		return nil
	}
	return s.Attest(ctx, pass)
}

// lacksSBOM says whether a verdict has something to say of an SBOM that was not there yet. Only then another is worth it.
func lacksSBOM(v policy.Verdict) bool {
	return slices.ContainsFunc(v.Reasons, func(r artifact.Reason) bool { return r.Rule == "require-sbom" })
}

// pass judges a digest; false says that it is denied, or gone.
func (s *Signer) pass(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, policy.Pass, bool, error) {
	verdict, err := s.Judge.JudgeStored(ctx, repository, digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return verdict, policy.Pass{}, false, nil
	}
	if err != nil {
		return verdict, policy.Pass{}, false, fmt.Errorf("judge %s@%s: %w", repository, digest, err)
	}
	pass, err := verdict.Pass()
	if err != nil {
		s.Logger.Warn("not signed: the policy in force does not allow it", "repository", repository, "digest", digest, "outcome", verdict.Outcome)
		return verdict, policy.Pass{}, false, nil
	}
	return verdict, pass, true, nil
}

// awaiting has a job wait for what is away, such as a KMS, for however long that takes: attempts come to an end.
func awaiting(since time.Time, err error) error {
	if artifact.KindOf(err) != artifact.Unavailable {
		return err
	}
	if time.Since(since) < time.Minute {
		return river.JobSnooze(2 * time.Second)
	}
	return river.JobSnooze(30 * time.Second)
}
