package promotion

import (
	"context"
	"strings"

	"waybill/artifact"
)

// Reserved reports whether a tag is the name of an environment in any pipeline.
func (s *Service) Reserved(ctx context.Context, _ artifact.Repository, tag artifact.Tag) (bool, error) {
	all, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range all {
		for _, stage := range p.Environments {
			if stage.Environment.Tag() == tag {
				return true, nil
			}
		}
	}
	return false, nil
}

// Environments returns every environment of every pipeline, in the order of the pipelines.
func (s *Service) Environments(ctx context.Context) ([]artifact.Environment, error) {
	all, err := s.cfg.Store.Pipelines(ctx)
	var names []artifact.Environment
	for _, p := range all {
		for _, stage := range p.Environments {
			if !contains(names, stage.Environment) {
				names = append(names, stage.Environment)
			}
		}
	}
	return names, err
}

// ResolveService returns the repository that a name means: a whole name, or a last part that only one has.
func (s *Service) ResolveService(ctx context.Context, name string) (artifact.Repository, error) {
	asked, err := artifact.ParseRepository(name)
	if err != nil {
		return asked, err
	}
	all, err := s.cfg.Store.Repositories(ctx)
	if err != nil {
		return asked, err
	}
	var found []artifact.Repository
	for _, r := range all {
		if r == asked {
			return r, nil
		}
		if strings.HasSuffix(r.String(), "/"+name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return asked, artifact.Errorf(artifact.NotFound, "there is no service %s: no repository is called so, or ends in /%s; there is one once something was pushed to it", name, name)
	case 1:
		return found[0], nil
	}
	return asked, artifact.Errorf(artifact.Conflict, "service %s is not unique: %s and %s; name the whole repository", name, found[0], found[1])
}

// version resolves a tag, an environment's name, a digest or the beginning of one, once. It returns the digest and
// what people call it.
func (s *Service) version(ctx context.Context, repository artifact.Repository, version string) (artifact.Digest, string, error) {
	ref, err := artifact.ParseTarget(repository, version)
	short := shortDigest.FindStringSubmatch(version)
	if err != nil && short == nil {
		return artifact.Digest{}, "", err
	}
	if !ref.Digest.IsZero() {
		name, err := s.nameOf(ctx, repository, ref.Digest)
		return ref.Digest, name, err
	}
	if !ref.Tag.IsZero() {
		digest, err := s.cfg.Store.ResolveTag(ctx, repository, ref.Tag)
		if err == nil {
			name, err := s.nameOfTag(ctx, repository, ref.Tag, digest)
			return digest, name, err
		}
		if short == nil || artifact.KindOf(err) != artifact.NotFound {
			return artifact.Digest{}, "", err
		}
	}
	found, err := s.cfg.Store.DigestsByPrefix(ctx, repository, short[1])
	switch {
	case err != nil:
		return artifact.Digest{}, "", err
	case len(found) == 0:
		return artifact.Digest{}, "", artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has neither a tag nor a digest %s", repository, version)
	case len(found) > 1:
		return artifact.Digest{}, "", artifact.Errorf(artifact.Conflict, "%s is not unique in %s: %s and %s begin so; give more digits", version, repository, found[0], found[1])
	}
	name, err := s.nameOf(ctx, repository, found[0])
	return found[0], name, err
}

// nameOfTag is the tag itself, unless that is an environment's name: then it is what runs there.
func (s *Service) nameOfTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag, digest artifact.Digest) (string, error) {
	reserved, err := s.Reserved(ctx, repository, tag)
	if err != nil || !reserved {
		return tag.String(), err
	}
	environment, err := artifact.ParseEnvironment(tag.String())
	if err != nil {
		return "", err
	}
	runs, _, err := s.cfg.Store.Current(ctx, repository, environment)
	if err != nil || runs.Digest == digest && runs.Version != "" {
		return runs.Version, err
	}
	return s.nameOf(ctx, repository, digest)
}

// nameOf is a tag of the digest, one that says more than "latest" where there is one; "" when it has none.
func (s *Service) nameOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (string, error) {
	tags, err := s.cfg.Store.TagsOf(ctx, repository, digest)
	if err != nil {
		return "", err
	}
	name := ""
	for _, tag := range tags {
		if name == "" || name == "latest" {
			name = tag.String()
		}
	}
	return name, nil
}
