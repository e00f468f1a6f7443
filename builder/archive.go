package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"waybill/artifact"
)

// archive unpacks a local tar, compressed or not, into a folder, as ADD does; done is false when the file is none, and
// is then copied. The entries keep their owners, unless --chown gives others, and their modes.
func (c *copying) archive(name, dest string) (done bool, err error) {
	at, err := c.from.resolve(name, true)
	if err != nil {
		return false, err
	}
	n := c.from.get(at)
	if n == nil || n.kind != artifact.Regular {
		return false, nil
	}
	from := &source{func() (io.ReadCloser, error) {
		r, err := n.content.open()
		if err != nil {
			return nil, err
		}
		return plainTar(r)
	}, c.work}
	if is, err := isTar(from); err != nil || !is {
		return false, err
	}
	if err := c.mkdirAs(dest, 0o755); err != nil { // --chmod is for files that are no archives
		return true, err
	}
	top, err := c.files.resolve(dest, true)
	if err != nil {
		return true, err
	}
	unpacked := int64(0) // all of it is fetched in the end: no need to read to the end of a bomb
	return true, from.list(func(n *node, _ *tar.Header) error {
		if unpacked += n.size; unpacked > c.work.limit {
			return c.work.tooMuch()
		}
		return c.extract(top, n)
	})
}

// extract puts an entry below the folder top. Nothing gets out of it: paths that climb are refused when they are read,
// links are followed as if top were the root, and one that is made to point out of it is refused.
func (c *copying) extract(top string, n *node) error {
	if strings.HasPrefix(path.Base(n.path), whiteoutPrefix) {
		return artifact.Errorf(artifact.Invalid, "the archive's %.200q cannot be in an image: names that begin with %s stand for removed files in layers", n.path, whiteoutPrefix)
	}
	if n.kind == artifact.Symlink && !path.IsAbs(n.target) && climbs(path.Join(path.Dir(n.path), n.target)) {
		return artifact.Errorf(artifact.Invalid, "the archive's link %.200q leads to %.200q, which is outside of it", n.path, n.target)
	}
	if c.owner != nil {
		n.uid, n.gid = c.owner.uid, c.owner.gid
	}
	if err := c.lead(top, n.path); err != nil {
		return err
	}
	if err := c.files.extract(top, n); err != nil {
		return err
	}
	c.changed[n.path] = true
	return nil
}

// lead makes the folders that an archive does not name.
func (c *copying) lead(top, p string) error {
	dir, err := c.files.leading(top, parent(p))
	if err != nil {
		return err
	}
	if isDir(c.files.get(dir)) {
		return nil
	}
	for _, d := range append(parents(dir), dir) {
		if c.files.get(d) == nil {
			c.set(&node{path: d, kind: artifact.Dir, mode: 0o755})
		}
	}
	return nil
}

func climbs(p string) bool { return p == ".." || strings.HasPrefix(p, "../") }

// isTar says whether a file is an archive that ADD unpacks: one whose first header can be read.
func isTar(from *source) (bool, error) {
	plain, err := from.stream()
	if err != nil {
		if artifact.KindOf(err) != "" {
			return false, err
		}
		return false, nil // it only begins like a compressed file
	}
	defer plain.Close()
	if _, err = tar.NewReader(plain).Next(); artifact.KindOf(err) != "" {
		return false, err
	}
	return err == nil, nil
}

// plainTar returns what a file holds, decompressed if it is compressed.
func plainTar(file io.ReadCloser) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(file, 64<<10)
	head, err := r.Peek(6)
	if err != nil && err != io.EOF { //nolint:errorlint // Peek returns it as it is
		return nil, err
	}
	var plain io.Reader = r
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		plain, err = gzip.NewReader(r)
	case bytes.HasPrefix(head, []byte("BZh")):
		plain, err = bzip2.NewReader(r), nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			plain = z.IOReadCloser()
		}
	case bytes.HasPrefix(head, xzMagic):
		plain, err = newXZReader(r)
	default:
		err = nil
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, file}, nil
}
