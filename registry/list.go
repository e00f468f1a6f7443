package registry

import (
	"context"
	"slices"

	"waybill/artifact"
)

// Tags returns the tags of a repository that p may pull, sorted, after last, at most n (n < 0: all), and whether more
// follow.
func (r *Registry) Tags(ctx context.Context, p artifact.Principal, repository artifact.Repository, last string, n int) ([]artifact.Tag, bool, error) {
	known, err := r.cfg.Gate.Repositories(ctx, p, []artifact.Repository{repository})
	if err != nil {
		return nil, false, err
	}
	if len(known) == 0 {
		return nil, false, artifact.Coded(artifact.Denied, "DENIED", "%s may list nothing in %s", p.Name, repository)
	}
	rows, err := r.cfg.Manifests.Tags(ctx, repository)
	if err != nil {
		return nil, false, err
	}
	digests := make([]artifact.Digest, len(rows))
	for i, row := range rows {
		digests[i] = row.Digest
	}
	allowed, err := r.cfg.Gate.Filter(ctx, p, repository, digests)
	if err != nil {
		return nil, false, err
	}
	var tags []artifact.Tag
	for _, row := range rows {
		if allowed[row.Digest] {
			tags = append(tags, row.Name)
		}
	}
	tags, more := page(tags, last, n)
	return tags, more, nil
}

// Catalog returns the repositories that p may know of, paged like Tags.
func (r *Registry) Catalog(ctx context.Context, p artifact.Principal, last string, n int) ([]artifact.Repository, bool, error) {
	all, err := r.cfg.Manifests.Repositories(ctx)
	if err != nil {
		return nil, false, err
	}
	known, err := r.cfg.Gate.Repositories(ctx, p, all)
	if err != nil {
		return nil, false, err
	}
	known, more := page(known, last, n)
	return known, more, nil
}

// Referrers returns descriptors of the manifests that name a digest as their subject and that p may pull; of
// some artifact types when those are given.
func (r *Registry) Referrers(ctx context.Context, p artifact.Principal, repository artifact.Repository, subject artifact.Digest, artifactTypes []string) ([]artifact.Descriptor, error) {
	known, err := r.cfg.Gate.Repositories(ctx, p, []artifact.Repository{repository})
	if err != nil {
		return nil, err
	}
	if len(known) == 0 {
		return nil, artifact.Coded(artifact.Denied, "DENIED", "%s may list nothing in %s", p.Name, repository)
	}
	all, err := r.cfg.Manifests.Referrers(ctx, repository, subject)
	if err != nil {
		return nil, err
	}
	digests := make([]artifact.Digest, len(all))
	for i, d := range all {
		digests[i] = d.Digest
	}
	allowed, err := r.cfg.Gate.Filter(ctx, p, repository, digests)
	if err != nil {
		return nil, err
	}
	found := []artifact.Descriptor{}
	for _, d := range all {
		if allowed[d.Digest] && (len(artifactTypes) == 0 || slices.Contains(artifactTypes, d.ArtifactType)) {
			found = append(found, d)
		}
	}
	return found, nil
}
