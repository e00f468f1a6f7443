package promotion

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// ApprovalGate asks for the word of Count people of a role. Nobody's counts for what they promote themselves, nor, with
// NotPusher, for what they pushed; whichever of their tokens they used (artifact.Holder).
type ApprovalGate struct {
	Count     int
	Role      artifact.Role
	NotPusher bool
}

// String is what the gate asks for.
func (g ApprovalGate) String() string {
	text := artifact.Count(g.Count, "approval") + " of role " + string(g.Role)
	if g.NotPusher {
		text += ", not by who pushed it"
	}
	return text
}

// count returns the approvals for an environment that count, and of the others why they do not. promoter is who promotes
// it; "": nobody yet.
func (g ApprovalGate) count(environment artifact.Environment, e Evidence, promoter string) (good []artifact.Approval, not []string) {
	seen := map[string]bool{}
	for _, a := range e.Approvals {
		holder := artifact.Holder(a.Actor)
		switch {
		case a.Environment != environment || seen[holder]:
			continue
		case a.Role != g.Role:
			not = append(not, fmt.Sprintf("that of %s does not count, %s", a.Actor, artifact.An(string(a.Role))))
		case holder == artifact.Holder(promoter):
			not = append(not, fmt.Sprintf("that of %s does not count, who promotes it", a.Actor))
		case g.NotPusher && e.pushedBy(a.Actor):
			not = append(not, fmt.Sprintf("that of %s does not count, who pushed it", a.Actor))
		default:
			good = append(good, a)
		}
		seen[holder] = true
	}
	return good, not
}

// pushedBy reports whether who has a name pushed the digest or a part of it, by whichever token.
func (e Evidence) pushedBy(name string) bool {
	return slices.ContainsFunc(e.Pushers, func(pusher string) bool { return artifact.Holder(pusher) == artifact.Holder(name) })
}

// approvedBy returns the approval for an environment that who has a name gave by another token.
func (e Evidence) approvedBy(name string, environment artifact.Environment) (artifact.Approval, bool) {
	i := slices.IndexFunc(e.Approvals, func(a artifact.Approval) bool {
		return a.Environment == environment && a.Actor != name && artifact.Holder(a.Actor) == artifact.Holder(name)
	})
	if i < 0 {
		return artifact.Approval{}, false
	}
	return e.Approvals[i], true
}

func (g ApprovalGate) unmet(environment artifact.Environment, e Evidence, promoter string) []artifact.Reason {
	good, not := g.count(environment, e, promoter)
	if len(good) >= g.Count {
		return nil
	}
	message := fmt.Sprintf("it has %d of %s", len(good), g)
	for _, a := range good {
		not = append([]string{"there is that of " + a.Actor}, not...)
	}
	if len(not) > 0 {
		message += " (" + strings.Join(not, "; ") + ")"
	}
	return []artifact.Reason{{Rule: "approvals", Awaits: artifact.AwaitsPeople,
		Message: fmt.Sprintf("%s; %d more would meet it: waybill approve SERVICE VERSION %s", message, g.Count-len(good), environment)}}
}

// ApprovalStore keeps approvals; *postgres.DB is one. Each method that writes is one transaction with its ledger entry.
type ApprovalStore interface {
	// Approve records an approval; a Conflict when its actor gave it already.
	Approve(ctx context.Context, a artifact.Approval) (artifact.Approval, error)
	// RevokeApproval ends one; NotFound when it was revoked already.
	RevokeApproval(ctx context.Context, id int64, actor string) (artifact.Approval, error)
	Approval(ctx context.Context, id int64) (artifact.Approval, error)
	// Approvals returns those of a digest that were not revoked, the oldest first, and who pushed it.
	Approvals(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (all []artifact.Approval, pushers []string, err error)
	// ApprovalsOf returns the approvals in force of digests for environments.
	ApprovalsOf(ctx context.Context, candidates []artifact.Deployment) ([]artifact.Approval, error)
	// ApprovedDigests returns what has an approval that was not revoked, and is not current where that is for.
	ApprovedDigests(ctx context.Context) ([]artifact.Deployment, error)
	// Deployments returns what each environment of a repository (the zero one: of all) runs now.
	Deployments(ctx context.Context, repository artifact.Repository) ([]artifact.Deployment, error)
}

// Approve records p's word that a version may go to an environment: that digest, and no other that the version may come
// to mean.
func (s *Service) Approve(ctx context.Context, p artifact.Principal, r Request) (artifact.Approval, error) {
	if !p.CanTo(artifact.ActionApprove, r.Repository, r.Environment) {
		return artifact.Approval{}, artifact.Errorf(artifact.Denied, "%s, %s, may not approve what goes to %s of %s; that takes a token of role approver for it", p.Name, artifact.An(p.Roles()), r.Environment, r.Repository)
	}
	stage, err := s.stage(ctx, r.Repository, r.Environment)
	if err != nil {
		return artifact.Approval{}, err
	}
	gate := stage.Requires.Approvals
	if gate == nil {
		return artifact.Approval{}, artifact.Errorf(artifact.Invalid, "%s of %s asks for no approvals; its pipeline says so", r.Environment, r.Repository)
	}
	digest, version, err := s.version(ctx, r.Repository, r.Version)
	if err != nil {
		return artifact.Approval{}, err
	}
	evidence, err := s.cfg.Store.Evidence(ctx, r.Repository, digest)
	if err != nil {
		return artifact.Approval{}, err
	}
	switch {
	case !p.As(gate.Role, r.Repository, r.Environment):
		return artifact.Approval{}, artifact.Errorf(artifact.Denied, "%s wants %s, and %s is %s", r.Environment, gate, p.Name, artifact.An(p.Roles()))
	case gate.NotPusher && evidence.pushedBy(p.Name):
		return artifact.Approval{}, artifact.Errorf(artifact.Denied, "%s pushed %s@%s, and nobody approves what they pushed; ask another %s", p.Name, r.Repository, digest, gate.Role)
	case len(evidence.Recalled) > 0:
		return artifact.Approval{}, artifact.Errorf(artifact.Denied, "%s@%s: %s", r.Repository, digest, strings.Join(evidence.Recalled, "; "))
	}
	if other, ok := evidence.approvedBy(p.Name, r.Environment); ok {
		return artifact.Approval{}, artifact.Errorf(artifact.Conflict, "%s approved it already, and tokens of one name count as one; give each approver a token of a name of their own", other.Actor)
	}
	return s.cfg.Store.Approve(ctx, artifact.Approval{Repository: r.Repository, Digest: digest, Environment: r.Environment, Version: version,
		Actor: p.Name, Role: gate.Role, Reason: r.Reason, At: s.cfg.Now()})
}

// RevokeApproval ends an approval. Whoever may approve there may: what was doubted by one is looked at again.
func (s *Service) RevokeApproval(ctx context.Context, p artifact.Principal, id int64) (artifact.Approval, error) {
	if !p.Can(artifact.ActionApprove, artifact.Repository{}) {
		return artifact.Approval{}, artifact.Errorf(artifact.Denied, "%s, %s, may not revoke an approval; that takes a token of role approver", p.Name, artifact.An(p.Roles()))
	}
	a, err := s.cfg.Store.Approval(ctx, id)
	if err != nil {
		return a, err
	}
	if !p.CanTo(artifact.ActionApprove, a.Repository, a.Environment) {
		return artifact.Approval{}, artifact.Errorf(artifact.NotFound, "there is no approval %d", id)
	}
	return s.cfg.Store.RevokeApproval(ctx, id, p.Name)
}

// Waiting is a digest that waits for approvals.
type Waiting struct {
	Repository  artifact.Repository
	Environment artifact.Environment
	Digest      artifact.Digest
	Version     string
	Gate        ApprovalGate
	Approvals   []artifact.Approval // those that count
}

// Waiting returns what waits for approvals: of each environment that asks for some, what runs in those before it and not
// in it, and what somebody approved already. sees says whose repositories are told.
func (s *Service) Waiting(ctx context.Context, sees func(artifact.Repository) bool) ([]Waiting, error) {
	pipelines, err := s.cfg.Store.Pipelines(ctx)
	if err != nil {
		return nil, err
	}
	runs, err := s.cfg.Store.Deployments(ctx, artifact.Repository{})
	if err != nil {
		return nil, err
	}
	approved, err := s.cfg.Store.ApprovedDigests(ctx)
	if err != nil {
		return nil, err
	}
	var all []Waiting
	for _, d := range approved {
		all = append(all, Waiting{Repository: d.Repository, Environment: d.Environment, Digest: d.Digest, Version: d.Version})
	}
	current := map[artifact.Repository]map[artifact.Environment]artifact.Deployment{}
	for _, d := range runs {
		if current[d.Repository] == nil {
			current[d.Repository] = map[artifact.Environment]artifact.Deployment{}
		}
		current[d.Repository][d.Environment] = d
	}
	for r, here := range current {
		pipeline, err := choose(pipelines, r)
		if err != nil {
			continue // a promotion says what is wrong with them
		}
		for _, stage := range pipeline.Environments {
			for _, earlier := range stage.Requires.After {
				if d, ok := here[earlier]; ok && d.Digest != here[stage.Environment].Digest {
					all = append(all, Waiting{Repository: r, Environment: stage.Environment, Digest: d.Digest, Version: d.Version})
				}
			}
		}
	}
	return s.lacking(ctx, pipelines, all, sees)
}

// lacking keeps of candidates, once each, those that lack approvals.
func (s *Service) lacking(ctx context.Context, pipelines []Versioned, all []Waiting, sees func(artifact.Repository) bool) ([]Waiting, error) {
	slices.SortStableFunc(all, func(x, y Waiting) int {
		return strings.Compare(x.Repository.String()+" "+x.Environment.String()+" "+x.Digest.String(), y.Repository.String()+" "+y.Environment.String()+" "+y.Digest.String())
	})
	var candidates []Waiting
	var asked []artifact.Deployment
	for i, w := range all {
		if i > 0 && all[i-1].Repository == w.Repository && all[i-1].Environment == w.Environment && all[i-1].Digest == w.Digest || !sees(w.Repository) {
			continue
		}
		pipeline, err := choose(pipelines, w.Repository)
		if err != nil {
			continue
		}
		if stage, ok := pipeline.Stage(w.Environment); ok && stage.Requires.Approvals != nil {
			w.Gate = *stage.Requires.Approvals
			candidates, asked = append(candidates, w), append(asked, w.deployment())
		}
	}
	given, err := s.cfg.Store.ApprovalsOf(ctx, asked)
	if err != nil {
		return nil, err
	}
	by := map[artifact.Deployment][]artifact.Approval{}
	for _, a := range given {
		key := artifact.Deployment{Repository: a.Repository, Environment: a.Environment, Digest: a.Digest}
		by[key] = append(by[key], a)
	}
	var waiting []Waiting
	for _, w := range candidates {
		e := Evidence{Approvals: by[w.deployment()]}
		if len(e.Approvals) > 0 && w.Gate.NotPusher {
			if _, e.Pushers, err = s.cfg.Store.Approvals(ctx, w.Repository, w.Digest); err != nil {
				return nil, err
			}
		}
		if w.Approvals, _ = w.Gate.count(w.Environment, e, ""); len(w.Approvals) < w.Gate.Count {
			waiting = append(waiting, w)
		}
	}
	return waiting, nil
}

// deployment is what w would become.
func (w Waiting) deployment() artifact.Deployment {
	return artifact.Deployment{Repository: w.Repository, Environment: w.Environment, Digest: w.Digest}
}

// stage returns what an environment of a repository asks for.
func (s *Service) stage(ctx context.Context, r artifact.Repository, e artifact.Environment) (Stage, error) {
	pipeline, err := s.Pipeline(ctx, r)
	if err != nil {
		return Stage{}, err
	}
	stage, ok := pipeline.Stage(e)
	if !ok {
		return Stage{}, artifact.Errorf(artifact.NotFound, "pipeline %s has no environment %s; it has %s", pipeline.Name(), e, pipeline)
	}
	return stage, nil
}
