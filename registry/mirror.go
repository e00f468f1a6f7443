package registry

import (
	"context"
	"strings"

	"waybill/artifact"
)

// Upstream brings what a mirror's repository lacks from the registry that it mirrors; mirror.Service is one. Each of
// its methods may take as long as a fetch does.
type Upstream interface {
	// Mirrors reports whether a repository is of a registry that is mirrored. The other methods are for those.
	Mirrors(repository artifact.Repository) bool
	// Tag returns where a tag stands upstream, when that is here with all that it names. stale: upstream does not
	// answer, and this is where the tag stood before.
	Tag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (digest artifact.Digest, stale bool, err error)
	// Manifest sees to it that a manifest is here, with all that it names.
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error
	// Blob brings again a blob that was here with its manifest, and was found damaged since.
	Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error
}

// mirrors is what the names of mirrors' repositories begin with. They are read-only even when nothing is mirrored any
// more: what is there was vouched for by another registry.
const mirrors = "mirror/"

func ofMirror(repository artifact.Repository) bool {
	return strings.HasPrefix(repository.String(), mirrors)
}

// followed reports whether upstream decides what a reference of a mirror means. Environments' names are a promotion's
// here as everywhere, and cosign's tags hold what this registry signed.
func (r *Registry) followed(ctx context.Context, ref artifact.Reference) (bool, error) {
	if r.cfg.Upstream == nil || !r.cfg.Upstream.Mirrors(ref.Repository) {
		return false, nil
	}
	if !ref.Digest.IsZero() {
		return true, nil
	}
	reserved, err := r.cfg.Names.Reserved(ctx, ref.Repository, ref.Tag)
	return !reserved && !ref.Tag.IsCosign() && !subjectTag.MatchString(ref.Tag.String()), err
}

// served refuses blobs of a mirror that no manifest names: those came for one that policy denied, or that is still
// being fetched.
func (r *Registry) served(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	if !ofMirror(repository) {
		return nil
	}
	named, err := r.cfg.Manifests.Named(ctx, repository, digest)
	if err != nil || named {
		return err
	}
	return artifact.Coded(artifact.NotFound, "BLOB_UNKNOWN", "%s has no blob %s; a mirror fetches blobs with their manifest, so pull that first", repository, digest)
}

// repaired brings a blob of a mirror again that is in quarantine: nobody else may push it there.
func (r *Registry) repaired(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	_, err := r.cfg.Blobs.Blob(ctx, repository, digest)
	if artifact.KindOf(err) != artifact.NotFound || r.cfg.Upstream == nil || !r.cfg.Upstream.Mirrors(repository) {
		return err
	}
	return r.cfg.Upstream.Blob(ctx, repository, digest)
}
