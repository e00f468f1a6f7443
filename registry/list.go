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
		return nil, false, refuseList(p, repository)
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

// catalogRows is how many names are read at a time: of those that p may know of, a page has as many as it wants.
const catalogRows = 1000

// Catalog returns the repositories that p may know of, paged like Tags.
func (r *Registry) Catalog(ctx context.Context, p artifact.Principal, last string, n int) (known []artifact.Repository, more bool, err error) {
	for n != 0 {
		rows, err := r.cfg.Manifests.RepositoriesAfter(ctx, last, catalogRows)
		if err != nil {
			return nil, false, err
		}
		some, err := r.cfg.Gate.Repositories(ctx, p, rows)
		if err != nil {
			return nil, false, err
		}
		known = append(known, some...)
		if n > 0 && len(known) > n {
			return known[:n], true, nil
		}
		if len(rows) < catalogRows {
			break
		}
		last = rows[len(rows)-1].String()
	}
	return known, false, nil
}

// referrerRows is how many referrers a page has at most: many clients read the first page alone. Of those that p may not
// pull, so many times as many are read for one.
const (
	referrerRows  = 1000
	referrerReads = 10
)

// Referrers returns descriptors of the manifests that name a digest as their subject and that p may pull; of
// some artifact types when those are given. A page begins after a digest; next, unless it is empty, is where another does:
// whoever shows it seals it, since p may not know of what is there.
func (r *Registry) Referrers(ctx context.Context, p artifact.Principal, repository artifact.Repository, subject artifact.Digest, artifactTypes []string, last string) (found []artifact.Descriptor, next string, err error) {
	known, err := r.cfg.Gate.Repositories(ctx, p, []artifact.Repository{repository})
	if err != nil {
		return nil, "", err
	}
	if len(known) == 0 {
		return nil, "", refuseList(p, repository)
	}
	for reads := 1; ; reads++ {
		page, more, err := r.cfg.Manifests.ReferrersAfter(ctx, repository, subject, artifactTypes, last, referrerRows)
		if err != nil {
			return nil, "", err
		}
		digests := make([]artifact.Digest, len(page))
		for i, d := range page {
			digests[i] = d.Digest
		}
		allowed, err := r.cfg.Gate.Filter(ctx, p, repository, digests)
		if err != nil {
			return nil, "", err
		}
		found = slices.DeleteFunc(page, func(d artifact.Descriptor) bool { return !allowed[d.Digest] })
		if !more {
			return found, "", nil
		}
		if last = digests[len(digests)-1].String(); len(found) > 0 || reads == referrerReads {
			return found, last, nil
		}
	}
}

// refuseList says what a list takes; of what is not there, a deployer is told the same as of what is not promoted.
func refuseList(p artifact.Principal, repository artifact.Repository) error {
	if len(p.Deploys(repository)) > 0 {
		return artifact.Coded(artifact.Denied, "DENIED", "%s, a deployer, may list nothing in %s: nothing there is promoted to %s; any of it takes role %s, bound to it", p.Name, repository, environments(p, repository), artifact.RolesWith(artifact.ActionPull))
	}
	return p.Refusal(artifact.ActionPull, repository)
}
