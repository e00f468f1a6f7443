package promotion

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"waybill/artifact"
)

// Copies returns the other repositories that hold a digest: those where p may recall it, and what else p may know of.
func (s *Service) Copies(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) (recalls, others []artifact.Repository, err error) {
	all, err := s.cfg.Store.Holding(ctx, digest)
	for _, r := range all {
		switch {
		case r == repository:
		case p.CanTo(artifact.ActionPromote, r, artifact.Environment{}):
			recalls = append(recalls, r)
		case p.Can(artifact.ActionLook, r):
			others = append(others, r)
		}
	}
	return recalls, others, err
}

// Recall takes a digest out of every environment at once, in every repository where p may, for ever: it can be pulled by no deployer and promoted by
// nobody from then on. No replica serves a byte of it after the answer.
func (s *Service) Recall(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest, reason, advisory string) error {
	if !p.Can(artifact.ActionPromote, repository) {
		return denied(p, "recall from", repository.String())
	}
	if !p.CanTo(artifact.ActionPromote, repository, artifact.Environment{}) {
		return artifact.Errorf(artifact.Denied, "%s may promote to some environments only, and a recall is from all; that takes a promoter without --environment", p.Name)
	}
	if strings.TrimSpace(reason) == "" {
		return artifact.Errorf(artifact.Invalid, "a recall needs a reason, since everybody who is refused the digest will read it")
	}
	if advisory != "" {
		u, err := url.Parse(advisory)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || len(advisory) > 500 {
			return artifact.Errorf(artifact.Invalid, "advisory %.100q: want a link of at most 500 bytes, such as https://nvd.nist.gov/vuln/detail/CVE-2024-24790", advisory)
		}
	}
	if err := s.cfg.Store.Recall(ctx, repository, digest, p.Name, reason, advisory); err != nil {
		return err
	}
	defer s.cfg.Store.Settled(ctx)
	copies, _, err := s.Copies(ctx, p, repository, digest)
	for _, r := range copies {
		one := s.cfg.Store.Recall(ctx, r, digest, p.Name, reason, advisory)
		if kind := artifact.KindOf(one); kind == artifact.Conflict || kind == artifact.NotFound {
			continue // it was recalled, or deleted, there before
		} else if one != nil {
			err = errors.Join(err, fmt.Errorf("it is recalled in %s, and not in %s, which holds it too: %w", repository, r, one))
		}
	}
	return err
}

// Retire takes away an environment that no pipeline names any more: deployers of it pull nothing from then on, and what
// was promoted to it counts as not promoted there, should it ever come back. It returns how many digests it held.
func (s *Service) Retire(ctx context.Context, p artifact.Principal, e artifact.Environment, reason string) (int, error) {
	if !p.Can(artifact.ActionManage, artifact.Repository{}) {
		return 0, artifact.Errorf(artifact.Denied, "%s, %s, may not retire an environment; that takes a token of role admin", p.Name, artifact.An(p.Roles()))
	}
	if strings.TrimSpace(reason) == "" {
		return 0, artifact.Errorf(artifact.Invalid, "retiring an environment needs a reason, for the record")
	}
	pipelines, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return 0, err
	}
	versions := 0
	for _, pipeline := range pipelines {
		if _, ok := pipeline.Stage(e); ok {
			return 0, artifact.Errorf(artifact.Conflict, "pipeline %s has %s still; apply it without, then retire %s", pipeline.Name(), e, e)
		}
		versions += pipeline.Version
	}
	n, err := s.cfg.Store.RetireEnvironment(ctx, e, p.Name, reason, versions)
	if err == nil {
		s.cfg.Store.Settled(ctx)
	}
	return n, err
}
