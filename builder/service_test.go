package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// oneBuild is a store of one build and a registry of its image, each of which can fail.
type oneBuild struct {
	record     Record
	state      string
	provenance json.RawMessage
	bases      int
	stored     artifact.Digest
	published  int
	fail       string // the step that fails, once
	layers     map[artifact.Digest][]byte
}

var errKilled = errors.New("killed")

func (s *oneBuild) at(step string) error {
	if s.fail == step {
		s.fail = ""
		return errKilled
	}
	return nil
}

func (s *oneBuild) LockBuild(context.Context, artifact.Repository, artifact.Digest) (func(), error) {
	return func() {}, nil
}

func (s *oneBuild) Build(context.Context, artifact.Repository, artifact.Digest) (Record, bool, error) {
	return s.record, s.state == "done", nil
}

func (s *oneBuild) StartBuild(_ context.Context, r Record) error {
	s.record, s.state, s.provenance = r, "running", nil
	return nil
}

func (s *oneBuild) IntendBuild(_ context.Context, r Record, provenance json.RawMessage) error {
	s.record, s.provenance = r, provenance
	return s.at("intend")
}

func (s *oneBuild) IntendedBuild(context.Context, artifact.Repository, artifact.Digest) (Record, json.RawMessage, bool, error) {
	return s.record, s.provenance, s.state == "running" && !s.record.Digest.IsZero(), nil
}

// EndBuild of a failure does nothing: who was killed says nothing.
func (s *oneBuild) EndBuild(_ context.Context, r Record, provenance json.RawMessage, failure string) error {
	if err := s.at("end"); err != nil || failure != "" {
		return err
	}
	s.record, s.state, s.provenance = r, "done", provenance
	return nil
}

func (s *oneBuild) RecordBases(_ context.Context, all []artifact.BuiltOn) error {
	s.bases = len(all)
	return s.at("bases")
}

func (s *oneBuild) Expect(context.Context) {}

func (s *oneBuild) Layer(_ context.Context, _ artifact.Principal, _ artifact.Repository, r io.Reader) (artifact.Descriptor, func() (io.ReadCloser, error), error) {
	b, err := io.ReadAll(r)
	d := artifact.DigestOf(b)
	s.layers[d] = b
	return artifact.Descriptor{Digest: d, Size: int64(len(b))}, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s.layers[d])), nil }, err
}

func (s *oneBuild) Publish(_ context.Context, _ artifact.Principal, _ artifact.Repository, _ []artifact.Tag, built Artifact) (artifact.Digest, error) {
	if err := s.at("publish"); err != nil {
		return artifact.Digest{}, err
	}
	hash, err := built.Digest()
	if err != nil {
		return artifact.Digest{}, err
	}
	s.stored, err = artifact.ParseDigest(hash.String())
	s.published++
	return s.stored, errors.Join(err, s.at("published"))
}

func (s *oneBuild) Tag(_ context.Context, _ artifact.Principal, _ artifact.Repository, _ []artifact.Tag, d artifact.Digest) error {
	if s.stored != d {
		return artifact.Errorf(artifact.NotFound, "there is no %s", d)
	}
	return nil
}

func (s *oneBuild) Stored(context.Context, artifact.Principal, artifact.Repository, artifact.Digest) (Artifact, error) {
	return nil, artifact.Errorf(artifact.NotFound, "nothing is read here")
}

// TestBuildIsTakenUp: wherever a server is killed, the next request publishes what was not, once, and what was keeps the provenance
// that it had then.
func TestBuildIsTakenUp(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	archive := tarOf(file("Dockerfile", 0o644, "FROM base/small:1\nCOPY Dockerfile /\n"))
	for step, kept := range map[string]bool{"intend": false, "bases": false, "publish": false, "published": true, "end": true} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			store := &oneBuild{fail: step, layers: map[artifact.Digest][]byte{}}
			now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
			s := NewService(Config{Store: store, Publisher: store, Bases: testBases{}, Folder: t.TempDir(), Now: func() time.Time { return now }})
			ask := func() (Result, error) {
				w, err := s.prepare(t.Context(), artifact.System, Request{Repository: repository}, bytes.NewReader(archive))
				require.NoError(t, err)
				defer w.close()
				return s.finish(t.Context(), artifact.System, w, io.Discard)
			}
			_, err := ask()
			require.ErrorIs(t, err, errKilled)
			began := now
			now = now.Add(time.Hour)
			result, err := ask()
			require.NoError(t, err)
			require.Equal(t, 1, store.published)
			require.Equal(t, store.stored, result.Digest)
			require.Equal(t, "done", store.state)
			require.Equal(t, 1, store.bases)
			require.True(t, result.Built)
			require.Equal(t, kept, began.Equal(result.BuiltAt))
			require.Contains(t, string(store.provenance), result.BuiltAt.Format(time.RFC3339))
			again, err := ask()
			require.NoError(t, err)
			require.False(t, again.Built)
			require.Equal(t, result.Digest, again.Digest)
		})
	}
}
