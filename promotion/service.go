package promotion

import (
	"context"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Judge judges a stored digest under the policies of now; policy.Judge is one.
type Judge interface {
	JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error)
}

// Store is what promotions read and write; *postgres.DB is one. Each method that writes is one transaction with its
// ledger entry.
type Store interface {
	Pipelines(ctx context.Context) ([]Versioned, error)
	Repositories(ctx context.Context) ([]artifact.Repository, error)
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	Evidence(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (Evidence, error)
	Current(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error)
	// Before returns the digest that an environment ran before its current one and that was not recalled.
	Before(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error)
	// Promote moves the environment's pointer from expected (zero: none) to the digest and writes its grants. Conflict
	// when the pointer stands elsewhere by now.
	Promote(ctx context.Context, p artifact.Promotion, pass policy.Pass) (artifact.Promotion, error)
	// Recall takes a digest out of every environment of its repository.
	Recall(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor, reason string) error
}

// Config names what the service needs.
type Config struct {
	Store Store
	Judge Judge
	Now   func() time.Time
}

// Service is the use cases of promotion.
type Service struct{ cfg Config }

// NewService returns a service; it is safe for concurrent use.
func NewService(cfg Config) *Service { return &Service{cfg} }

// Request asks for a version, a tag or a digest, to become an environment's current one.
type Request struct {
	Repository  artifact.Repository
	Version     string
	Environment artifact.Environment
	Reason      string
	DryRun      bool
}

// Result is what a promotion or rollback came to.
type Result struct {
	artifact.Promotion
	DryRun    bool
	Unchanged bool // it was the environment's current digest already
}

// Promote evaluates policy and every gate, and moves the environment's pointer when all are met. A Denied error names
// all that are not.
func (s *Service) Promote(ctx context.Context, p artifact.Principal, r Request) (Result, error) {
	if err := s.may(p, r.Repository, r.Environment); err != nil {
		return Result{}, err
	}
	digest, version, err := s.version(ctx, r.Repository, r.Version)
	if err != nil {
		return Result{}, err
	}
	return s.move(ctx, p, r, "promote", digest, version)
}

// Rollback makes the digest that an environment ran before its current one current again. Policy and all gates are
// asked once more; that it was there before meets `after`.
func (s *Service) Rollback(ctx context.Context, p artifact.Principal, repository artifact.Repository, e artifact.Environment, reason string) (Result, error) {
	if err := s.may(p, repository, e); err != nil {
		return Result{}, err
	}
	before, ok, err := s.cfg.Store.Before(ctx, repository, e)
	if err != nil {
		return Result{}, err
	}
	if !ok {
		return Result{}, artifact.Errorf(artifact.NotFound, "%s of %s has no earlier digest that was not recalled; promote one", e, repository)
	}
	return s.move(ctx, p, Request{Repository: repository, Environment: e, Reason: reason}, "rollback", before.Digest, before.Version)
}

func (s *Service) move(ctx context.Context, p artifact.Principal, r Request, action string, digest artifact.Digest, version string) (Result, error) {
	pipeline, err := s.Pipeline(ctx, r.Repository)
	if err != nil {
		return Result{}, err
	}
	stage, ok := pipeline.Stage(r.Environment)
	if !ok {
		return Result{}, artifact.Errorf(artifact.NotFound, "pipeline %s has no environment %s; it has %s", pipeline.Name(), r.Environment, pipeline)
	}
	current, _, err := s.cfg.Store.Current(ctx, r.Repository, r.Environment)
	if err != nil {
		return Result{}, err
	}
	pass, err := s.pass(ctx, stage, pipeline.Name(), r.Repository, digest)
	if err != nil {
		return Result{}, err
	}
	result := Result{DryRun: r.DryRun, Promotion: artifact.Promotion{Action: action, Repository: r.Repository, Environment: r.Environment, Digest: digest,
		Version: version, Previous: current.Digest, Actor: p.Name, Reason: r.Reason, PolicyHash: pass.PolicyHash(), At: s.cfg.Now().UTC()}}
	if current.Digest == digest {
		result.Unchanged = true
		return result, nil
	}
	if r.DryRun {
		return result, nil
	}
	result.Promotion, err = s.cfg.Store.Promote(ctx, result.Promotion, pass)
	return result, err
}

// pass is the one place where a promotion is allowed: the policy of now, and every gate of the stage.
func (s *Service) pass(ctx context.Context, stage Stage, pipeline string, repository artifact.Repository, digest artifact.Digest) (policy.Pass, error) {
	verdict, err := s.cfg.Judge.JudgeStored(ctx, repository, digest)
	if err != nil {
		return policy.Pass{}, err
	}
	evidence, err := s.cfg.Store.Evidence(ctx, repository, digest)
	if err != nil {
		return policy.Pass{}, err
	}
	unmet := stage.Unmet(evidence, s.cfg.Now())
	for i := range unmet {
		unmet[i].Policy = pipeline
	}
	pass, err := verdict.Pass()
	if err != nil {
		reasons := verdict.Denials()
		if len(reasons) == 0 {
			reasons = []artifact.Reason{{Rule: "verdict", Message: err.Error()}}
		}
		unmet = append(reasons, unmet...)
	}
	if len(unmet) > 0 {
		lines := make([]string, len(unmet))
		for i, r := range unmet {
			lines[i] = r.String()
		}
		return policy.Pass{}, &artifact.Error{Kind: artifact.Denied, Code: "DENIED", Reasons: unmet,
			Message: repository.String() + "@" + digest.String() + " may not go to " + stage.Environment.String() + ": " + strings.Join(lines, "; ")}
	}
	return pass, nil
}

// Recall takes a digest out of every environment at once, for ever: it can be pulled by no deployer and promoted by
// nobody from then on.
func (s *Service) Recall(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest, reason string) error {
	if !p.Can(artifact.ActionPromote, repository) {
		return denied(p, "recall from", repository.String())
	}
	if len(p.Environments) > 0 && p.Role != artifact.Admin {
		return artifact.Errorf(artifact.Denied, "%s may promote to some environments only, and a recall is from all; that takes a promoter without --environment", p.Name)
	}
	if strings.TrimSpace(reason) == "" {
		return artifact.Errorf(artifact.Invalid, "a recall needs a reason, since everybody who is refused the digest will read it")
	}
	return s.cfg.Store.Recall(ctx, repository, digest, p.Name, reason)
}

// Pipeline returns the pipeline of a repository.
func (s *Service) Pipeline(ctx context.Context, repository artifact.Repository) (Pipeline, error) {
	all, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return Pipeline{}, err
	}
	p, err := choose(all, repository)
	return p.Pipeline, err
}

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
		return asked, artifact.Errorf(artifact.NotFound, "there is no service %s: no repository is called so, or ends in /%s", name, name)
	case 1:
		return found[0], nil
	}
	return asked, artifact.Errorf(artifact.Conflict, "service %s is not unique: %s and %s; name the whole repository", name, found[0], found[1])
}

// version resolves a tag, once, or takes a digest as it is.
func (s *Service) version(ctx context.Context, repository artifact.Repository, version string) (artifact.Digest, string, error) {
	if strings.Contains(version, ":") {
		d, err := artifact.ParseDigest(version)
		return d, "", err
	}
	tag, err := artifact.ParseTag(version)
	if err != nil {
		return artifact.Digest{}, "", err
	}
	d, err := s.cfg.Store.ResolveTag(ctx, repository, tag)
	return d, version, err
}

func (s *Service) may(p artifact.Principal, r artifact.Repository, e artifact.Environment) error {
	if p.CanPromote(r, e) {
		return nil
	}
	return denied(p, "promote to", e.String()+" of "+r.String())
}

func denied(p artifact.Principal, what, where string) error {
	return artifact.Errorf(artifact.Denied, "%s, a %s, may not %s %s; that takes a token of role promoter for it", p.Name, p.Role, what, where)
}
