package builder

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"waybill/artifact"
)

// Folder keeps contexts in files, in a folder that all replicas share.
type Folder struct{ path string }

// OpenFolder opens a folder, which it makes, and removes what no build can need any more.
func OpenFolder(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("build contexts: %w", err)
	}
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keepContexts {
			_ = os.Remove(filepath.Join(path, e.Name()))
		}
	}
	return &Folder{path}, err
}

// keepContexts is longer than any build waits.
const keepContexts = 7 * 24 * time.Hour

func (f *Folder) file(d artifact.Digest) string { return filepath.Join(f.path, d.Hex()+".tar") }

// Put implements Contexts. Each has a name of its own, so that who is done with one deletes no other's. A crash leaves a file that OpenFolder removes.
func (f *Folder) Put(_ context.Context, r io.Reader) (d artifact.Digest, err error) {
	file, err := os.CreateTemp(f.path, "new-")
	if err != nil {
		return d, err
	}
	defer os.Remove(file.Name()) // it has another name when all went well
	sum := sha256.New()
	_, _ = io.WriteString(sum, rand.Text())
	_, err = io.Copy(io.MultiWriter(file, sum), r)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return d, err
	}
	d = artifact.DigestFrom("sha256", sum)
	return d, os.Rename(file.Name(), f.file(d))
}

// Open implements Contexts.
func (f *Folder) Open(d artifact.Digest) (io.ReadCloser, error) { return os.Open(f.file(d)) }

// Delete implements Contexts.
func (f *Folder) Delete(_ context.Context, d artifact.Digest) error {
	if err := os.Remove(f.file(d)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// packSent writes the context as it was sent, with what is ignored, for whoever plans the build anew.
func (p *Plan) packSent(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, name := range p.sent.sorted() {
		n := p.sent.nodes[name]
		h := &tar.Header{Name: name, Mode: n.mode, Format: tar.FormatPAX, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Size: n.size}
		switch n.kind {
		case artifact.Dir:
			h.Typeflag, h.Name, h.Size = tar.TypeDir, name+"/", 0
		case artifact.Symlink:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, n.target, 0
		}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		r, err := n.content.open()
		if err != nil {
			return err
		}
		_, err = io.Copy(archive, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return archive.Close()
}
