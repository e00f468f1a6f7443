package promotion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// ReleaseStore keeps releases; *postgres.DB is one.
type ReleaseStore interface {
	// CreateRelease records a release, in one transaction with its ledger entry; a Conflict when there is one of that name.
	CreateRelease(ctx context.Context, r artifact.Release) (artifact.Release, error)
	Release(ctx context.Context, name string) (artifact.Release, error)
	// Releases returns releases, newest first, at most n of those behind one (the zero one: from the newest on).
	Releases(ctx context.Context, after artifact.Release, n int) ([]artifact.Release, error)
}

// maxServices bounds a release, whose promotion is one transaction.
const maxServices = 100

// CreateRelease puts versions of services together under a name, each as the digest that it means now.
func (s *Service) CreateRelease(ctx context.Context, p artifact.Principal, name, reason string, versions []Request) (artifact.Release, error) {
	r := artifact.Release{Name: name, Actor: p.Name, Reason: reason, At: s.cfg.Now()}
	if _, err := artifact.ParseTag(name); err != nil {
		return r, artifact.Errorf(artifact.Invalid, "release %.150q: want letters, digits and ._- as a tag has, such as shop-2026.47", name)
	}
	if len(versions) == 0 || len(versions) > maxServices {
		return r, artifact.Errorf(artifact.Invalid, "a release has 1 to %d services, and this one %d", maxServices, len(versions))
	}
	for _, v := range versions {
		if !p.Can(artifact.ActionPromote, v.Repository) {
			return r, denied(p, "release", v.Repository.String())
		}
		if slices.ContainsFunc(r.Services, func(one artifact.ReleaseService) bool { return one.Repository == v.Repository }) {
			return r, artifact.Errorf(artifact.Invalid, "%s stands twice in the release; it goes out as one digest", v.Repository)
		}
		digest, version, err := s.version(ctx, v.Repository, v.Version)
		if err != nil {
			return r, err
		}
		r.Services = append(r.Services, artifact.ReleaseService{Repository: v.Repository, Digest: digest, Version: version})
	}
	slices.SortFunc(r.Services, func(x, y artifact.ReleaseService) int {
		return strings.Compare(x.Repository.String(), y.Repository.String())
	})
	return s.cfg.Store.CreateRelease(ctx, r)
}

// Release returns a release, if p may see all that is in it.
func (s *Service) Release(ctx context.Context, p artifact.Principal, name string) (artifact.Release, error) {
	r, err := s.cfg.Store.Release(ctx, name)
	if err == nil && !seesRelease(p, r) {
		err = artifact.Errorf(artifact.NotFound, "there is no release %.150q", name)
	}
	return r, err
}

// Releases returns the next n releases behind one (the zero one: from the newest on) of which p may see all, newest first.
// Behind last, which p may not see, there may be more.
func (s *Service) Releases(ctx context.Context, p artifact.Principal, after artifact.Release, n int) (all []artifact.Release, last artifact.Release, more bool, err error) {
	return artifact.Page(n, after, func(after artifact.Release, n int) ([]artifact.Release, bool, error) {
		rows, err := s.cfg.Store.Releases(ctx, after, n)
		return rows, len(rows) == n, err
	}, func(r artifact.Release) bool { return seesRelease(p, r) })
}

func seesRelease(p artifact.Principal, r artifact.Release) bool {
	return !slices.ContainsFunc(r.Services, func(s artifact.ReleaseService) bool { return !p.Can(artifact.ActionLook, s.Repository) })
}

// PromoteRelease promotes every service of a release to an environment, or none. All gates of all services are evaluated;
// a Denied error names all that are not met, each with its service. r says environment, reason and so on.
func (s *Service) PromoteRelease(ctx context.Context, p artifact.Principal, name string, r Request) ([]Result, error) {
	release, err := s.Release(ctx, p, name)
	if err != nil {
		return nil, err
	}
	for _, service := range release.Services {
		if err := s.may(p, service.Repository, r.Environment); err != nil {
			return nil, err
		}
	}
	var (
		moves []Move
		unmet []artifact.Reason
	)
	for _, service := range release.Services {
		request := r
		request.Repository, request.Version = service.Repository, service.Version
		move, err := s.allow(ctx, movement{action: "promote", principal: p, request: request, digest: service.Digest, version: service.Version})
		var no *artifact.Error
		switch {
		case err == nil:
			move.Release = name
			moves = append(moves, move)
		case errors.As(err, &no) && len(no.Reasons) > 0:
			for _, reason := range no.Reasons {
				reason.Message = service.Repository.String() + ": " + reason.Message
				unmet = append(unmet, reason)
			}
		default:
			return nil, fmt.Errorf("%s: %w", service.Repository, err)
		}
	}
	if len(unmet) > 0 {
		return nil, refusal("release "+name, r.Environment, unmet)
	}
	results := make([]Result, len(moves))
	if r.DryRun {
		for i, m := range moves {
			results[i] = Result{Promotion: m.Promotion, DryRun: true, Unchanged: m.Previous == m.Digest}
		}
		return results, nil
	}
	done, err := s.cfg.Store.Promote(ctx, moves...)
	if err != nil {
		return nil, err
	}
	for i, d := range done {
		results[i] = Result{Promotion: d, Unchanged: d.ID == 0}
	}
	return results, nil
}
