package blob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"waybill/artifact"
)

// Folders of what nothing serves.
const (
	aside      = "aside"
	quarantine = "quarantine"
)

func (f *File) kept(folder string, d artifact.Digest) string {
	return filepath.Join(f.root, folder, d.Algorithm()+"-"+d.Hex())
}

// move renames a file; one that is not there is fine. It waits for no disk: from wherever a power cut leaves the file,
// the next collection goes on.
func (f *File) move(from, to string) error {
	if err := f.folder(filepath.Dir(to)); err != nil {
		return storage(err)
	}
	return absentIsFine(os.Rename(from, to))
}

// SetAside implements Store.
func (f *File) SetAside(digest artifact.Digest) error {
	return f.move(f.path(digest), f.kept(aside, digest))
}

// PutBack implements Store.
func (f *File) PutBack(digest artifact.Digest) error {
	if _, err := os.Stat(f.path(digest)); err == nil {
		return f.Drop(digest)
	}
	if err := f.move(f.kept(aside, digest), f.path(digest)); err != nil {
		return err
	}
	return storage(syncFolder(filepath.Dir(f.path(digest))))
}

// Drop implements Store.
func (f *File) Drop(digest artifact.Digest) error {
	return absentIsFine(os.Remove(f.kept(aside, digest)))
}

// Quarantine implements Store.
func (f *File) Quarantine(digest artifact.Digest) error {
	return f.move(f.kept(aside, digest), f.kept(quarantine, digest))
}

// Aside implements Store.
func (f *File) Aside() ([]artifact.Digest, error) {
	entries, err := list(filepath.Join(f.root, aside))
	var all []artifact.Digest
	for _, e := range entries {
		if d, err := artifact.ParseDigest(strings.Replace(e.Name(), "-", ":", 1)); err == nil {
			all = append(all, d)
		}
	}
	return all, err
}

// Walk implements Store: a folder at a time. What is not named as a blob is none of ours.
func (f *File) Walk(ctx context.Context, visit func([]artifact.Digest) error) error {
	for _, algorithm := range []string{"sha256", "sha512"} {
		folders, err := list(filepath.Join(f.root, algorithm))
		if err != nil {
			return err
		}
		for _, folder := range folders {
			if err := ctx.Err(); err != nil {
				return err
			}
			files, err := list(filepath.Join(f.root, algorithm, folder.Name()))
			if err != nil {
				return err
			}
			var digests []artifact.Digest
			for _, file := range files {
				if d, err := artifact.ParseDigest(algorithm + ":" + file.Name()); err == nil && d.Hex()[:2] == folder.Name() {
					digests = append(digests, d)
				}
			}
			if len(digests) == 0 {
				continue
			}
			if err := visit(digests); err != nil {
				return err
			}
		}
	}
	return nil
}

// Uploads implements Store.
func (f *File) Uploads(visit func(id string, size int64, changed time.Time) error) error {
	entries, err := list(filepath.Join(f.root, "uploads"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !uploadID.MatchString(e.Name()) {
			continue // it ended meanwhile, or is none of ours
		}
		if err := visit(e.Name(), info.Size(), info.ModTime()); err != nil {
			return err
		}
	}
	return nil
}

// list returns what is in a folder; one that is not there, or is a file, is empty.
func list(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return entries, storage(err)
}
