package jobs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// circle is a store of manifests that are to be judged once, in pages of two.
type circle struct {
	all     []artifact.StoredManifest
	at      int
	taken   bool // another job is at it
	saved   []artifact.Digest
	broken  artifact.Digest // cannot be judged
	gone    artifact.Digest // was deleted meanwhile
	expired bool

	verdicts map[artifact.Digest]policy.Verdict // that some get; others get none that passes
}

func (c *circle) NextToJudge(context.Context, int64, int) ([]artifact.StoredManifest, error) {
	if c.taken {
		return nil, artifact.Errorf(artifact.Conflict, "another job is at it")
	}
	return c.all[c.at:min(c.at+2, len(c.all))], nil
}

func (c *circle) Judged(_ context.Context, _ int64, last artifact.Reference) error {
	c.at = 1 + slices.IndexFunc(c.all, func(m artifact.StoredManifest) bool { return m.Digest == last.Digest })
	return nil
}

func (c *circle) SaveJudged(_ context.Context, all []policy.Verdict) ([]artifact.TurnedBad, error) {
	for _, v := range all {
		c.saved = append(c.saved, v.Digest)
	}
	return nil, nil
}

func (c *circle) Related(context.Context, artifact.Reference, int) ([]artifact.StoredManifest, error) {
	return c.all, nil
}

func (c *circle) ImagesWith(context.Context, artifact.Digest) ([]artifact.StoredManifest, error) {
	return c.all, nil
}

func (c *circle) ExpireWaiver(context.Context, int64) (bool, error) { return c.expired, nil }

func (c *circle) JudgeManifests(_ context.Context, all []artifact.StoredManifest) ([]policy.Verdict, []error) {
	verdicts, errs := make([]policy.Verdict, len(all)), make([]error, len(all))
	for i, m := range all {
		if verdicts[i] = c.verdicts[m.Digest]; verdicts[i].Digest.IsZero() {
			verdicts[i].Digest = m.Digest
		}
		switch m.Digest {
		case c.broken:
			errs[i] = errors.New("the stored document is no JSON")
		case c.gone:
			errs[i] = artifact.Errorf(artifact.NotFound, "it is not here")
		}
	}
	return verdicts, errs
}

func (c *circle) Forget() {}

func newCircle() *circle {
	c := &circle{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		c.all = append(c.all, artifact.StoredManifest{Digest: artifact.DigestOf([]byte(name))})
	}
	return c
}

func TestRejudger(t *testing.T) {
	t.Parallel()
	work := func(c *circle, attempt int) error {
		r := &Rejudger{Store: c, Judge: c, Logger: slog.New(slog.DiscardHandler)}
		return r.Work(t.Context(), &river.Job[rejudgeArgs]{JobRow: &rivertype.JobRow{ID: 1, Attempt: attempt}})
	}
	c := newCircle()
	c.gone = c.all[1].Digest
	require.NoError(t, work(c, 1))
	require.Len(t, c.saved, 4, "all but what was deleted meanwhile")

	c = newCircle()
	c.taken = true
	var snooze *river.JobSnoozeError
	require.ErrorAs(t, work(c, 1), &snooze, "it looks again later")

	c = newCircle()
	c.broken = c.all[2].Digest
	require.ErrorContains(t, work(c, 1), "no JSON")
	require.Equal(t, 2, c.at, "the next attempt goes on where this one ended")
	require.NoError(t, work(c, strictAttempts+1))
	require.Len(t, c.saved, 4, "and what cannot be judged does not hold up the rest for ever")

	c = newCircle()
	r := &Rejudger{Store: c, Judge: c, Logger: slog.New(slog.DiscardHandler)}
	require.NoError(t, r.Rescanned(t.Context(), c.all[0].Digest))
	require.Len(t, c.saved, 5)
}

// TestAttacher: what a signature may change is judged again, and signed where it may be.
func TestAttacher(t *testing.T) {
	t.Parallel()
	documents, err := policy.Parse("baseline.yaml", policy.Baseline())
	require.NoError(t, err)
	set := policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}})
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	c := newCircle()
	good := set.Artifact(artifact.Subject{Repository: repository, Digest: c.all[1].Digest})
	c.verdicts = map[artifact.Digest]policy.Verdict{c.all[1].Digest: good}
	var signed []artifact.Reference
	a := &attacher{rejudger: &Rejudger{Store: c, Judge: c, Logger: slog.New(slog.DiscardHandler), Sign: func(_ context.Context, all []artifact.Reference) error {
		signed = append(signed, all...)
		return nil
	}}}
	require.NoError(t, a.Work(t.Context(), &river.Job[attachedArgs]{JobRow: &rivertype.JobRow{ID: 1}, Args: attachedArgs{repository, c.all[0].Digest}}))
	require.Len(t, c.saved, 5)
	require.Equal(t, []artifact.Reference{{Repository: repository, Digest: good.Digest}}, signed, "what nobody judged is never signed")
}

func TestExpirer(t *testing.T) {
	t.Parallel()
	c := &circle{}
	e := &expirer{store: c}
	job := &river.Job[expireArgs]{JobRow: &rivertype.JobRow{ID: 1}, Args: expireArgs{7}}
	var snooze *river.JobSnoozeError
	require.ErrorAs(t, e.Work(t.Context(), job), &snooze, "this clock is ahead of the other")
	c.expired = true
	require.NoError(t, e.Work(t.Context(), job))
}
