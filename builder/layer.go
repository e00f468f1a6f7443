package builder

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	mediaType      types.MediaType
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
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
// entries and the time alone. It holds one buffer in memory, whatever the sizes.
func writeLayer(temp string, entries []*node, at time.Time, mediaType types.MediaType) (_ *fileLayer, err error) {
	f, err := os.CreateTemp(temp, "layer-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stored, plain := sha256.New(), sha256.New()
	counted := &counter{w: io.MultiWriter(f, stored)}
	z, err := gzip.NewWriterLevel(counted, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(io.MultiWriter(z, plain))
	slices.SortStableFunc(entries, func(a, b *node) int {
		if a.path < b.path {
			return -1
		}
		return 1
	})
	for _, n := range entries {
		if err := writeEntry(archive, n, at); err != nil {
			return nil, fmt.Errorf("%s: %w", n.path, err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		return nil, err
	}
	hash := func(sum []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)} }
	return &fileLayer{path: f.Name(), digest: hash(stored.Sum(nil)), diffID: hash(plain.Sum(nil)), size: counted.n, mediaType: mediaType}, nil
}

func writeEntry(archive *tar.Writer, n *node, at time.Time) error {
	h := &tar.Header{Name: n.path, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: at, Linkname: n.target}
	switch n.kind {
	case artifact.Dir:
		h.Typeflag, h.Name = tar.TypeDir, n.path+"/"
	case artifact.Symlink:
		h.Typeflag = tar.TypeSymlink
	case artifact.Hardlink:
		h.Typeflag = tar.TypeLink
	case artifact.Regular:
		h.Typeflag, h.Size = tar.TypeReg, n.size
	default:
		return artifact.Errorf(artifact.Invalid, "a %s cannot be copied", n.kind)
	}
	if err := archive.WriteHeader(h); err != nil || n.kind != artifact.Regular {
		return err
	}
	r, err := n.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(archive, r)
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

// maxStageBytes bounds what is unpacked of a base or stage to copy from it.
const maxStageBytes = 20 << 30

// loadTree lists the files of a stage, given its flattened tar; contents go to temporary files, for copies and for
// /etc/passwd.
func loadTree(flattened io.Reader, temp string) (*tree, error) {
	t := newTree()
	archive, total := tar.NewReader(flattened), int64(0)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, err
		}
		if total += h.Size; total > maxStageBytes {
			return nil, artifact.Errorf(artifact.TooLarge, "the stage is larger than %d GiB", maxStageBytes>>30)
		}
		parts := splitPath(h.Name)
		if len(parts) == 0 || slices.Contains(parts, "..") {
			continue
		}
		n := &node{path: joinParts(parts), mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, target: h.Linkname}
		switch h.Typeflag {
		case tar.TypeDir:
			n.kind = artifact.Dir
		case tar.TypeSymlink:
			n.kind = artifact.Symlink
		case tar.TypeLink:
			original, ok := t.nodes[joinParts(splitPath(h.Linkname))]
			if !ok {
				continue
			}
			n.kind, n.size, n.open, n.target = artifact.Regular, original.size, original.open, ""
		case tar.TypeReg:
			if err := spool(n, archive, temp); err != nil {
				return nil, err
			}
		default:
			n.kind = artifact.Device
		}
		t.put(n)
	}
}

func spool(n *node, content io.Reader, temp string) (err error) {
	f, err := os.CreateTemp(temp, "file-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n.kind = artifact.Regular
	n.size, err = io.Copy(f, content)
	name := f.Name()
	n.open = func() (io.ReadCloser, error) { return os.Open(name) }
	return err
}
