package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// fileLayer is a v1.Layer in a temporary file.
type fileLayer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path)
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

// writeLayer streams entries, sorted by path, into a gzip-compressed tar in a temporary file. Its bytes follow from the
// entries and the time alone. It holds a few blocks in memory, whatever the sizes.
func (w *workspace) writeLayer(ctx context.Context, entries []*node, at time.Time) (_ *fileLayer, err error) {
	if err := w.prefetch(entries); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(w.folder, "layer-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stored, plain := sha256.New(), sha256.New()
	counted := &counter{w: io.MultiWriter(f, stored)}
	z := newCompressor(counted)
	defer func() { err = errors.Join(err, z.Close()) }()
	layer := layerWriter{archive: tar.NewWriter(io.MultiWriter(z, plain)), at: at, buffer: make([]byte, 256<<10), names: map[*int]*node{}}
	for _, n := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := layer.write(n); err != nil {
			return nil, fmt.Errorf("%s: %w", n.path, err)
		}
	}
	if err := errors.Join(layer.archive.Close(), z.Close()); err != nil {
		return nil, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }
	return &fileLayer{path: f.Name(), digest: hash(stored.Sum(nil)), diffID: hash(plain.Sum(nil)), size: counted.n}, nil
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

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
