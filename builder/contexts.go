package builder

import (
	"context"
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

// Put implements Contexts. A crash leaves a file that OpenFolder removes.
func (f *Folder) Put(_ context.Context, r io.Reader) (d artifact.Digest, err error) {
	file, err := os.CreateTemp(f.path, "new-")
	if err != nil {
		return d, err
	}
	defer os.Remove(file.Name()) // it has another name when all went well
	sum := sha256.New()
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
