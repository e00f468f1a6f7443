package promotion

import (
	"context"
	"strings"

	"waybill/artifact"
)

// Grants is the stored answer to "what may be pulled from where"; *postgres.DB is one.
type Grants interface {
	Granted(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digest artifact.Digest) (bool, error)
	GrantedOf(ctx context.Context, environments []artifact.Environment, repository artifact.Repository, digests []artifact.Digest) ([]artifact.Digest, error)
	GrantedRepositories(ctx context.Context, environments []artifact.Environment) ([]artifact.Repository, error)
	Recalled(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (actor, reason string, ok bool, err error)
}

// Gate decides every pull, by whatever path it is asked for: registry, API, page. No flag, role or header goes round it.
type Gate struct{ grants Grants }

// NewGate returns the gate over stored grants.
func NewGate(grants Grants) *Gate { return &Gate{grants} }

// Pull returns nil when p may have a manifest or blob of a repository. Who may pull at will gets whatever is there,
// since what policy denied never is; a deployer gets what its environments are granted. All else, and every error, is
// a refusal with its reason.
func (g *Gate) Pull(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) error {
	if p.Can(artifact.ActionPull, repository) {
		return nil
	}
	environments, err := deploys(p, repository)
	if err != nil {
		return err
	}
	granted, err := g.grants.Granted(ctx, environments, repository, digest)
	if err != nil {
		return err
	}
	if granted {
		return nil
	}
	what := repository.String()
	if !digest.IsZero() {
		what += "@" + digest.String()
	}
	if actor, reason, ok, err := g.grants.Recalled(ctx, repository, digest); err != nil {
		return err
	} else if ok {
		return refuse("recalled", "%s was recalled by %s: %s", what, actor, reason)
	}
	return refuse("not-promoted", "%s is not promoted to %s; a promoter can do so: waybill promote %s VERSION %s", what, list(environments), repository, environments[0])
}

// deploys returns the environments whose promoted digests p may pull from a repository, or why there are none.
func deploys(p artifact.Principal, repository artifact.Repository) ([]artifact.Environment, error) {
	if environments := p.Deploys(repository); len(environments) > 0 {
		return environments, nil
	}
	switch {
	case p.Anonymous():
		return nil, artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "nobody signed in; `docker login` with a token as the password")
	case !p.Sees(repository):
		var patterns []string
		for _, b := range p.Bindings() {
			patterns = append(patterns, b.Repositories...)
		}
		return nil, refuse("role", "%s has no role for %s: its role, %s, is bound to %s; that takes role reader, or deployer of an environment, bound to %s", p.Name, repository, p.Roles(), strings.Join(patterns, ", "), repository)
	}
	return nil, refuse("role", "%s, whose role is %s, may not pull from %s; that takes a token of role reader, or deployer of an environment", p.Name, p.Roles(), repository)
}

// Filter says of each digest whether p may pull it; it is Pull for lists.
func (g *Gate) Filter(ctx context.Context, p artifact.Principal, repository artifact.Repository, digests []artifact.Digest) (map[artifact.Digest]bool, error) {
	allowed := make(map[artifact.Digest]bool, len(digests))
	granted := digests
	if !p.Can(artifact.ActionPull, repository) {
		environments := p.Deploys(repository)
		if len(environments) == 0 {
			return allowed, nil
		}
		var err error
		if granted, err = g.grants.GrantedOf(ctx, environments, repository, digests); err != nil {
			return nil, err
		}
	}
	for _, d := range granted {
		allowed[d] = true
	}
	return allowed, nil
}

// Repositories returns those that p may know of: where it may pull at will, look, or deploy something from.
func (g *Gate) Repositories(ctx context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error) {
	granted := map[artifact.Repository]bool{}
	for _, b := range p.Bindings() {
		if b.Role != artifact.Deployer {
			continue
		}
		repositories, err := g.grants.GrantedRepositories(ctx, b.Environments)
		if err != nil {
			return nil, err
		}
		for _, r := range repositories {
			granted[r] = granted[r] || b.Sees(r)
		}
	}
	var known []artifact.Repository
	for _, r := range all {
		if p.Can(artifact.ActionPull, r) || p.Can(artifact.ActionLook, r) || granted[r] {
			known = append(known, r)
		}
	}
	return known, nil
}

func refuse(rule, format string, args ...any) error {
	err := artifact.Coded(artifact.Denied, "DENIED", format, args...)
	err.Reasons = []artifact.Reason{{Rule: rule, Message: err.Message}}
	return err
}

func list(environments []artifact.Environment) string {
	names := make([]string, len(environments))
	for i, e := range environments {
		names[i] = e.String()
	}
	return strings.Join(names, " or ")
}
