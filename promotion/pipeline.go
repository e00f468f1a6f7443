// Package promotion moves digests through environments: pipelines, the gates between their environments, promote, roll
// back, recall, and the gate that decides every pull.
package promotion

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Pipeline is an order of environments with what each asks for, for the repositories that it matches.
type Pipeline struct {
	name         string
	repositories []string
	except       []string
	Environments []Stage
	hash         artifact.Digest
}

// Stage is one environment of a pipeline.
type Stage struct {
	Environment artifact.Environment
	Requires    Requires
	Freezes     []Freeze `json:",omitempty"` // when nothing goes there
}

// Requires is what an environment asks of a digest. A signature by Waybill is asked for always.
type Requires struct {
	After     []artifact.Environment
	Soak      time.Duration `json:",omitzero"` // that it was in each of After, since it was promoted there last
	Scan      *ScanGate
	Approvals *ApprovalGate `json:",omitempty"`

	Attestations []AttestationGate `json:",omitempty"`
	Expression   *ExpressionGate   `json:",omitempty"`
}

// ScanGate asks for a scan no older than MaxAge (0: of any age) without a finding of Severity or worse ("": any).
type ScanGate struct {
	MaxAge   time.Duration
	Severity artifact.Severity
}

// Versioned is a pipeline as it is in force.
type Versioned struct {
	Pipeline
	Version int
}

//go:embed default.yaml
var defaultPipeline []byte

// Default returns the pipeline that is in force from the first start: dev, staging, production, in this order.
func Default() []byte { return slices.Clone(defaultPipeline) }

// DefaultName is the pipeline that gives way to any other that matches.
const DefaultName = "default"

type source struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Match struct {
			Repositories []string `yaml:"repositories"`
			Except       []string `yaml:"except"`
		} `yaml:"match"`
		Environments []stageSource `yaml:"environments"`
	} `yaml:"spec"`
}

type stageSource struct {
	Name     string `yaml:"name"`
	Requires struct {
		After  []string `yaml:"after"`
		Signed *bool    `yaml:"signed"`
		Scan   *struct {
			MaxAge   string            `yaml:"maxAge"`
			Severity artifact.Severity `yaml:"severity"`
		} `yaml:"scan"`
		Attestations []struct {
			Type string   `yaml:"type"`
			Keys []string `yaml:"keys"`

			Identities []policy.Identity `yaml:"identities"`

			Result  string `yaml:"result"`
			CEL     string `yaml:"cel"`
			Message string `yaml:"message"`
		} `yaml:"attestations"`
		Expression *struct {
			CEL     string `yaml:"cel"`
			Message string `yaml:"message"`
		} `yaml:"expression"`
		Soak      string `yaml:"soak"`
		Approvals *struct {
			Count     *int          `yaml:"count"`
			Role      artifact.Role `yaml:"role"`
			NotPusher *bool         `yaml:"notPusher"`
		} `yaml:"approvals"`
	} `yaml:"requires"`
	Freeze []struct {
		Cron     string `yaml:"cron"`
		For      string `yaml:"for"`
		Timezone string `yaml:"timezone"`
	} `yaml:"freeze"`
}

// Parse reads pipelines, one or many documents. What is unknown or unsound is an Invalid error with file, line and
// column; file only names the source.
func Parse(file string, src []byte) ([]Pipeline, error) {
	nodes, err := policy.ParseYAML(file, src)
	if err != nil {
		return nil, err
	}
	var all []Pipeline
	for _, n := range nodes {
		p, err := parsePipeline(n)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, artifact.Errorf(artifact.Invalid, "%s:1:1: no document; want apiVersion: waybill/v1, kind: Pipeline", file)
	}
	return all, nil
}

func parsePipeline(n policy.Node) (Pipeline, error) {
	var src source
	if err := n.Decode(&src); err != nil {
		return Pipeline{}, err
	}
	if err := policy.CheckHeader(n, src.APIVersion, src.Kind, "Pipeline", src.Metadata.Name); err != nil {
		return Pipeline{}, err
	}
	if err := policy.CheckMatch(n, src.Spec.Match.Repositories, src.Spec.Match.Except); err != nil {
		return Pipeline{}, err
	}
	if len(src.Spec.Environments) == 0 || len(src.Spec.Environments) > 50 {
		return Pipeline{}, n.At("$.spec.environments").Errorf("spec.environments has %d entries; want 1 to 50", len(src.Spec.Environments))
	}
	p := Pipeline{name: src.Metadata.Name, repositories: src.Spec.Match.Repositories, except: src.Spec.Match.Except}
	for i, s := range src.Spec.Environments {
		stage, err := parseStage(n, i, s, p.Environments)
		if err != nil {
			return Pipeline{}, err
		}
		p.Environments = append(p.Environments, stage)
	}
	canonical, err := json.Marshal(struct {
		Name                 string
		Repositories, Except []string
		Environments         []Stage
	}{p.name, p.repositories, p.except, p.Environments})
	p.hash = artifact.DigestOf(canonical)
	return p, err
}

func parseStage(n policy.Node, i int, s stageSource, before []Stage) (Stage, error) {
	at := func(key string) policy.Node { return n.At("$.spec.environments[%d].%s", i, key) }
	e, err := artifact.ParseEnvironment(s.Name)
	if err != nil {
		return Stage{}, at("name").Errorf("%v", err)
	}
	known := func(e artifact.Environment) bool {
		return slices.ContainsFunc(before, func(b Stage) bool { return b.Environment == e })
	}
	if known(e) {
		return Stage{}, at("name").Errorf("environment %s stands twice in this pipeline", e)
	}
	stage := Stage{Environment: e}
	for _, name := range s.Requires.After {
		earlier, err := artifact.ParseEnvironment(name)
		if err != nil || !known(earlier) {
			return Stage{}, at("requires.after").Errorf("%s is after %q, which is no environment before it", e, name)
		}
		stage.Requires.After = append(stage.Requires.After, earlier)
	}
	if s.Requires.Signed != nil && !*s.Requires.Signed {
		return Stage{}, at("requires.signed").Errorf("signed: false is not offered: no signature, no promotion; leave the key out")
	}
	if scan := s.Requires.Scan; scan != nil {
		gate := ScanGate{Severity: scan.Severity}
		if scan.MaxAge != "" {
			if gate.MaxAge, err = time.ParseDuration(scan.MaxAge); err != nil || gate.MaxAge <= 0 {
				return Stage{}, at("requires.scan.maxAge").Errorf("maxAge is %q; want a duration such as 24h", scan.MaxAge)
			}
		}
		if scan.Severity != "" && scan.Severity.Rank() < 0 {
			return Stage{}, at("requires.scan.severity").Errorf("severity is %q; want unknown, low, medium, high or critical", scan.Severity)
		}
		stage.Requires.Scan = &gate
	}
	return stage, errors.Join(stage.addSoak(at, s), stage.addApprovals(at, s), stage.addStatements(at, s), stage.addFreezes(at, s))
}

func (stage *Stage) addSoak(at func(string) policy.Node, s stageSource) error {
	if s.Requires.Soak == "" {
		return nil
	}
	d, err := policy.ParseDuration(s.Requires.Soak)
	switch {
	case err != nil:
		return at("requires.soak").Errorf("soak is %q; want a duration such as 2h", s.Requires.Soak)
	case len(stage.Requires.After) == 0:
		return at("requires.soak").Errorf("soak is a time in the environments before this one; say after: which these are")
	}
	stage.Requires.Soak = time.Duration(d)
	return nil
}

func (stage *Stage) addApprovals(at func(string) policy.Node, s stageSource) error {
	src := s.Requires.Approvals
	if src == nil {
		return nil
	}
	gate := ApprovalGate{Count: 1, Role: src.Role, NotPusher: src.NotPusher == nil || *src.NotPusher}
	if src.Count != nil {
		gate.Count = *src.Count
	}
	if gate.Role == "" {
		gate.Role = artifact.Approver
	}
	switch {
	case gate.Count < 1 || gate.Count > maxApprovals:
		return at("requires.approvals.count").Errorf("count is %d; want 1 to %d", gate.Count, maxApprovals)
	case !(artifact.Principal{Role: gate.Role}).Can(artifact.ActionApprove, artifact.Repository{}):
		return at("requires.approvals.role").Errorf("role is %q; want one that may approve: approver or admin", gate.Role)
	}
	stage.Requires.Approvals = &gate
	return nil
}

func (stage *Stage) addStatements(at func(string) policy.Node, s stageSource) error {
	if len(s.Requires.Attestations) > maxAttestations {
		return at("requires.attestations").Errorf("attestations has %d entries; at most %d are taken", len(s.Requires.Attestations), maxAttestations)
	}
	for i, src := range s.Requires.Attestations {
		gate, err := NewAttestationGate(src.Type, src.Keys, src.Result, src.CEL, src.Message)
		if err != nil {
			return at(fmt.Sprintf("requires.attestations[%d].type", i)).Errorf("%v", err)
		}
		if err := gate.by(at(fmt.Sprintf("requires.attestations[%d]", i)), src.Identities); err != nil {
			return err
		}
		stage.Requires.Attestations = append(stage.Requires.Attestations, gate)
	}
	if src := s.Requires.Expression; src != nil {
		gate, err := NewExpressionGate(src.CEL, src.Message)
		if err != nil {
			return at("requires.expression.cel").Errorf("%v", err)
		}
		stage.Requires.Expression = &gate
	}
	return nil
}

func (stage *Stage) addFreezes(at func(string) policy.Node, s stageSource) error {
	if len(s.Freeze) > maxFreezes {
		return at("freeze").Errorf("freeze has %d windows; at most %d are taken", len(s.Freeze), maxFreezes)
	}
	for i, src := range s.Freeze {
		here := func(key string) policy.Node { return at(fmt.Sprintf("freeze[%d].%s", i, key)) }
		length, err := policy.ParseDuration(src.For)
		if err != nil {
			return here("for").Errorf("for is %q; want a duration such as 64h", src.For)
		}
		f, err := NewFreeze(src.Cron, time.Duration(length), src.Timezone)
		if err != nil {
			return here("cron").Errorf("%v", err)
		}
		stage.Freezes = append(stage.Freezes, f)
	}
	return nil
}

// Bounds of a stage.
const (
	maxApprovals = 20
	maxFreezes   = 20
)

// Name is the pipeline's name.
func (p Pipeline) Name() string { return p.name }

// Hash identifies what the pipeline means.
func (p Pipeline) Hash() artifact.Digest { return p.hash }

// Repositories are the patterns of what it is for.
func (p Pipeline) Repositories() []string { return slices.Clone(p.repositories) }

// Except are the patterns of what it is not for, though Repositories match it.
func (p Pipeline) Except() []string { return slices.Clone(p.except) }

// Matches reports whether the pipeline is for a repository.
func (p Pipeline) Matches(r artifact.Repository) bool {
	matches := func(pattern string) bool { return artifact.MatchGlob(pattern, r.String()) }
	return slices.ContainsFunc(p.repositories, matches) && !slices.ContainsFunc(p.except, matches)
}

// Stage returns an environment of the pipeline.
func (p Pipeline) Stage(e artifact.Environment) (Stage, bool) {
	for _, s := range p.Environments {
		if s.Environment == e {
			return s, true
		}
	}
	return Stage{}, false
}

// String is the order of environments, for people.
func (p Pipeline) String() string {
	names := make([]string, len(p.Environments))
	for i, s := range p.Environments {
		names[i] = s.Environment.String()
	}
	return strings.Join(names, " → ")
}

// sharedPattern returns a pattern that both name, if there is one.
func sharedPattern(a, b Pipeline) string {
	for _, pattern := range a.repositories {
		if slices.Contains(b.repositories, pattern) {
			return pattern
		}
	}
	return ""
}

// choose returns the pipeline for a repository: the one that matches, or the default where no other does.
func choose(all []Versioned, r artifact.Repository) (Versioned, error) {
	var found []Versioned
	for _, p := range all {
		if p.Matches(r) && p.Name() != DefaultName {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		for _, p := range all {
			if p.Name() == DefaultName && p.Matches(r) {
				return p, nil
			}
		}
	}
	switch len(found) {
	case 0:
		return Versioned{}, artifact.Errorf(artifact.NotFound, "no pipeline is for %s; apply one that matches it (waybill apply -f FILE)", r)
	case 1:
		return found[0], nil
	}
	return Versioned{}, artifact.Errorf(artifact.Conflict, "two pipelines are for %s: %s and %s; let their patterns not overlap", r, found[0].Name(), found[1].Name())
}

func (g ScanGate) String() string {
	text := "a scan"
	if g.MaxAge > 0 {
		text += fmt.Sprintf(" of the last %v", g.MaxAge)
	}
	if g.Severity != "" {
		text += fmt.Sprintf(" without a finding of severity %s or worse", g.Severity)
	}
	return text
}
