package builder

import (
	"bytes"
	"context"
	"io"
	"sync"

	contents "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageStore is an image as BuildKit asks its client for one: read-only, by digest. BuildKit checks what it gets.
type imageStore struct {
	image v1.Image

	mu sync.Mutex                       // guards what follows
	at map[digest.Digest]*contentReader // where a read of a blob ended, for the next to go on from
}

var _ contents.Store = (*imageStore)(nil)

// open returns a blob's size and how to read it from its start.
func (s *imageStore) open(d digest.Digest) (size int64, open func() (io.ReadCloser, error), err error) {
	hash, err := v1.NewHash(d.String())
	if err != nil {
		return 0, nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	whole := func(b []byte, err error) (int64, func() (io.ReadCloser, error), error) {
		return int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, err
	}
	if own, err := s.image.Digest(); err != nil {
		return 0, nil, err
	} else if own == hash {
		return whole(s.image.RawManifest())
	}
	if config, err := s.image.ConfigName(); err != nil {
		return 0, nil, err
	} else if config == hash {
		return whole(s.image.RawConfigFile())
	}
	layer, err := s.image.LayerByDigest(hash)
	if err != nil {
		return 0, nil, errdefs.ErrNotFound.WithMessage(d.String() + " is not of this image")
	}
	size, err = layer.Size()
	return size, layer.Compressed, err
}

// Info implements contents.InfoProvider.
func (s *imageStore) Info(_ context.Context, d digest.Digest) (contents.Info, error) {
	size, _, err := s.open(d)
	return contents.Info{Digest: d, Size: size}, err
}

// ReaderAt implements contents.Provider. BuildKit asks for a blob in pieces, each anew, one after the other.
func (s *imageStore) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (contents.ReaderAt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.at[desc.Digest]; ok {
		delete(s.at, desc.Digest)
		return r, nil
	}
	size, open, err := s.open(desc.Digest)
	if err != nil {
		return nil, err
	}
	return &contentReader{store: s, digest: desc.Digest, size: size, open: open}, nil
}

// close ends the reads that nobody goes on with.
func (s *imageStore) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.at {
		r.end()
	}
	s.at = nil
}

// contentReader reads a stream at offsets, which go mostly forward.
type contentReader struct {
	store  *imageStore
	digest digest.Digest
	size   int64
	open   func() (io.ReadCloser, error)
	stream io.ReadCloser
	offset int64 // of stream
}

// Size implements contents.ReaderAt.
func (r *contentReader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt, for one caller at a time.
func (r *contentReader) ReadAt(p []byte, offset int64) (int, error) {
	if r.stream == nil || offset < r.offset {
		r.end()
		stream, err := r.open()
		if err != nil {
			return 0, err
		}
		r.stream, r.offset = stream, 0
	}
	skipped, err := io.CopyN(io.Discard, r.stream, offset-r.offset)
	r.offset += skipped
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.stream, p)
	r.offset += int64(n)
	if err == io.ErrUnexpectedEOF { //nolint:errorlint // as ReadFull returns it
		err = io.EOF
	}
	return n, err
}

// Close keeps the stream for the next read, unless it is at its end.
func (r *contentReader) Close() error {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if r.stream == nil || r.offset >= r.size {
		r.end()
		return nil
	}
	if other, ok := r.store.at[r.digest]; ok {
		other.end()
	}
	if r.store.at == nil {
		r.store.at = map[digest.Digest]*contentReader{}
	}
	r.store.at[r.digest] = r
	return nil
}

func (r *contentReader) end() {
	if r.stream != nil {
		_ = r.stream.Close()
		r.stream = nil
	}
}

// What follows would change the store, or list it.

func (*imageStore) Update(context.Context, contents.Info, ...string) (contents.Info, error) {
	return contents.Info{}, errdefs.ErrNotImplemented
}
func (*imageStore) Walk(context.Context, contents.WalkFunc, ...string) error {
	return errdefs.ErrNotImplemented
}
func (*imageStore) Delete(context.Context, digest.Digest) error { return errdefs.ErrNotImplemented }
func (*imageStore) Status(context.Context, string) (contents.Status, error) {
	return contents.Status{}, errdefs.ErrNotImplemented
}
func (*imageStore) ListStatuses(context.Context, ...string) ([]contents.Status, error) {
	return nil, errdefs.ErrNotImplemented
}
func (*imageStore) Abort(context.Context, string) error { return errdefs.ErrNotImplemented }
func (*imageStore) Writer(context.Context, ...contents.WriterOpt) (contents.Writer, error) {
	return nil, errdefs.ErrNotImplemented
}
