package registry

import (
	"context"
	"io"
	"os"
	"time"

	"waybill/artifact"
)

// StatBlob returns a blob's size, in bytes, to one who may have it. One who may push asks before a push, and leaves out
// of it what is here: so what is here stays for a grace period.
func (r *Registry) StatBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) (int64, error) {
	if err := r.cfg.Gate.Pull(ctx, p, repository, digest); err != nil {
		return 0, err
	}
	if err := r.served(ctx, repository, digest); err != nil {
		return 0, err
	}
	if ofMirror(repository) {
		if err := r.repaired(ctx, repository, digest); err != nil {
			return 0, err
		}
	}
	if p.Can(artifact.ActionPush, repository) {
		return r.cfg.Blobs.KeepBlob(ctx, repository, digest)
	}
	return r.cfg.Blobs.Blob(ctx, repository, digest)
}

// OpenBlob opens a blob for one who may have it, as StatBlob does.
func (r *Registry) OpenBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) (*os.File, int64, error) {
	if _, err := r.StatBlob(ctx, p, repository, digest); err != nil {
		return nil, 0, err
	}
	r.pulls.pull(time.Now().UnixNano())
	return r.cfg.Bytes.Open(digest)
}

// DeleteBlob takes a blob from a repository.
func (r *Registry) DeleteBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) error {
	if err := may(p, artifact.ActionDelete, repository); err != nil {
		return err
	}
	return r.cfg.Blobs.UnlinkBlob(ctx, repository, digest)
}

// Blob returns the bytes of a small blob of a repository, such as a config; it asks nobody whether the caller may. One
// over artifact.MaxManifest is TooLarge.
func (r *Registry) Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error) {
	size, err := r.cfg.Blobs.Blob(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	if size > artifact.MaxManifest {
		return nil, artifact.Errorf(artifact.TooLarge, "blob %s has %d bytes; at most %d are read here", digest, size, artifact.MaxManifest)
	}
	file, _, err := r.cfg.Bytes.Open(digest)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, artifact.MaxManifest))
}
