// Package blob keeps blob bytes: hashed and bounded while they stream, fsynced, then renamed to their digest. Its
// caller keeps the state of an upload, so that any replica that sees the same files continues any upload.
package blob

import (
	"context"
	"io"
	"os"

	"waybill/artifact"
)

// Store is what a back end offers. Blobs are immutable: a digest is absent, or has its bytes.
type Store interface {
	// Append writes r to an upload at an offset, dropping what an earlier, unacknowledged attempt left beyond it. It
	// returns how far the upload is now and the SHA-256 state up to there, also when r fails in the middle: what was
	// read is kept. One caller at a time per upload.
	Append(ctx context.Context, id string, at Progress, r io.Reader) (Progress, error)
	// Commit makes an upload the blob of a digest, durably: when it returns nil, the bytes survive a power cut. Bytes
	// that are not of that digest are an Invalid error, and are dropped. Committing what is there already is fine.
	Commit(ctx context.Context, id string, at Progress, digest artifact.Digest) error
	// Cancel drops an upload; one that is not there is fine.
	Cancel(id string) error
	// Open returns a blob and its size in bytes, or a NotFound error.
	Open(digest artifact.Digest) (*os.File, int64, error)
	// Remove drops a blob; one that is not there is fine.
	Remove(digest artifact.Digest) error
}

// Progress is how far an upload is.
type Progress = artifact.Progress
