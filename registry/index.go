package registry

import (
	"bytes"
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"waybill/artifact"
)

// PutIndex pushes an index and its images from within the process, by the same rules as any push: the images first,
// without a tag.
func (r *Registry) PutIndex(ctx context.Context, p artifact.Principal, repository artifact.Repository, tags []artifact.Tag, index v1.ImageIndex) (artifact.Digest, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return artifact.Digest{}, err
	}
	for _, d := range m.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return artifact.Digest{}, err
		}
		if _, err := r.PutImage(ctx, p, repository, nil, image); err != nil {
			return artifact.Digest{}, fmt.Errorf("%s: %w", d.Platform, err)
		}
	}
	body, err := index.RawManifest()
	if err != nil {
		return artifact.Digest{}, err
	}
	return r.putBuilt(ctx, p, repository, tags, index, body)
}

// described is an image or an index.
type described interface {
	MediaType() (types.MediaType, error)
}

// putBuilt pushes a manifest by its digest and tags.
func (r *Registry) putBuilt(ctx context.Context, p artifact.Principal, repository artifact.Repository, tags []artifact.Tag, of described, body []byte) (artifact.Digest, error) {
	mediaType, err := of.MediaType()
	if err != nil {
		return artifact.Digest{}, err
	}
	ref := artifact.Reference{Repository: repository, Digest: artifact.DigestOf(body)}
	if len(tags) > 0 {
		ref.Tag = tags[0]
		tags = tags[1:]
	}
	pushed, err := r.PutManifest(ctx, p, ref, string(mediaType), body, tags)
	return pushed.Digest, err
}

// Index returns a stored index, its images read when they are asked for; it asks nobody whether the caller may.
func (r *Registry) Index(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (v1.ImageIndex, error) {
	stored, err := r.cfg.Manifests.Manifest(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	if !stored.Manifest.IsIndex() {
		return nil, artifact.Errorf(artifact.Invalid, "%s@%s is an image, not an index", repository, digest)
	}
	return &storedIndex{ctx: ctx, registry: r, stored: stored}, nil
}

// storedIndex is a v1.ImageIndex over the store. It keeps the context since that interface takes none.
type storedIndex struct {
	ctx      context.Context //nolint:containedctx // go-containerregistry's interface has no place for one
	registry *Registry
	stored   artifact.StoredManifest
}

func (i *storedIndex) MediaType() (types.MediaType, error) {
	return types.MediaType(i.stored.Manifest.MediaType), nil
}
func (i *storedIndex) Digest() (v1.Hash, error)     { return v1.NewHash(i.stored.Digest.String()) }
func (i *storedIndex) Size() (int64, error)         { return int64(len(i.stored.Body)), nil }
func (i *storedIndex) RawManifest() ([]byte, error) { return i.stored.Body, nil }

func (i *storedIndex) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(i.stored.Body))
}

func (i *storedIndex) Image(h v1.Hash) (v1.Image, error) {
	digest, err := artifact.ParseDigest(h.String())
	if err != nil {
		return nil, err
	}
	return i.registry.Image(i.ctx, i.stored.Repository, digest)
}

func (i *storedIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	digest, err := artifact.ParseDigest(h.String())
	if err != nil {
		return nil, err
	}
	return i.registry.Index(i.ctx, i.stored.Repository, digest)
}
