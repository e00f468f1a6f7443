package jobs

import (
	"context"
	"log/slog"
	"testing"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// signing is what a Signer asks.
type signing struct {
	verdict  policy.Verdict
	attached bool
	again    []artifact.Digest
}

func (s *signing) JudgeStored(context.Context, artifact.Repository, artifact.Digest) (policy.Verdict, error) {
	return s.verdict, nil
}
func (s *signing) SignImage(context.Context, policy.Pass) error { return nil }

// TestDescribed: an image is judged again once its SBOM is attached, if that is what its verdict missed; else it is not.
func TestDescribed(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	image := artifact.DigestOf([]byte("image"))
	documents, err := policy.Parse("baseline.yaml", policy.Baseline())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		rule     string
		attached bool
		attempt  int
		again    bool
	}{
		"missed":                         {"require-sbom", true, 1, true},
		"there before":                   {"require-sbom", false, 1, false},
		"attached by an attempt before":  {"require-sbom", false, 2, true},
		"missed something else":          {"no-setuid", true, 1, false},
		"nothing was missed":             {"", true, 1, false},
		"nothing was missed, once again": {"", false, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &signing{attached: c.attached}
			w.verdict = policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}}).Artifact(artifact.Subject{Repository: repository, Digest: image})
			if c.rule != "" {
				w.verdict.Reasons = append(w.verdict.Reasons, artifact.Reason{Rule: c.rule, Warning: true})
			}
			s := &Signer{Judge: w, Service: w, Logger: slog.New(slog.DiscardHandler),
				Describe:  func(context.Context, artifact.Repository, artifact.Digest) (bool, error) { return w.attached, nil },
				Described: func(_ context.Context, d artifact.Digest) error { w.again = append(w.again, d); return nil },
				Attest:    func(context.Context, policy.Pass) error { return nil }}
			require.NoError(t, s.Work(t.Context(), &river.Job[signArgs]{JobRow: &rivertype.JobRow{Attempt: c.attempt}, Args: signArgs{repository, image}}))
			require.Equal(t, c.again, len(w.again) == 1)
		})
	}
}
