package registry

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"waybill/artifact"
)

// attempts at a tag that others write at the same moment: each that fails is one that another won.
const attempts = 20

// putAttached pushes to a tag of cosign's. Several write there and none knows of the others: Waybill signs when it gets
// to it, and who copies an image brings what was signed where it came from. So what the tag holds and a push lacks, but
// for drops, is added to what is pushed: the tag then stands at a manifest with all of it, and what was pushed is there by
// its digest.
func (r *Registry) putAttached(ctx context.Context, p artifact.Principal, ref artifact.Reference, contentType string, body []byte, more []artifact.Tag, drops []artifact.Digest) (pushed Pushed, err error) {
	if err := may(p, artifact.ActionPush, ref.Repository); err != nil {
		return Pushed{}, err
	}
	m, err := artifact.ParseManifest(contentType, body)
	if err != nil {
		return Pushed{}, err
	}
	for range attempts {
		held, err := r.held(ctx, ref)
		if err != nil {
			return Pushed{}, err
		}
		lacks := artifact.Without(m.Lacks(held.Manifest), drops)
		if len(lacks) == 0 {
			pushed, err = r.putManifest(ctx, p, ref, contentType, body, more, drops...)
		} else {
			pushed, err = r.putBeside(ctx, p, ref, contentType, body, more, held, lacks, drops)
		}
		if artifact.KindOf(err) != artifact.Conflict {
			return pushed, err
		}
	}
	return pushed, err
}

// PutAttached pushes an image to a cosign tag from within the process. Of what the tag holds by then, layers that are in
// drops are not kept: what is pushed replaces them. No client can ask for that.
func (r *Registry) PutAttached(ctx context.Context, p artifact.Principal, repository artifact.Repository, tag artifact.Tag, img v1.Image, drops []artifact.Digest) error {
	mediaType, body, err := r.putContent(ctx, p, repository, img)
	if err != nil {
		return err
	}
	_, err = r.putAttached(ctx, p, artifact.Reference{Repository: repository, Digest: artifact.DigestOf(body), Tag: tag}, mediaType, body, nil, drops)
	return err
}

// held returns what a tag stands at, the zero manifest when there is no such tag.
func (r *Registry) held(ctx context.Context, ref artifact.Reference) (artifact.StoredManifest, error) {
	digest, err := r.cfg.Manifests.ResolveTag(ctx, ref.Repository, ref.Tag)
	if err == nil {
		var held artifact.StoredManifest
		if held, err = r.cfg.Manifests.Manifest(ctx, ref.Repository, digest); err == nil {
			return held, nil
		}
	}
	if artifact.KindOf(err) == artifact.NotFound {
		err = nil
	}
	return artifact.StoredManifest{}, err
}

// putBeside pushes a manifest by its digest, and to its tag one that holds what it lacks besides.
func (r *Registry) putBeside(ctx context.Context, p artifact.Principal, ref artifact.Reference, contentType string, body []byte, more []artifact.Tag, held artifact.StoredManifest, lacks []artifact.Descriptor, drops []artifact.Digest) (Pushed, error) {
	m, err := artifact.ParseManifest(contentType, body)
	if err != nil {
		return Pushed{}, err
	}
	digest, err := digestOf(ref, body)
	if err != nil {
		return Pushed{}, err
	}
	subject, err := r.subject(ctx, ref, digest, m)
	if err != nil {
		return Pushed{}, err
	}
	if err := holdsStatements([]artifact.Tag{ref.Tag}, subject); err != nil {
		return Pushed{}, err
	}
	pushed, err := r.putManifest(ctx, p, artifact.Reference{Repository: ref.Repository, Digest: digest}, contentType, body, more)
	if err != nil {
		return Pushed{}, err
	}
	both, err := r.beside(ctx, ref.Repository, pushed.Digest, held.Digest, lacks)
	if err != nil {
		return Pushed{}, fmt.Errorf("keep what %s holds: %w", ref, err)
	}
	if err := r.PutAttached(ctx, p, ref.Repository, ref.Tag, both, drops); err != nil {
		return Pushed{}, err
	}
	pushed.Tags = append(pushed.Tags, ref.Tag)
	pushed.Warnings = append(pushed.Warnings, artifact.Reason{Rule: "cosign-tag", Warning: true,
		Message: fmt.Sprintf("%s keeps what it held and the push lacks, %s; delete the tag to drop that", ref.Tag, artifact.Count(len(lacks), "statement"))})
	return pushed, nil
}

func (r *Registry) beside(ctx context.Context, repository artifact.Repository, pushed, held artifact.Digest, lacks []artifact.Descriptor) (v1.Image, error) {
	image, err := r.Image(ctx, repository, pushed)
	if err != nil {
		return nil, err
	}
	other, err := r.Image(ctx, repository, held)
	if err != nil {
		return nil, err
	}
	for _, d := range lacks {
		hash, err := v1.NewHash(d.Digest.String())
		if err != nil {
			return nil, err
		}
		layer, err := other.LayerByDigest(hash)
		if err != nil {
			return nil, err
		}
		image, err = mutate.Append(image, mutate.Addendum{Layer: layer, Annotations: d.Annotations, MediaType: types.MediaType(d.MediaType)})
		if err != nil {
			return nil, err
		}
	}
	return image, nil
}
