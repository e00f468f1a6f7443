package policy

import (
	"context"

	"waybill/artifact"
)

// Referrers gives the descriptors of what refers to a manifest, with their annotations.
type Referrers interface {
	Referrers(ctx context.Context, repository artifact.Repository, subject artifact.Digest) ([]artifact.Descriptor, error)
}

// referrers returns what speaks for an image: what refers to it, what refers to the index that is judged, and what that
// index holds beside it.
func (j *judging) referrers(ctx context.Context, s artifact.Subject) ([]artifact.Descriptor, error) {
	if !j.set.asks(s.Repository, "require-provenance", "require-sbom") {
		return nil, nil
	}
	all, err := j.beside(ctx, s.Digest)
	if err != nil || j.cfg.Referrers == nil {
		return all, err
	}
	subjects := []artifact.Digest{s.Digest}
	if j.asked.Digest != s.Digest {
		subjects = append(subjects, j.asked.Digest)
	}
	for _, subject := range subjects {
		referrers, err := j.cfg.Referrers.Referrers(ctx, s.Repository, subject)
		if err != nil {
			return nil, err
		}
		all = append(all, referrers...)
	}
	return all, nil
}

// BuildKit puts attestations into the index, beside the image that they name
// (docs/attestations/attestation-storage.md); their layers are statements, which say of what type they are.
const (
	referenceType   = "vnd.docker.reference.type"
	referenceDigest = "vnd.docker.reference.digest"
)

func (j *judging) beside(ctx context.Context, image artifact.Digest) ([]artifact.Descriptor, error) {
	var all []artifact.Descriptor
	for _, d := range j.asked.Manifest.Manifests {
		if d.Annotations[referenceType] != "attestation-manifest" || d.Annotations[referenceDigest] != image.String() {
			continue
		}
		stored, err := j.cfg.Contents.Manifest(ctx, j.asked.Repository, d.Digest)
		if artifact.KindOf(err) == artifact.NotFound {
			continue // the index is refused for that elsewhere
		}
		if err != nil {
			return nil, err
		}
		all = append(all, stored.Manifest.Layers...)
		if len(all) > maxManifests {
			break
		}
	}
	return all, nil
}
