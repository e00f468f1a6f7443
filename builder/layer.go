package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"waybill/artifact"
)

// builtLayer is a v1.Layer that was written: to a temporary file, or to the registry.
type builtLayer struct {
	compressed     func() (io.ReadCloser, error)
	digest, diffID v1.Hash
	size           int64
}

func (l *builtLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *builtLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *builtLayer) Size() (int64, error)                { return l.size, nil }
func (l *builtLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *builtLayer) Compressed() (io.ReadCloser, error)  { return l.compressed() }
func (l *builtLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := l.compressed()
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// LayerStore takes a layer while it is written, and returns what it came to and how to read it again. Where r fails, nothing
// stays.
type LayerStore func(ctx context.Context, r io.Reader) (d artifact.Descriptor, open func() (io.ReadCloser, error), err error)

// writeLayer streams entries, sorted by path, into a gzip-compressed tar. Its bytes follow from the entries and the time
// alone. It holds a few blocks in memory, whatever the sizes.
func (w *workspace) writeLayer(ctx context.Context, entries []*node, at time.Time) (*builtLayer, error) {
	if err := w.prefetch(entries); err != nil {
		return nil, err
	}
	store := w.layers
	if store == nil {
		store = w.keepLayer
	}
	r, out := io.Pipe()
	var (
		plain   string
		failed  error
		written = make(chan struct{})
	)
	go func() {
		defer close(written)
		plain, failed = packLayer(ctx, out, entries, at)
		out.CloseWithError(failed)
	}()
	d, open, err := store(ctx, r)
	_ = r.Close()
	<-written
	if failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return nil, failed // which the store has in its own words, or has not
	}
	if err != nil {
		return nil, err
	}
	return &builtLayer{compressed: open, digest: v1.Hash{Algorithm: d.Digest.Algorithm(), Hex: d.Digest.Hex()}, diffID: v1.Hash{Algorithm: "sha256", Hex: plain}, size: d.Size}, nil
}

// keepLayer is a LayerStore of temporary files.
func (w *workspace) keepLayer(_ context.Context, r io.Reader) (d artifact.Descriptor, open func() (io.ReadCloser, error), err error) {
	f, err := os.CreateTemp(w.folder, "layer-*")
	if err != nil {
		return d, nil, err
	}
	stored := sha256.New()
	d.Size, err = io.CopyBuffer(io.MultiWriter(f, stored), r, make([]byte, 256<<10))
	d.Digest = artifact.DigestFrom("sha256", stored)
	return d, func() (io.ReadCloser, error) { return os.Open(f.Name()) }, errors.Join(err, f.Close())
}

// packLayer writes a layer and returns the SHA-256 of its tar in hex.
func packLayer(ctx context.Context, w io.Writer, entries []*node, at time.Time) (_ string, err error) {
	z := newCompressor(w)
	defer func() { err = errors.Join(err, z.Close()) }()
	plain := sha256.New()
	layer := layerWriter{archive: tar.NewWriter(io.MultiWriter(z, plain)), at: at, buffer: make([]byte, 256<<10), names: map[*int]*node{}}
	for _, n := range entries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := layer.write(n); err != nil {
			return "", fmt.Errorf("%s: %w", n.path, err)
		}
	}
	if err := layer.archive.Close(); err != nil {
		return "", err
	}
	return hexSum(plain), nil
}

type layerWriter struct {
	archive *tar.Writer
	at      time.Time
	buffer  []byte
	names   map[*int]*node // the first name of each file that has several
}

func (l *layerWriter) write(n *node) error {
	h := &tar.Header{Name: n.path, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: l.at}
	for name, value := range n.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = value
	}
	switch n.kind {
	case artifact.Dir:
		h.Typeflag, h.Name = tar.TypeDir, n.path+"/"
	case artifact.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.target
	case artifact.Device:
		h.Typeflag, h.Devmajor, h.Devminor = n.device.typeflag, n.device.major, n.device.minor
	case artifact.Regular:
		if first := l.names[n.file]; n.file != nil && first != nil && first.mode == n.mode && first.uid == n.uid && first.gid == n.gid {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first.path, nil
			return l.archive.WriteHeader(h)
		}
		l.names[n.file] = n
		return l.file(h, n)
	default:
		return artifact.Errorf(artifact.Invalid, "a %s cannot be copied", n.kind)
	}
	return l.archive.WriteHeader(h)
}

func (l *layerWriter) file(h *tar.Header, n *node) error {
	h.Typeflag, h.Size = tar.TypeReg, n.size
	if err := l.archive.WriteHeader(h); err != nil {
		return err
	}
	r, err := n.content.open()
	if err != nil {
		return err
	}
	defer r.Close()
	// Without the wrapper the file's WriteTo would be asked, which copies with a small buffer of its own.
	_, err = io.CopyBuffer(l.archive, struct{ io.Reader }{r}, l.buffer)
	return err
}
