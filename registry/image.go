package registry

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"waybill/artifact"
)

// Expect says that a push follows soon, so that what inspects it can be started meanwhile.
func (r *Registry) Expect(ctx context.Context) { r.pushing(ctx) }

// PutImage pushes an image from within the process, by the same rules as any push.
func (r *Registry) PutImage(ctx context.Context, p artifact.Principal, repository artifact.Repository, tags []artifact.Tag, img v1.Image) (artifact.Digest, error) {
	_, body, err := r.putContent(ctx, p, repository, img)
	if err != nil {
		return artifact.Digest{}, err
	}
	return r.putBuilt(ctx, p, repository, tags, img, body)
}

// putContent pushes an image's blobs, and returns its manifest.
func (r *Registry) putContent(ctx context.Context, p artifact.Principal, repository artifact.Repository, img v1.Image) (mediaType string, body []byte, err error) {
	layers, err := img.Layers()
	if err != nil {
		return "", nil, err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return "", nil, err
	}
	// At once, as clients do: while one is inspected, the next is written.
	writing, within := errgroup.WithContext(ctx)
	writing.SetLimit(3)
	for _, layer := range append(layers, config) {
		writing.Go(func() error { return r.putLayer(within, p, repository, layer) })
	}
	if err := writing.Wait(); err != nil {
		return "", nil, err
	}
	if body, err = img.RawManifest(); err != nil {
		return "", nil, err
	}
	mt, err := img.MediaType()
	return string(mt), body, err
}

// putLayer writes a layer, unless the repository, or one that p may read, has it.
func (r *Registry) putLayer(ctx context.Context, p artifact.Principal, repository artifact.Repository, layer v1.Layer) error {
	hash, err := layer.Digest()
	if err != nil {
		return err
	}
	digest, err := artifact.ParseDigest(hash.String())
	if err != nil {
		return err
	}
	if has, err := r.has(ctx, p, repository, layer, digest); err != nil || has {
		return err
	}
	body, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = r.PutBlob(ctx, p, repository, body, digest)
	return err
}

// worthMounting is from what size on, in bytes, a blob is looked for elsewhere before it is written: to write a signature or
// a config takes less than to ask who has one like it.
const worthMounting = 256 << 10

// has reports whether the repository has a layer by now, which it is given if another that p may read has it.
func (r *Registry) has(ctx context.Context, p artifact.Principal, repository artifact.Repository, layer v1.Layer, digest artifact.Digest) (bool, error) {
	if err := may(p, artifact.ActionPush, repository); err != nil {
		return false, err
	}
	_, err := r.cfg.Blobs.KeepBlob(ctx, repository, digest)
	if err == nil || artifact.KindOf(err) != artifact.NotFound {
		return err == nil, err
	}
	if size, err := layer.Size(); err != nil || size < worthMounting {
		return false, err
	}
	return r.Mount(ctx, p, repository, artifact.Repository{}, digest)
}

// Image returns a stored image, its layers read when they are asked for; it asks nobody whether the caller may.
func (r *Registry) Image(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (v1.Image, error) {
	stored, err := r.cfg.Manifests.Manifest(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	if stored.Manifest.Config == nil {
		return nil, artifact.Errorf(artifact.Invalid, "%s@%s is an index, not an image", repository, digest)
	}
	return partial.CompressedToImage(&storedImage{ctx: ctx, registry: r, stored: stored})
}

// storedImage is a partial.CompressedImageCore over the store. It keeps the context since that interface takes none.
type storedImage struct {
	ctx      context.Context //nolint:containedctx // go-containerregistry's interface has no place for one
	registry *Registry
	stored   artifact.StoredManifest
}

func (i *storedImage) RawManifest() ([]byte, error) { return i.stored.Body, nil }

func (i *storedImage) MediaType() (types.MediaType, error) {
	return types.MediaType(i.stored.Manifest.MediaType), nil
}

func (i *storedImage) RawConfigFile() ([]byte, error) {
	return i.registry.Blob(i.ctx, i.stored.Repository, i.stored.Manifest.Config.Digest)
}

func (i *storedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range i.stored.Manifest.Blobs() {
		if d.Digest.String() == h.String() {
			return &storedLayer{i.registry, d}, nil
		}
	}
	return nil, fmt.Errorf("image %s has no layer %s", i.stored.Digest, h)
}

type storedLayer struct {
	registry   *Registry
	descriptor artifact.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.descriptor.Digest.String()) }

func (l *storedLayer) Size() (int64, error) { return l.descriptor.Size, nil }

func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.descriptor.MediaType), nil
}

func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	file, _, err := l.registry.cfg.Bytes.Open(l.descriptor.Digest)
	return file, err
}
