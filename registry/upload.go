package registry

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"waybill/artifact"
)

// StartUpload begins an upload and returns it.
func (r *Registry) StartUpload(ctx context.Context, p artifact.Principal, repository artifact.Repository) (artifact.Upload, error) {
	r.pushing(ctx)
	if err := may(p, artifact.ActionPush, repository); err != nil {
		return artifact.Upload{}, err
	}
	r.cfg.Inspector.Expected(ctx)
	room, err := r.room(ctx, p, repository, false)
	if err != nil {
		return artifact.Upload{}, err
	}
	defer room.settle(0)
	if err := room.take(ctx, 1); err != nil {
		return artifact.Upload{}, err
	}
	u := artifact.Upload{ID: uuid.NewString(), Repository: repository, CreatedBy: p.Name}
	return u, r.cfg.Uploads.CreateUpload(ctx, u)
}

// Upload returns an upload that p started.
func (r *Registry) Upload(ctx context.Context, p artifact.Principal, repository artifact.Repository, id string) (artifact.Upload, error) {
	if err := may(p, artifact.ActionPush, repository); err != nil {
		return artifact.Upload{}, err
	}
	u, err := r.cfg.Uploads.Upload(ctx, repository, id)
	if err == nil && u.CreatedBy != p.Name {
		err = artifact.Coded(artifact.NotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload in %s", repository)
	}
	return u, err
}

// Range is where a chunk says it goes: its first byte and its last. A nil *Range says nothing.
type Range struct{ First, Last int64 }

// errBusy answers the second of two requests that continue one upload at once.
var errBusy = artifact.Coded(artifact.Conflict, "BLOB_UPLOAD_INVALID", "another request is writing to this upload; ask for its status and go on from there")

// giveWay is how long one that yields may take to store how far it was.
const giveWay = 5 * time.Second

// hold takes an upload for a request of p. Who has it gives way if its client has gone silent, or to a cancel.
func (r *Registry) hold(ctx context.Context, p artifact.Principal, repository artifact.Repository, id string, body io.Reader, cancel bool) (release func(), err error) {
	mine, _ := body.(yielding)
	waiting, done := context.WithTimeout(ctx, giveWay)
	defer done()
	for {
		release, other := r.uploading.try(id, mine)
		if other == nil {
			return release, nil
		}
		if _, err := r.Upload(ctx, p, repository, id); err != nil {
			return nil, err // whoever may not go on with it ends nobody's request
		}
		if !r.uploading.yield(id, other, cancel) {
			return nil, errBusy
		}
		select {
		case <-other.gone:
		case <-waiting.Done():
			return nil, errBusy
		}
	}
}

// Append writes a chunk to an upload. What was received of a body that broke is kept: the client asks for the status
// and goes on from there.
func (r *Registry) Append(ctx context.Context, p artifact.Principal, repository artifact.Repository, id string, at *Range, body io.Reader) (artifact.Upload, error) {
	r.pushing(ctx)
	release, err := r.hold(ctx, p, repository, id, body, false)
	if err != nil {
		return artifact.Upload{}, err
	}
	defer release()
	u, err := r.Upload(ctx, p, repository, id)
	if err != nil {
		return u, err
	}
	return r.append(ctx, p, u, at, body)
}

func (r *Registry) append(ctx context.Context, p artifact.Principal, u artifact.Upload, at *Range, body io.Reader) (artifact.Upload, error) {
	length := announced(body)
	if at != nil {
		if at.First != u.Offset {
			return u, artifact.Coded(artifact.Conflict, "RANGE_INVALID", "the chunk starts at byte %d, the upload is at %d", at.First, u.Offset)
		}
		length = at.Last - at.First + 1
		body = &exactly{r: body, left: length}
	}
	room, err := r.room(ctx, p, u.Repository, false)
	if err != nil {
		return u, err
	}
	begun := u.Offset
	defer func() { room.settle(u.Offset - begun) }()
	var next Progress
	if body, err = room.bound(ctx, body, length); err == nil {
		next, err = r.cfg.Bytes.Append(ctx, u.ID, Progress{Offset: u.Offset, State: u.State}, body)
	}
	if room.refused() || artifact.KindOf(err) == artifact.Full {
		return u, r.tooMuch(ctx, u, err)
	}
	if next.Offset > u.Offset {
		// The request may be gone; what it brought is kept all the same.
		if saved := r.cfg.Uploads.AdvanceUpload(context.WithoutCancel(ctx), u.ID, u.Offset, next.Offset, next.State); saved != nil {
			return u, errors.Join(err, saved)
		}
		u.Offset, u.State = next.Offset, next.State
	}
	if err != nil {
		err = brokeOff(err, "ask for the upload's status and go on from there")
	}
	return u, err
}

// brokeOff is the answer to a body that did not come to its end. What failed here, and not on the way, keeps its kind, or
// has none.
func brokeOff(err error, what string) error {
	if artifact.KindOf(err) != "" || errors.As(err, new(*fs.PathError)) {
		return err
	}
	return &artifact.Error{Kind: artifact.Invalid, Code: "BLOB_UPLOAD_INVALID", Message: "the body broke off; " + what, Err: err}
}

// FinishUpload writes the last chunk, if there is one, and makes the upload the blob of a digest.
func (r *Registry) FinishUpload(ctx context.Context, p artifact.Principal, repository artifact.Repository, id string, at *Range, body io.Reader, digest artifact.Digest) (artifact.Descriptor, error) {
	r.pushing(ctx)
	release, err := r.hold(ctx, p, repository, id, body, false)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	defer release()
	u, err := r.Upload(ctx, p, repository, id)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	if u, err = r.append(ctx, p, u, at, body); err != nil {
		return artifact.Descriptor{}, err
	}
	return r.commit(ctx, u, digest)
}

// commit: bytes first, durably, then the row. A crash in between leaves bytes without a row, which nobody sees, and which
// are collected. A collector that is about to drop the very bytes waits, or is waited for (BlobRows.SaveBlob).
func (r *Registry) commit(ctx context.Context, u artifact.Upload, digest artifact.Digest) (artifact.Descriptor, error) {
	publish, err := r.cfg.Bytes.Commit(ctx, u.ID, Progress{Offset: u.Offset, State: u.State}, digest)
	if err != nil {
		switch artifact.KindOf(err) {
		case artifact.Invalid:
			_ = r.cfg.Uploads.DeleteUpload(ctx, u.ID)
		case artifact.Full:
			err = r.tooMuch(ctx, u, err)
		}
		return artifact.Descriptor{}, err
	}
	if err := r.cfg.Blobs.SaveBlob(ctx, u.Repository, digest, u.Offset, u.ID, publish); err != nil {
		return artifact.Descriptor{}, err
	}
	r.cfg.Inspector.Arrived(ctx, digest, u.Offset)
	return artifact.Descriptor{Digest: digest, Size: u.Offset}, nil
}

// PutBlob writes a whole blob in one go.
func (r *Registry) PutBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, body io.Reader, digest artifact.Digest) (artifact.Descriptor, error) {
	return r.putBlob(ctx, p, repository, body, func(Progress) (artifact.Digest, error) { return digest, nil })
}

// PutStream writes a blob of whatever digest its bytes come to: one that is made while it is written.
func (r *Registry) PutStream(ctx context.Context, p artifact.Principal, repository artifact.Repository, body io.Reader) (artifact.Descriptor, error) {
	r.cfg.Inspector.Expected(ctx)
	return r.putBlob(ctx, p, repository, body, func(at Progress) (artifact.Digest, error) {
		sum := artifact.NewHash("sha256")
		if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(at.State); err != nil {
			return artifact.Digest{}, fmt.Errorf("the digest of an upload: %w", err)
		}
		return artifact.DigestFrom("sha256", sum), nil
	})
}

func (r *Registry) putBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, body io.Reader, digest func(Progress) (artifact.Digest, error)) (artifact.Descriptor, error) {
	r.pushing(ctx)
	if err := may(p, artifact.ActionPush, repository); err != nil {
		return artifact.Descriptor{}, err
	}
	room, err := r.room(ctx, p, repository, false)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	var stored int64
	defer func() { room.settle(stored) }()
	if body, err = room.bound(ctx, body, announced(body)); err != nil {
		return artifact.Descriptor{}, err
	}
	u := artifact.Upload{ID: uuid.NewString(), Repository: repository, CreatedBy: p.Name}
	next, err := r.cfg.Bytes.Append(ctx, u.ID, Progress{}, body)
	if err != nil {
		_ = r.cfg.Bytes.Cancel(u.ID)
		return artifact.Descriptor{}, brokeOff(err, "push the blob again")
	}
	u.Offset, u.State = next.Offset, next.State
	is, err := digest(next)
	if err != nil {
		return artifact.Descriptor{}, err
	}
	d, err := r.commit(ctx, u, is)
	if err == nil {
		stored = d.Size
	}
	return d, err
}

// CancelUpload drops an upload and what it brought.
func (r *Registry) CancelUpload(ctx context.Context, p artifact.Principal, repository artifact.Repository, id string) error {
	release, err := r.hold(ctx, p, repository, id, nil, true)
	if err != nil {
		return err
	}
	defer release()
	if _, err := r.Upload(ctx, p, repository, id); err != nil {
		return err
	}
	if err := r.cfg.Uploads.DeleteUpload(ctx, id); err != nil {
		return err
	}
	return r.cfg.Bytes.Cancel(id)
}

// Mount gives a repository a blob that another has, if p may read it there; from may be the zero Repository, which
// means any. mounted is false when it must be uploaded.
func (r *Registry) Mount(ctx context.Context, p artifact.Principal, repository, from artifact.Repository, digest artifact.Digest) (mounted bool, err error) {
	if err := may(p, artifact.ActionPush, repository); err != nil {
		return false, err
	}
	sources := []artifact.Repository{from}
	if from.IsZero() {
		if sources, err = r.cfg.Blobs.BlobRepositories(ctx, digest); err != nil {
			return false, err
		}
	}
	for _, source := range sources {
		size, ok := r.reads(ctx, p, source, digest)
		if ok {
			return r.link(ctx, p, repository, digest, size)
		}
	}
	return false, nil
}

// link gives a repository a blob that another has, within its quota.
func (r *Registry) link(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest, size int64) (linked bool, err error) {
	room, err := r.room(ctx, p, repository, true)
	if err != nil {
		return false, err
	}
	var stored int64
	defer func() { room.settle(stored) }()
	if room != nil {
		if _, err := r.cfg.Blobs.Blob(ctx, repository, digest); err == nil {
			size = 0 // it has it already
		}
		if err := room.take(ctx, size); err != nil {
			return false, err
		}
	}
	if linked, err = r.cfg.Blobs.LinkBlob(ctx, repository, digest); linked {
		stored = size
	}
	return linked, err
}

// MountSource returns a repository from which p may mount a blob.
func (r *Registry) MountSource(ctx context.Context, p artifact.Principal, digest artifact.Digest) (from artifact.Repository, found bool, err error) {
	sources, err := r.cfg.Blobs.BlobRepositories(ctx, digest)
	for _, source := range sources {
		if _, ok := r.reads(ctx, p, source, digest); ok {
			return source, true, nil
		}
	}
	return artifact.Repository{}, false, err
}

// reads reports whether a repository has a blob and p may read it there.
func (r *Registry) reads(ctx context.Context, p artifact.Principal, source artifact.Repository, digest artifact.Digest) (size int64, ok bool) {
	if r.cfg.Gate.Pull(ctx, p, source, digest) != nil || r.served(ctx, source, digest) != nil {
		return 0, false
	}
	size, err := r.cfg.Blobs.Blob(ctx, source, digest)
	return size, err == nil
}

// exactly reads a chunk of an announced length: fewer bytes and more are errors.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(b []byte) (int, error) {
	if e.left == 0 {
		if n, err := e.r.Read(make([]byte, 1)); n > 0 {
			return 0, artifact.Coded(artifact.Invalid, "SIZE_INVALID", "the body is longer than its Content-Range says")
		} else if err != nil {
			return 0, err
		}
		return 0, nil
	}
	n, err := e.r.Read(b[:min(int64(len(b)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		return n, artifact.Coded(artifact.Invalid, "SIZE_INVALID", "the body is %d bytes shorter than its Content-Range says", e.left)
	}
	return n, err
}
