package promotion

import (
	"context"
	"regexp"
	"slices"
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
	// ResolveTag returns the digest of a tag, or of an environment of that name.
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	// DigestsByPrefix returns the manifests whose hexadecimal digits begin so, the first few.
	DigestsByPrefix(ctx context.Context, repository artifact.Repository, hex string) ([]artifact.Digest, error)
	TagsOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Tag, error)
	Evidence(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (Evidence, error)
	Current(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error)
	// Trail returns the promotions and rollbacks to an environment, in order, of digests that are still here and were
	// not recalled.
	Trail(ctx context.Context, repository artifact.Repository, environment artifact.Environment) ([]artifact.Promotion, error)
	// Promote makes all moves or none: each moves its environment's pointer to the digest and writes its grants. It
	// returns what was recorded, with no ID where the pointer stood there already. Promotions to one environment take
	// turns: each goes from Move.Previous, and it is a Conflict when the pointer stands elsewhere by now.
	Promote(ctx context.Context, moves ...Move) ([]artifact.Promotion, error)
	// Holding returns the repositories that hold a digest, sorted.
	Holding(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error)
	// Recall takes a digest out of every environment of its repository.
	Recall(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor, reason, advisory string) error
	// Settled returns when no replica serves any more what was withdrawn before.
	Settled(ctx context.Context)
	// RetireEnvironment takes an environment that no pipeline names away: whatever could be pulled from it, in any repository, no
	// longer can. versions is that of all pipelines when this was looked at. It returns how many digests that were.
	RetireEnvironment(ctx context.Context, environment artifact.Environment, actor, reason string, versions int) (int, error)
	ApprovalStore
	ReleaseStore
}

// Move is a promotion or a rollback that may be made.
type Move struct {
	artifact.Promotion
	Pass      policy.Pass
	Evidence  []artifact.Digest // for the ledger
	Approvals []int64           // that it rests on
	Versions  int               // of all pipelines, when its gates were evaluated
}

// Attestations finds signed statements; signer.Attestations is one.
type Attestations interface {
	// Attested returns the predicates of statements about a digest that are of a type and signed by one of the keys,
	// public ones in PEM; without any, by the service's own.
	Attested(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicateType string, keys []string) ([]map[string]any, error)
}

// Config names what the service needs.
type Config struct {
	Store        Store
	Judge        Judge
	Attestations Attestations // nil: there are none
	// Signatures verifies what gates ask of others; nil: Attestations does so by key, and nothing is by certificate.
	Signatures policy.Signatures
	Now        func() time.Time
}

// Service is the use cases of promotion.
type Service struct{ cfg Config }

// NewService returns a service; it is safe for concurrent use.
func NewService(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg}
}

// Request asks for a version, a tag or a digest, to become an environment's current one.
type Request struct {
	Repository  artifact.Repository
	Version     string
	Environment artifact.Environment
	Reason      string
	DryRun      bool
	Override    bool // of gates that are not met, by an admin, who says why
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
	m := movement{action: "promote", principal: p, request: r, digest: digest, version: version}
	return s.move(ctx, m)
}

// Rollback makes the digest that an environment ran before its current one current again; rolling back once more goes
// back a further step. It must be possible in an emergency: the policy of now is asked, a recall holds, and the digest
// must be signed, but the other gates, which it met when it was promoted, are not asked again.
func (s *Service) Rollback(ctx context.Context, p artifact.Principal, repository artifact.Repository, e artifact.Environment, reason string) (Result, error) {
	return s.RollbackTo(ctx, p, Request{Repository: repository, Environment: e, Reason: reason})
}

// RollbackTo is Rollback to a version that the environment ran at any time before; without one, to the last.
func (s *Service) RollbackTo(ctx context.Context, p artifact.Principal, r Request) (Result, error) {
	repository, e := r.Repository, r.Environment
	if err := s.may(p, repository, e); err != nil {
		return Result{}, err
	}
	current, _, err := s.cfg.Store.Current(ctx, repository, e)
	if err != nil {
		return Result{}, err
	}
	trail, err := s.cfg.Store.Trail(ctx, repository, e)
	if err != nil {
		return Result{}, err
	}
	earlier, ok := before(trail, current.Digest)
	if r.Version != "" {
		if earlier, err = s.ran(ctx, r, trail); err != nil {
			return Result{}, err
		}
	} else if !ok {
		return Result{}, artifact.Errorf(artifact.NotFound, "%s of %s has no earlier digest that was not recalled; promote one", e, repository)
	}
	return s.move(ctx, movement{action: "rollback", principal: p, request: Request{Repository: repository, Environment: e, Reason: r.Reason, DryRun: r.DryRun},
		digest: earlier.Digest, version: earlier.Version, previous: current.Digest})
}

// ran returns the last time that an environment got a version.
func (s *Service) ran(ctx context.Context, r Request, trail []artifact.Promotion) (artifact.Promotion, error) {
	digest, _, err := s.version(ctx, r.Repository, r.Version)
	if err != nil {
		return artifact.Promotion{}, err
	}
	for _, p := range slices.Backward(trail) {
		if p.Digest == digest {
			return p, nil
		}
	}
	return artifact.Promotion{}, artifact.Errorf(artifact.NotFound, "%s of %s never ran %s, or it was recalled; `waybill history` says what it ran, and what is new there is promoted", r.Environment, r.Repository, digest)
}

// movement is a promotion or a rollback before it is allowed.
type movement struct {
	action    string
	principal artifact.Principal
	request   Request
	digest    artifact.Digest
	version   string
	previous  artifact.Digest // what a rollback goes back from
}

func (s *Service) move(ctx context.Context, m movement) (Result, error) {
	move, err := s.allow(ctx, m)
	result := Result{DryRun: m.request.DryRun, Promotion: move.Promotion}
	if err != nil {
		return Result{}, err
	}
	if m.request.DryRun {
		result.Unchanged = move.Previous == m.digest
		return result, nil
	}
	done, err := s.cfg.Store.Promote(ctx, move)
	if err != nil {
		return Result{}, err
	}
	result.Promotion, result.Unchanged = done[0], done[0].ID == 0
	return result, nil
}

// allow is the one place where a promotion is allowed: the policy of now, and every gate of the stage.
func (s *Service) allow(ctx context.Context, m movement) (Move, error) {
	r := m.request
	pipelines, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return Move{}, err
	}
	pipeline, err := choose(pipelines, r.Repository)
	if err != nil {
		return Move{}, err
	}
	stage, ok := pipeline.Stage(r.Environment)
	if !ok {
		return Move{}, artifact.Errorf(artifact.NotFound, "pipeline %s has no environment %s; it has %s", pipeline.Name(), r.Environment, pipeline)
	}
	if m.action == "rollback" {
		stage = Stage{Environment: stage.Environment}
	}
	// Before the evidence: what is moved meanwhile is found when it is written.
	current, _, err := s.cfg.Store.Current(ctx, r.Repository, r.Environment)
	if err != nil {
		return Move{}, err
	}
	verdict, err := s.cfg.Judge.JudgeStored(ctx, r.Repository, m.digest)
	if err != nil {
		return Move{}, err
	}
	evidence, err := s.cfg.Store.Evidence(ctx, r.Repository, m.digest)
	if err != nil {
		return Move{}, err
	}
	for _, gate := range stage.Requires.Attestations {
		predicates, against, err := s.attested(ctx, r.Repository, m.digest, gate)
		if err != nil {
			return Move{}, err
		}
		evidence.Attested, evidence.Against = append(evidence.Attested, predicates), append(evidence.Against, against)
	}
	unmet := stage.Unmet(evidence, Asked{Actor: m.principal.Name, Repository: r.Repository, Digest: m.digest, Version: m.version, Reason: r.Reason, At: s.cfg.Now()})
	for i := range unmet {
		unmet[i].Policy = pipeline.Name()
	}
	var overridden []string
	if r.Override && len(unmet) > 0 {
		if overridden, unmet, err = override(m.principal, r, unmet); err != nil {
			return Move{}, err
		}
	}
	pass, err := verdict.Promotion()
	if err != nil {
		reasons := append(verdict.Denials(), verdict.Waiting()...)
		if len(reasons) == 0 {
			reasons = []artifact.Reason{{Rule: "verdict", Message: err.Error()}}
		}
		unmet = append(reasons, unmet...)
	}
	if len(unmet) > 0 {
		return Move{}, refusal(r.Repository.String()+"@"+m.digest.String(), stage.Environment, unmet)
	}
	move := Move{Pass: pass, Evidence: append([]artifact.Digest{pipeline.Hash()}, evidence.digests()...),
		Promotion: artifact.Promotion{Action: m.action, Repository: r.Repository, Environment: r.Environment, Digest: m.digest,
			Version: m.version, Previous: current.Digest, Actor: m.principal.Name, Reason: r.Reason, PolicyHash: pass.PolicyHash(), At: s.cfg.Now().UTC(), Overridden: overridden}}
	if m.action == "rollback" {
		move.Previous = m.previous
	}
	for _, p := range pipelines {
		move.Versions += p.Version
	}
	if gate := stage.Requires.Approvals; gate != nil {
		good, _ := gate.count(stage.Environment, evidence, m.principal.Name)
		for _, a := range good {
			move.Approvals = append(move.Approvals, a.ID)
		}
	}
	return move, nil
}

// override takes from unmet gates those that an admin may override, saying why: not a recall, and not that it is signed.
func override(p artifact.Principal, r Request, unmet []artifact.Reason) (overridden []string, rest []artifact.Reason, err error) {
	if !p.Is(artifact.Admin) {
		return nil, nil, artifact.Errorf(artifact.Denied, "%s, %s, may not override a gate; that takes a token of role admin", p.Name, artifact.An(p.Roles()))
	}
	if strings.TrimSpace(r.Reason) == "" {
		return nil, nil, artifact.Errorf(artifact.Invalid, "an override needs a reason: it stands in the ledger with every gate that was not met")
	}
	for _, one := range unmet {
		if one.Rule == "recalled" || one.Rule == "signed" {
			rest = append(rest, one)
		} else {
			overridden = append(overridden, one.String())
		}
	}
	return overridden, rest, nil
}

// refusal names every gate that is not met.
func refusal(what string, environment artifact.Environment, unmet []artifact.Reason) error {
	lines := make([]string, len(unmet))
	for i, r := range unmet {
		lines[i] = r.String()
	}
	return &artifact.Error{Kind: artifact.Denied, Code: "DENIED", Reasons: unmet,
		Message: what + " may not go to " + environment.String() + ": " + strings.Join(lines, "; ")}
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

// Fits returns a Conflict when a pipeline that is about to be applied would be the second for a repository: by a pattern
// that another has too, or for a repository that is there.
func (s *Service) Fits(ctx context.Context, name string, src []byte) error {
	parsed, err := Parse(name, src)
	if err != nil || len(parsed) != 1 {
		return err
	}
	all, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return err
	}
	with := slices.DeleteFunc(slices.Clone(all), func(p Versioned) bool { return p.Name() == name })
	for _, other := range with {
		if shared := sharedPattern(other.Pipeline, parsed[0]); shared != "" && name != DefaultName && other.Name() != DefaultName {
			return artifact.Errorf(artifact.Conflict, "pipeline %s is for %s already; let the patterns not overlap", other.Name(), shared)
		}
	}
	repositories, err := s.cfg.Store.Repositories(ctx)
	if err != nil {
		return err
	}
	with = append(with, Versioned{Pipeline: parsed[0]})
	for _, r := range repositories {
		if _, err := choose(with, r); artifact.KindOf(err) == artifact.Conflict {
			return err
		}
	}
	return nil
}

// shortDigest is the least of a digest's hexadecimal digits that means it; artifact.Digest.Short shows as many.
var shortDigest = regexp.MustCompile(`^(?:sha256:)?([0-9a-f]{12,63})$`)

func (s *Service) may(p artifact.Principal, r artifact.Repository, e artifact.Environment) error {
	if p.CanPromote(r, e) {
		return nil
	}
	return denied(p, "promote to", e.String()+" of "+r.String())
}

func denied(p artifact.Principal, what, where string) error {
	return artifact.Errorf(artifact.Denied, "%s, %s, may not %s %s; that takes a token of role promoter for it", p.Name, artifact.An(p.Roles()), what, where)
}
