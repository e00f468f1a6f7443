package builder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// oneRun is a store with one run that waits, and a folder with its context.
type oneRun struct {
	RunStore
	run     Run
	ended   artifact.Build
	opened  bool
	deleted artifact.Digest
}

func (s *oneRun) ClaimRun(context.Context, string, string) (Run, bool, error) {
	return s.run, true, nil
}

func (s *oneRun) EndRun(_ context.Context, _ string, b artifact.Build) error {
	s.ended = b
	return nil
}

func (s *oneRun) ContextWanted(context.Context, artifact.Digest) (bool, error) {
	return !s.ended.State.Ended(), nil
}

func (s *oneRun) Put(context.Context, io.Reader) (artifact.Digest, error) {
	return artifact.Digest{}, errors.New("nothing is put here")
}

func (s *oneRun) Open(artifact.Digest) (io.ReadCloser, error) {
	s.opened = true
	return nil, errors.New("it is not there")
}

func (s *oneRun) Delete(_ context.Context, d artifact.Digest) error {
	s.deleted = d
	return nil
}

// waitingRun is a run that waits, with its context.
type waitingRun struct {
	oneRun
	context []byte
}

func (s *waitingRun) Open(artifact.Digest) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.context)), nil
}

func (*waitingRun) RunCancelled(string) (func() <-chan struct{}, func()) {
	return func() <-chan struct{} { return nil }, func() {}
}
func (*waitingRun) BeatRun(context.Context, string, string) (string, bool, error) {
	return "", true, nil
}
func (*waitingRun) AppendLog(context.Context, string, []byte) (int64, error) { return 1, nil }

// TestQueuedBuildWhoseBaseMoved: a build is told by the key of what it was built of, when that is not what it was queued with.
func TestQueuedBuildWhoseBaseMoved(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	queued := artifact.DigestOf([]byte("with the base that its tag named"))
	store := &waitingRun{context: tarOf(file("Dockerfile", 0o644, "FROM base/small:1\nCOPY Dockerfile /\n"))}
	store.run = Run{Build: artifact.Build{ID: "one", Repository: repository, Key: queued, State: artifact.BuildRunning, Attempts: 1}, Request: Request{Repository: repository}, Principal: artifact.System, Context: queued}
	built := &oneBuild{layers: map[artifact.Digest][]byte{}}
	s := NewService(Config{Store: built, Publisher: built, Bases: testBases{}, Folder: t.TempDir(), Now: time.Now})
	require.NoError(t, NewRuns(RunsConfig{Service: s, Store: store, Contexts: store, Logger: slog.New(slog.DiscardHandler), MaxLog: 1 << 20}).Work(t.Context(), "one"))
	require.Equal(t, artifact.BuildDone, store.ended.State)
	require.Equal(t, built.record.Key, store.ended.Key)
	require.NotEqual(t, queued, store.ended.Key)
}

// TestQueuedBuildOfWhoMayNotAsk: a build whose asker lost the right to it while it waited does not run, and says why.
func TestQueuedBuildOfWhoMayNotAsk(t *testing.T) {
	t.Parallel()
	asker := artifact.Principal{Name: "token:ci/abc", Role: artifact.Pusher, Token: "abc"}
	waiting := Run{Build: artifact.Build{ID: "one", State: artifact.BuildRunning}, Principal: asker, Context: artifact.DigestOf([]byte("context"))}
	for name, c := range map[string]struct {
		answer error
		opened bool
		says   string
		err    string
	}{
		"revoked":  {artifact.Errorf(artifact.Denied, "token abc of token:ci/abc was revoked meanwhile; ask again with one that is valid"), false, "nothing was built: token abc of token:ci/abc was revoked meanwhile; ask again with one that is valid", ""},
		"unknown":  {artifact.Errorf(artifact.Unavailable, "the database does not answer"), false, "", "does not answer"},
		"it holds": {nil, true, "the build's context is not there any more: it is not there", "it is not there"},
	} {
		s := &oneRun{run: waiting}
		r := NewRuns(RunsConfig{Store: s, Contexts: s, Logger: slog.New(slog.DiscardHandler), Stands: func(_ context.Context, p artifact.Principal) error {
			require.Equal(t, asker, p)
			return c.answer
		}})
		err := r.Work(t.Context(), "one")
		if c.err == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.err, name)
		}
		require.Equal(t, c.opened, s.opened, name)
		require.Equal(t, c.says, s.ended.Failure, name)
		if c.says != "" {
			require.Equal(t, artifact.BuildFailed, s.ended.State, name)
			require.Equal(t, waiting.Context, s.deleted, "%s: nobody needs its context", name)
		}
	}
}
