package mirror

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"waybill/artifact"
)

// Images reads single images and artifacts of one registry elsewhere, without storing them here.
type Images struct{ client *client }

// NewImages returns a reader; who signs in does so for each image anew.
func NewImages(r Remote) (*Images, error) {
	c, err := newClient(r)
	return &Images{c}, err
}

// Image returns what a tag or a digest of a repository stands for. Its blobs are read, and their digests checked, when
// they are asked for.
func (i *Images) Image(ctx context.Context, repository, reference string) (v1.Image, artifact.Digest, error) {
	var at name.Reference = i.client.registry.Repo(repository).Tag(reference)
	if d, err := artifact.ParseDigest(reference); err == nil {
		at = i.client.registry.Repo(repository).Digest(d.String())
	}
	image, err := remote.Image(at, append(i.client.options, remote.WithContext(ctx))...)
	if err != nil {
		return nil, artifact.Digest{}, i.client.trouble("read "+at.String(), err)
	}
	hash, err := image.Digest()
	if err != nil {
		return nil, artifact.Digest{}, i.client.trouble("read "+at.String(), err)
	}
	digest, err := artifact.ParseDigest(hash.String())
	return image, digest, err
}
