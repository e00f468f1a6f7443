package promotion

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waybill/artifact"
)

// Preview is a promotion that was asked for as one asks for a price: every gate, met or not, and nothing moved.
type Preview struct {
	Pipeline    string
	Repository  artifact.Repository
	Environment artifact.Environment
	Digest      artifact.Digest
	Version     string
	Current     artifact.Deployment // what runs there now; its digest is zero where nothing does
	Gates       []GateState
	Approvals   *ApprovalGate // nil: it asks for none
	Given       []artifact.Approval
}

// GateState is one gate of an environment.
type GateState struct {
	Rule  string            // as in the reasons of a refusal
	Asks  string            // in words
	Unmet []artifact.Reason // empty: it is met
}

// Met reports whether the gate is.
func (g GateState) Met() bool { return len(g.Unmet) == 0 }

// Unmet counts the gates that are not met.
func (p Preview) Unmet() int {
	n := 0
	for _, g := range p.Gates {
		if !g.Met() {
			n++
		}
	}
	return n
}

// Overridable reports whether an admin's override would do: it takes policy, recall and signature as they are.
func (p Preview) Overridable() bool {
	for _, g := range p.Gates {
		if !g.Met() && (g.Rule == rulePolicy || g.Rule == "recalled" || g.Rule == "signed") {
			return false
		}
	}
	return p.Unmet() > 0
}

// rulePolicy is the gate that all reasons of policies are shown at.
const rulePolicy = "policy"

// Preview evaluates what Promote would, by the same function, for whoever may look at the repository.
func (s *Service) Preview(ctx context.Context, p artifact.Principal, r Request) (Preview, error) {
	if !p.Can(artifact.ActionLook, r.Repository) {
		return Preview{}, p.Refusal(artifact.ActionLook, r.Repository)
	}
	pipeline, err := s.Pipeline(ctx, r.Repository)
	if err != nil {
		return Preview{}, err
	}
	stage, err := s.stage(ctx, r.Repository, r.Environment)
	if err != nil {
		return Preview{}, err
	}
	v := Preview{Pipeline: pipeline.Name(), Repository: r.Repository, Environment: r.Environment, Approvals: stage.Requires.Approvals}
	if v.Digest, v.Version, err = s.version(ctx, r.Repository, r.Version); err != nil {
		return v, err
	}
	if v.Current, _, err = s.cfg.Store.Current(ctx, r.Repository, r.Environment); err != nil {
		return v, err
	}
	given, _, err := s.cfg.Store.Approvals(ctx, r.Repository, v.Digest)
	if err != nil {
		return v, err
	}
	for _, a := range given {
		if a.Environment == r.Environment {
			v.Given = append(v.Given, a)
		}
	}
	r.DryRun = true
	_, err = s.allow(ctx, movement{action: "promote", principal: p, request: r, digest: v.Digest, version: v.Version})
	var refused *artifact.Error
	if err != nil && (!errors.As(err, &refused) || len(refused.Reasons) == 0) {
		return v, err
	}
	v.Gates = stage.gates()
	if refused != nil {
		v.place(refused.Reasons)
	}
	return v, nil
}

// place puts each reason at its gate; what is no gate's is a policy's.
func (p *Preview) place(reasons []artifact.Reason) {
	for _, reason := range reasons {
		at := 0 // policy
		for i, g := range p.Gates {
			// A policy's rule may be called like a gate; of the pipeline's reasons each names the pipeline.
			if g.Rule == reason.Rule && reason.Policy == p.Pipeline {
				at = i
				break
			}
		}
		p.Gates[at].Unmet = append(p.Gates[at].Unmet, reason)
	}
}

// gates are all that a stage asks for, in the order in which they are evaluated.
func (stage Stage) gates() []GateState {
	r := stage.Requires
	gates := []GateState{{Rule: rulePolicy, Asks: "Every policy of now allows it"}, {Rule: "recalled", Asks: "It was not recalled"}}
	if len(r.After) > 0 {
		gates = append(gates, GateState{Rule: "after", Asks: "It was promoted to " + and(r.After) + " before"})
	}
	if r.Soak > 0 {
		gates = append(gates, GateState{Rule: "soak", Asks: fmt.Sprintf("It has been in %s for %s", and(r.After), span(r.Soak))})
	}
	gates = append(gates, GateState{Rule: "signed", Asks: "It is signed by this service's key"})
	if r.Scan != nil {
		gates = append(gates, GateState{Rule: "scan", Asks: "It has " + strings.Replace(r.Scan.String(), r.Scan.MaxAge.String(), span(r.Scan.MaxAge), 1)})
	}
	if len(r.Attestations) > 0 {
		types := make([]string, len(r.Attestations))
		for i, a := range r.Attestations {
			types[i] = a.Type
		}
		gates = append(gates, GateState{Rule: "attestations", Asks: "It has signed attestations: " + strings.Join(types, ", ")})
	}
	if r.Expression != nil {
		gates = append(gates, GateState{Rule: "expression", Asks: "This is true of it: " + strings.Join(strings.Fields(r.Expression.CEL), " ")})
	}
	if r.Approvals != nil {
		gates = append(gates, GateState{Rule: "approvals", Asks: "It has " + r.Approvals.String()})
	}
	if len(stage.Freezes) > 0 {
		windows := make([]string, len(stage.Freezes))
		for i, f := range stage.Freezes {
			windows[i] = f.String()
		}
		gates = append(gates, GateState{Rule: "freeze", Asks: "No freeze is on: " + strings.Join(windows, "; ")})
	}
	return gates
}

// Asks is what a stage asks for, in words.
func (stage Stage) Asks() []string {
	var all []string
	for _, g := range stage.gates() {
		all = append(all, g.Asks)
	}
	return all
}

func and(environments []artifact.Environment) string {
	names := make([]string, len(environments))
	for i, e := range environments {
		names[i] = e.String()
	}
	return strings.Join(names, " and ")
}

// Trail returns what an environment ran and could be rolled back to, newest first, each digest once.
func (s *Service) Trail(ctx context.Context, p artifact.Principal, r artifact.Repository, e artifact.Environment) ([]artifact.Promotion, error) {
	if !p.Can(artifact.ActionLook, r) {
		return nil, p.Refusal(artifact.ActionLook, r)
	}
	current, _, err := s.cfg.Store.Current(ctx, r, e)
	if err != nil {
		return nil, err
	}
	trail, err := s.cfg.Store.Trail(ctx, r, e)
	if err != nil {
		return nil, err
	}
	seen := map[artifact.Digest]bool{current.Digest: true}
	var all []artifact.Promotion
	for i := len(trail) - 1; i >= 0; i-- {
		if !seen[trail[i].Digest] {
			seen[trail[i].Digest] = true
			all = append(all, trail[i])
		}
	}
	return all, nil
}

// All returns the pipelines in force, by name.
func (s *Service) All(ctx context.Context) ([]Versioned, error) { return s.cfg.Store.Pipelines(ctx) }

// span is a duration without what is zero: 168h, not 168h0m0s.
func span(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
