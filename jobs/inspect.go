package jobs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sync/singleflight"

	"waybill/artifact"
	"waybill/scanner"
)

// Layers keeps what is learned of layers; *postgres.DB is one.
type Layers interface {
	LayerFacts(ctx context.Context, digest artifact.Digest) (facts artifact.LayerFacts, found bool, err error)
	LayerAnalyses(ctx context.Context, layers []artifact.Digest) ([][]byte, error)
	SaveLayer(ctx context.Context, facts artifact.LayerFacts, analyser string, analysis []byte) error
	SaveLayerFailure(ctx context.Context, digest artifact.Digest, why string) error
}

// Blobs opens a blob's bytes; blob.File is one.
type Blobs interface {
	Open(digest artifact.Digest) (*os.File, int64, error)
}

// Analyser reads a layer; *scanner.Client is one.
type Analyser interface {
	Analyse(ctx context.Context, file *os.File, d artifact.Descriptor) (scanner.Analysis, error)
	Warm(ctx context.Context)
}

// Inspector has each layer read once: when its blob arrives, or when a manifest asks for one that no arrival started.
// However many ask at a time, one inspection runs.
type Inspector struct {
	Layers  Layers
	Blobs   Blobs
	Scanner Analyser
	// Lock keeps other replicas from inspecting the same layer; nil when there are none.
	Lock   func(ctx context.Context, layer artifact.Digest) (release func(), err error)
	Logger *slog.Logger

	running singleflight.Group
	waiting sync.WaitGroup
	recent  recent
}

// Expected has a scanner ready by the time that the blob is here.
func (i *Inspector) Expected(ctx context.Context) { i.Scanner.Warm(ctx) }

// Arrived starts inspecting a blob that has just become complete, if its first bytes look like a layer's. It does
// not wait, and outlives the request: the manifest that follows will ask for the result.
func (i *Inspector) Arrived(ctx context.Context, digest artifact.Digest, size int64) {
	ctx = context.WithoutCancel(ctx)
	i.waiting.Go(func() {
		if !i.looksLikeLayer(digest) {
			return
		}
		if _, err := i.Layer(ctx, artifact.Repository{}, artifact.Descriptor{Digest: digest, Size: size}); err != nil && artifact.KindOf(err) != artifact.Denied {
			i.Logger.Warn("layer not inspected yet; its manifest will ask again", "digest", digest, "error", err)
		}
	})
}

// Wait returns when no inspection that an arrival started runs any more.
func (i *Inspector) Wait() { i.waiting.Wait() }

// Layer returns a layer's facts: stored ones, or those of an inspection that it waits for. A layer that cannot be
// inspected is a Denied error, now and until somebody tries again later.
func (i *Inspector) Layer(ctx context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	if facts, found, err := i.Layers.LayerFacts(ctx, d.Digest); err != nil || found {
		return facts, err
	}
	// Whoever asked first may go away; the others, and the next, still want the answer.
	result := i.running.DoChan(d.Digest.String(), func() (any, error) { return i.inspect(context.WithoutCancel(ctx), d) })
	select {
	case <-ctx.Done():
		return artifact.LayerFacts{}, ctx.Err()
	case r := <-result:
		facts, _ := r.Val.(artifact.LayerFacts)
		return facts, r.Err
	}
}

func (i *Inspector) inspect(ctx context.Context, d artifact.Descriptor) (artifact.LayerFacts, error) {
	if i.Lock != nil {
		release, err := i.Lock(ctx, d.Digest)
		if err != nil {
			return artifact.LayerFacts{}, err
		}
		defer release()
	}
	if facts, found, err := i.Layers.LayerFacts(ctx, d.Digest); err != nil || found {
		return facts, err // stored between the caller's look and ours
	}
	file, size, err := i.Blobs.Open(d.Digest)
	if err != nil {
		return artifact.LayerFacts{}, err
	}
	defer file.Close()
	d.Size = size
	analysis, err := i.Scanner.Analyse(ctx, file, d)
	if artifact.KindOf(err) == artifact.Denied {
		if saved := i.Layers.SaveLayerFailure(ctx, d.Digest, err.Error()); saved != nil {
			return artifact.LayerFacts{}, saved
		}
		return artifact.LayerFacts{}, err
	}
	if err != nil {
		return artifact.LayerFacts{}, fmt.Errorf("inspect layer %s: %w", d.Digest, err)
	}
	if err := i.Layers.SaveLayer(ctx, analysis.Facts, analysis.Analyser, analysis.Blob); err != nil {
		return artifact.LayerFacts{}, err
	}
	i.recent.add(d.Digest, analysis.Blob)
	return analysis.Facts, nil
}

// Analyses returns what the scanner made of each layer, in their order. No layer is read, unless its analysis is missing.
func (i *Inspector) Analyses(ctx context.Context, repository artifact.Repository, layers []artifact.Descriptor) ([][]byte, error) {
	all := make([][]byte, len(layers))
	var stored []artifact.Digest
	for n, d := range layers {
		if all[n] = i.recent.get(d.Digest); all[n] != nil {
			continue
		}
		if _, err := i.Layer(ctx, repository, d); err != nil {
			return nil, err
		}
		stored = append(stored, d.Digest)
	}
	if len(stored) == 0 {
		return all, nil
	}
	read, err := i.Layers.LayerAnalyses(ctx, stored)
	if err != nil {
		return nil, err
	}
	for n := range all {
		if all[n] == nil {
			all[n], read = read[0], read[1:]
		}
	}
	return all, nil
}

// recent remembers analyses that were just made: the manifest that asks for them follows within moments.
type recent struct {
	mu    sync.Mutex
	known map[artifact.Digest][]byte
	order []artifact.Digest
	bytes int
}

// maxRecent bounds what recent holds, in bytes.
const maxRecent = 16 << 20

func (r *recent) add(digest artifact.Digest, analysis []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(analysis) > maxRecent/4 || r.known[digest] != nil {
		return
	}
	if r.known == nil {
		r.known = map[artifact.Digest][]byte{}
	}
	r.known[digest], r.order, r.bytes = analysis, append(r.order, digest), r.bytes+len(analysis)
	for ; r.bytes > maxRecent; r.order = r.order[1:] {
		r.bytes -= len(r.known[r.order[0]])
		delete(r.known, r.order[0])
	}
}

func (r *recent) get(digest artifact.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[digest]
}

// looksLikeLayer: gzip (RFC 1952), zstd (RFC 8878) and POSIX tar by their magic numbers. A layer that is missed is
// inspected when its manifest comes.
func (i *Inspector) looksLikeLayer(digest artifact.Digest) bool {
	file, _, err := i.Blobs.Open(digest)
	if err != nil {
		return false
	}
	defer file.Close()
	head := make([]byte, 263)
	n, _ := io.ReadFull(file, head)
	head = head[:n]
	return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		n > 257 && bytes.HasPrefix(head[257:], []byte("ustar"))
}
