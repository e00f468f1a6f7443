package blob

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"

	"waybill/artifact"
)

// File is a Store on a file system: <algorithm>/<first two digits>/<digits> are blobs and uploads/<id> uploads;
// aside/<algorithm>-<digits> and quarantine/<algorithm>-<digits> is what was taken from them.
type File struct {
	root  string
	made  sync.Map // folders that are there and durable
	wrote written
}

// NewFile opens the store in a folder, which it makes.
func NewFile(root string) (*File, error) {
	f := &File{root: root}
	for _, dir := range []string{root, filepath.Join(root, "uploads")} {
		if err := f.folder(dir); err != nil {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	return f, nil
}

// buffers bound what one stream holds in memory.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

var uploadID = regexp.MustCompile(`^[0-9a-f-]{1,64}$`)

func (f *File) upload(id string) (string, error) {
	if !uploadID.MatchString(id) {
		return "", artifact.Coded(artifact.NotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
	}
	return filepath.Join(f.root, "uploads", id), nil
}

func (f *File) path(d artifact.Digest) string {
	return filepath.Join(f.root, d.Algorithm(), d.Hex()[:2], d.Hex())
}

// Append implements Store.
func (f *File) Append(ctx context.Context, id string, at Progress, r io.Reader) (Progress, error) {
	path, err := f.upload(id)
	if err != nil {
		return at, err
	}
	sum, err := resume(at)
	if err != nil {
		return at, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return at, storage(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() < at.Offset {
		return at, errGone
	}
	if err := file.Truncate(at.Offset); err != nil {
		return at, storage(err)
	}
	if _, err := file.Seek(at.Offset, io.SeekStart); err != nil {
		return at, storage(err)
	}
	n, readErr := copyHashing(ctx, file, sum, r)
	state, err := sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return at, err
	}
	f.wrote.moved(id, at.Offset, at.Offset+n)
	return Progress{Offset: at.Offset + n, State: state}, readErr
}

// copyHashing copies r to file. While one buffer is hashed, the next is read and written.
func copyHashing(ctx context.Context, file *os.File, sum hash.Hash, r io.Reader) (total int64, err error) {
	var hashing sync.WaitGroup
	defer hashing.Wait()
	buffer, other := buffers.Get().(*[64 << 10]byte), buffers.Get().(*[64 << 10]byte)
	defer func() { hashing.Wait(); buffers.Put(buffer); buffers.Put(other) }()
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, readErr := fill(r, buffer[:])
		if n > 0 {
			if _, err := file.Write(buffer[:n]); err != nil {
				return total, storage(err)
			}
			hashing.Wait()
			chunk := buffer[:n]
			hashing.Go(func() { sum.Write(chunk) })
			buffer, other = other, buffer
			total += int64(n)
		}
		if readErr == io.EOF { //nolint:errorlint // a wrapped EOF is not the end of the body
			return total, nil
		} else if readErr != nil {
			return total, readErr
		}
	}
}

// fill reads until the buffer is full or r ends. Unlike io.ReadFull it keeps r's own error, so that a broken body's
// io.ErrUnexpectedEOF is never taken for an end.
func fill(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var m int
		m, err = r.Read(buffer[n:])
		n += m
	}
	return n, err
}

func resume(at Progress) (hash.Hash, error) {
	sum := sha256.New()
	if at.State == nil {
		return sum, nil
	}
	if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.State); err != nil {
		return nil, fmt.Errorf("resume upload: %w", err)
	}
	return sum, nil
}

// Commit implements Store. A crash before the rename leaves an upload, after it a blob without a row: both are collected.
func (f *File) Commit(_ context.Context, id string, at Progress, digest artifact.Digest) (publish func() error, err error) {
	path, err := f.upload(id)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if at.Offset == 0 {
		flags |= os.O_CREATE // the empty blob may come without a chunk
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	} else if err != nil {
		return nil, storage(err)
	}
	defer file.Close()
	// A file that is too short was collected meanwhile: lengthening it would make zeros of what the state was hashed from.
	if info, err := file.Stat(); err != nil || info.Size() < at.Offset {
		return nil, errGone
	}
	if err := file.Truncate(at.Offset); err != nil {
		return nil, storage(err)
	}
	got, err := f.sum(file, at, digest.Algorithm(), f.wrote.all(id, at.Offset))
	if err != nil {
		return nil, err
	}
	if got != digest {
		f.wrote.forget(id)
		_ = os.Remove(path)
		return nil, artifact.Coded(artifact.Invalid, "DIGEST_INVALID", "the %d bytes received are %s, not %s; the upload is dropped", at.Offset, got, digest)
	}
	if err := file.Sync(); err != nil {
		return nil, storage(err)
	}
	published := false
	return func() error {
		if err := f.publish(path, f.path(digest), published); err != nil {
			return err
		}
		published = true
		f.wrote.forget(id)
		return nil
	}, nil
}

// errGone answers for an upload whose bytes were collected, or lost.
var errGone = artifact.Coded(artifact.NotFound, "BLOB_UPLOAD_UNKNOWN", "the upload's bytes are gone; start it again")

// publish renames an upload to its digest, over a blob that may be there: whatever happened to that one's bytes, these
// were checked just now. again says that it was done before.
func (f *File) publish(upload, target string, again bool) error {
	if err := f.folder(filepath.Dir(target)); err != nil {
		return storage(err)
	}
	err := os.Rename(upload, target)
	if errors.Is(err, fs.ErrNotExist) {
		if _, there := os.Stat(target); !again || there != nil {
			return errGone
		}
	} else if err != nil {
		return storage(err)
	}
	return storage(syncFolder(filepath.Dir(target)))
}

// sum returns the digest of what was uploaded: SHA-256 was computed as it came, anything else is read again, and so is what another
// process wrote a part of.
func (f *File) sum(file *os.File, at Progress, algorithm string, own bool) (artifact.Digest, error) {
	if algorithm == "sha256" && own {
		sum, err := resume(at)
		if err != nil {
			return artifact.Digest{}, err
		}
		return artifact.DigestFrom(algorithm, sum), nil
	}
	sum := artifact.NewHash(algorithm)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return artifact.Digest{}, storage(err)
	}
	if _, err := io.Copy(sum, file); err != nil {
		return artifact.Digest{}, storage(err)
	}
	return artifact.DigestFrom(algorithm, sum), nil
}

// Cancel implements Store.
func (f *File) Cancel(id string) error {
	path, err := f.upload(id)
	if err != nil {
		return nil
	}
	f.wrote.forget(id)
	return absentIsFine(os.Remove(path))
}

// Open implements Store.
func (f *File) Open(digest artifact.Digest) (*os.File, int64, error) {
	file, err := os.Open(f.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "blob %s is not here", digest)
	} else if err != nil {
		return nil, 0, storage(err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, storage(err)
	}
	return file, info.Size(), nil
}

func absentIsFine(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return storage(err)
}

// folder makes a folder and makes that durable.
func (f *File) folder(dir string) error {
	if _, ok := f.made.Load(dir); ok {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := syncFolder(d); err != nil {
			return err
		}
	}
	f.made.Store(dir, true)
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// storage tells a disk that is full or read-only from a bug.
func storage(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &artifact.Error{Kind: artifact.Full, Message: "the registry's disk is full; when its operator has made room, push again", Err: err}
	case errors.Is(err, syscall.EROFS):
		return &artifact.Error{Kind: artifact.Unavailable, Message: "the registry's disk is read-only; when its operator has seen to it, push again", Err: err}
	}
	return fmt.Errorf("blob store: %w", err)
}
