// Package blob keeps blob bytes: hashed and bounded while they stream, fsynced, then renamed to their digest. Its
// caller keeps the state of an upload, so that any replica that sees the same files continues any upload.
package blob

import (
	"context"
	"io"
	"os"
	"time"

	"waybill/artifact"
)

// Store is what a back end offers. Blobs are immutable: a digest is absent, or has its bytes.
type Store interface {
	// Append writes r to an upload at an offset, dropping what an earlier, unacknowledged attempt left beyond it. It
	// returns how far the upload is now and the SHA-256 state up to there, also when r fails in the middle: what was
	// read is kept. One caller at a time per upload.
	Append(ctx context.Context, id string, at Progress, r io.Reader) (Progress, error)
	// Commit checks an upload's bytes and makes them durable; bytes that are not of that digest are an Invalid error, and
	// are dropped. Nobody sees them before publish, which is quick, makes them the digest's blob, in place of one that is
	// there already. Its caller keeps collectors away from the digest until a row says that the blob is here. When
	// publish returned nil, the blob survives a power cut; publishing again is fine.
	Commit(ctx context.Context, id string, at Progress, digest artifact.Digest) (publish func() error, err error)
	// Cancel drops an upload; one that is not there is fine.
	Cancel(id string) error
	// Open returns a blob and its size in bytes, or a NotFound error.
	Open(digest artifact.Digest) (*os.File, int64, error)

	// SetAside takes a blob out of sight, so that its caller can make sure that nobody needs it, and then drop it, or put
	// it back, or keep it in quarantine. Each of the four is atomic; what is not there is fine.
	SetAside(digest artifact.Digest) error
	// PutBack undoes SetAside; a blob that was published meanwhile stays instead.
	PutBack(digest artifact.Digest) error
	// Drop ends what SetAside began.
	Drop(digest artifact.Digest) error
	// Quarantine keeps what was set aside for people to look at; nothing serves it.
	Quarantine(digest artifact.Digest) error
	// Aside lists what is set aside: by somebody who is at it, or by one who was killed.
	Aside() ([]artifact.Digest, error)

	// Walk visits every blob, some at a time. What comes or goes meanwhile is visited or not.
	Walk(ctx context.Context, visit func([]artifact.Digest) error) error
	// Uploads visits every upload's bytes, with their number and when the last of them came.
	Uploads(visit func(id string, size int64, changed time.Time) error) error
}

// Progress is how far an upload is.
type Progress = artifact.Progress
