package jobs_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/jobs"
	"waybill/postgres/pgtest"
	"waybill/scanner"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// files is a store of blobs in a folder, and a scanner that counts.
type files struct {
	folder string
	reads  atomic.Int32
	begun  chan struct{} // closed when the first analysis begins
	once   sync.Once
	goOn   chan struct{} // closed when it may end
	answer error
}

func newFiles(t *testing.T) *files {
	return &files{folder: t.TempDir(), begun: make(chan struct{}), goOn: make(chan struct{})}
}

func (f *files) Open(digest artifact.Digest) (*os.File, int64, error) {
	file, err := os.Open(filepath.Join(f.folder, digest.Hex()))
	if err != nil {
		return nil, 0, artifact.Errorf(artifact.NotFound, "no blob %s", digest)
	}
	return file, 0, nil
}

func (f *files) put(t *testing.T, content string) artifact.Descriptor {
	digest := artifact.DigestOf([]byte(content))
	require.NoError(t, os.WriteFile(filepath.Join(f.folder, digest.Hex()), []byte(content), 0o600))
	return artifact.Descriptor{Digest: digest, Size: int64(len(content))}
}

func (f *files) Warm(context.Context) {}

func (f *files) Analyse(_ context.Context, _ *os.File, d artifact.Descriptor) (scanner.Analysis, error) {
	f.reads.Add(1)
	f.once.Do(func() { close(f.begun) })
	<-f.goOn
	return scanner.Analysis{Facts: artifact.LayerFacts{Format: artifact.FactsFormat, Digest: d.Digest, DiffID: d.Digest}, Analyser: "1", Blob: []byte(d.Digest.String())}, f.answer
}

// TestInspectedOnce: however many pushes on however many replicas bring a layer, it is read once.
func TestInspectedOnce(t *testing.T) {
	t.Parallel()
	db, f := pgtest.New(t), newFiles(t)
	layer := f.put(t, "\x1f\x8b layer")
	replicas := make([]*jobs.Inspector, 3)
	for i := range replicas {
		replicas[i] = &jobs.Inspector{Layers: db, Blobs: f, Scanner: f, Lock: db.LockLayer, Logger: slog.New(slog.DiscardHandler)}
	}
	var work sync.WaitGroup
	ask := func(replica *jobs.Inspector) {
		work.Go(func() {
			facts, err := replica.Layer(t.Context(), artifact.Repository{}, layer)
			require.NoError(t, err)
			require.Equal(t, layer.Digest, facts.DiffID)
			analyses, err := replica.Analyses(t.Context(), artifact.Repository{}, []artifact.Descriptor{layer})
			require.NoError(t, err)
			require.Equal(t, [][]byte{[]byte(layer.Digest.String())}, analyses)
		})
	}
	for _, replica := range replicas {
		replica.Arrived(t.Context(), layer.Digest, layer.Size)
		for range 4 {
			ask(replica)
		}
	}
	<-f.begun
	close(f.goOn)
	work.Wait()
	for _, replica := range replicas {
		replica.Wait()
		ask(replica)
	}
	work.Wait()
	require.EqualValues(t, 1, f.reads.Load())
}

// TestRefusedLayer: what cannot be inspected is refused for a while without another try; what could not be tried is no
// answer about the layer.
func TestRefusedLayer(t *testing.T) {
	t.Parallel()
	db, f := pgtest.New(t), newFiles(t)
	close(f.goOn)
	inspector := &jobs.Inspector{Layers: db, Blobs: f, Scanner: f, Logger: slog.New(slog.DiscardHandler)}
	bomb, unlucky := f.put(t, "bomb"), f.put(t, "unlucky")
	f.answer = artifact.Errorf(artifact.Denied, "cannot be inspected: it unpacks to too much")
	for range 3 {
		_, err := inspector.Layer(t.Context(), artifact.Repository{}, bomb)
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
		require.ErrorContains(t, err, "unpacks to too much")
	}
	require.EqualValues(t, 1, f.reads.Load())

	f.answer = errors.New("no scanner today")
	_, err := inspector.Layer(t.Context(), artifact.Repository{}, unlucky)
	require.ErrorContains(t, err, "no scanner today")
	f.answer = nil
	_, err = inspector.Layer(t.Context(), artifact.Repository{}, unlucky)
	require.NoError(t, err)

	_, err = inspector.Layer(t.Context(), artifact.Repository{}, artifact.Descriptor{Digest: artifact.DigestOf([]byte("gone"))})
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

// TestArrived: only what looks like a layer is inspected before a manifest asks for it.
func TestArrived(t *testing.T) {
	t.Parallel()
	db, f := pgtest.New(t), newFiles(t)
	close(f.goOn)
	inspector := &jobs.Inspector{Layers: db, Blobs: f, Scanner: f, Logger: slog.New(slog.DiscardHandler)}
	config, gzip, zstd := f.put(t, `{"os":"linux"}`), f.put(t, "\x1f\x8b\x08"), f.put(t, "\x28\xb5\x2f\xfd")
	for _, d := range []artifact.Descriptor{config, gzip, zstd, {Digest: artifact.DigestOf([]byte("gone"))}} {
		inspector.Arrived(t.Context(), d.Digest, d.Size)
	}
	inspector.Wait()
	require.EqualValues(t, 2, f.reads.Load())
	for _, d := range []artifact.Descriptor{gzip, zstd} {
		_, found, err := db.LayerFacts(t.Context(), d.Digest)
		require.NoError(t, err)
		require.True(t, found)
	}
}
