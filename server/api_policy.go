package server

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"waybill/artifact"
	"waybill/policy"
	"waybill/storage"
)

// Trial judges under policies that are not in force.
type Trial interface {
	policy.Policies // in force
	// JudgeUnder judges a stored manifest under the given policies and the waivers of now.
	JudgeUnder(ctx context.Context, m artifact.StoredManifest, policies []policy.Versioned) (policy.Verdict, error)
	// Impact judges everything stored under the policies in force and under the changed ones; see policy.Judge.Impact.
	Impact(ctx context.Context, changed []policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error)
}

// Waiving is the use cases of waivers (policy.Waiving).
type Waiving interface {
	Create(ctx context.Context, p artifact.Principal, r policy.WaiverRequest) (artifact.Waiver, error)
	Revoke(ctx context.Context, p artifact.Principal, id int64) (artifact.Waiver, error)
	// List returns n waivers that p may know of, newest first, and which id to ask for more before; 0 when there are none.
	List(ctx context.Context, p artifact.Principal, ended bool, before int64, n int) (all []artifact.Waiver, next int64, err error)
}

// DocumentVersion is a version of a document, with what it changed.
type DocumentVersion struct {
	Version   int             `json:"version"`
	Hash      artifact.Digest `json:"hash"`
	AppliedBy string          `json:"appliedBy"`
	AppliedAt time.Time       `json:"appliedAt"`
	Changes   []policy.Change `json:"changes"` // since the version before it; of the first, none
}

// DocumentHistory is the answer to GET /documents/{kind}/{name}/history, newest first.
type DocumentHistory struct {
	Kind     string            `json:"kind"`
	Name     string            `json:"name"`
	Versions []DocumentVersion `json:"versions"`
}

// PolicyTest is the answer to POST /policies/test, in the order in which images were named.
type PolicyTest struct {
	Verdicts []artifact.VerdictRecord `json:"verdicts"`
}

// PolicyList is the answer to GET /policies, by name.
type PolicyList struct {
	Policies []ShownPolicy `json:"policies"`
}

// ShownPolicy is a policy in force, in words; GET /documents/policy/{name} has its text.
type ShownPolicy struct {
	Name    string          `json:"name"`
	Version int             `json:"version"`
	Hash    artifact.Digest `json:"hash"`
	policy.Words
}

// ImpactEvent is one line of an impact's answer. The last line has Result or Problem, and no other does.
type ImpactEvent struct {
	Change  *policy.ImpactChange `json:"change,omitempty"`
	Images  int                  `json:"images,omitempty"` // judged so far
	Result  *policy.Impact       `json:"result,omitempty"`
	Problem *Problem             `json:"problem,omitempty"`
}

// WaiverRequest asks for a waiver.
type WaiverRequest struct {
	Rule       string          `json:"rule" minLength:"1" maxLength:"300" doc:"RULE, or RULE:FINDING such as max-severity:CVE-2024-24790"`
	Digest     artifact.Digest `json:"digest,omitzero" doc:"Of the image; this or repository"`
	Repository string          `json:"repository,omitempty" maxLength:"255" doc:"A pattern such as shop/**; this or digest"`
	Expires    time.Time       `json:"expires" doc:"At that instant it ends"`
	Reason     string          `json:"reason" minLength:"1" maxLength:"500"`
}

// WaiverList is the answer to GET /waivers, newest first. Next is to be asked for with before, where there may be more.
type WaiverList struct {
	Waivers []artifact.Waiver `json:"waivers"`
	Next    int64             `json:"next,omitempty"`
}

type (
	documentHistoryInput struct {
		Kind   string `path:"kind" enum:"Policy,Pipeline,Repositories,policy,pipeline,repositories"`
		Name   string `path:"name" maxLength:"100"`
		Before int    `query:"before" minimum:"0" doc:"Versions before this one only"`
		Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"50"`
	}
	documentHistoryOutput struct{ Body DocumentHistory }
	policyTestInput       struct {
		stream
		Refs []string `query:"ref,explode" required:"true" minItems:"1" maxItems:"100" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST of images that are stored here"`
		With bool     `query:"with" doc:"Beside the policies in force of other names, and not instead of all"`
		File string   `query:"file" maxLength:"300" doc:"The file's name, for error messages"`
	}
	policyTestOutput  struct{ Body PolicyTest }
	policyImpactInput struct {
		stream
		File string `query:"file" maxLength:"300" doc:"The file's name, for error messages"`
	}
	policyImpactOutput struct {
		Body func(huma.Context)
	}
	listPoliciesOutput struct{ Body PolicyList }
	createWaiverInput  struct{ Body WaiverRequest }
	waiverOutput       struct{ Body artifact.Waiver }
	waiversInput       struct {
		All    bool  `query:"all" doc:"Those that ended, too"`
		Before int64 `query:"before" minimum:"0" doc:"Older ones than this only"`
		Limit  int   `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
	}
	waiversOutput struct{ Body WaiverList }
	waiverInput   struct {
		ID int64 `path:"waiver" minimum:"1"`
	}
)

// kindOf is how a kind is spelt in documents.
func kindOf(kind string) string {
	for _, known := range []string{"Policy", "Pipeline", storage.Kind} {
		if strings.EqualFold(known, kind) {
			return known
		}
	}
	return kind
}

func (a *API) documentHistory(ctx context.Context, _ artifact.Principal, in *documentHistoryInput) (*documentHistoryOutput, error) {
	kind := kindOf(in.Kind)
	all, err := a.cfg.Documents.DocumentVersions(ctx, kind, in.Name, in.Before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 && in.Before == 0 {
		return nil, artifact.Errorf(artifact.NotFound, "no %s named %.100q was ever applied; `waybill policy list` names those in force", strings.ToLower(kind), in.Name)
	}
	out := &documentHistoryOutput{Body: DocumentHistory{Kind: kind, Name: in.Name, Versions: []DocumentVersion{}}}
	for i, d := range all[:min(len(all), in.Limit)] {
		v := DocumentVersion{Version: d.Version, Hash: d.Hash, AppliedBy: d.AppliedBy, AppliedAt: d.AppliedAt, Changes: []policy.Change{}}
		if i+1 < len(all) {
			if v.Changes, err = policy.Diff([]byte(all[i+1].Body), []byte(d.Body)); err != nil {
				return nil, err
			}
		}
		out.Body.Versions = append(out.Body.Versions, v)
	}
	return out, nil
}

// policies parses those of a body; what else it holds is checked and left.
func policies(body io.Reader, file string) ([]policy.Document, error) {
	src, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if file == "" {
		file = "document"
	}
	documents, err := ParseDocuments(file, src)
	if err != nil {
		return nil, err
	}
	var all []policy.Document
	for _, d := range documents {
		if d.Kind != "Policy" {
			continue
		}
		parsed, err := policy.Parse(file, d.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, parsed...)
	}
	if len(all) == 0 {
		return nil, artifact.Errorf(artifact.Invalid, "%s has no document of kind Policy", file)
	}
	return all, nil
}

func (a *API) listPolicies(ctx context.Context, _ artifact.Principal, _ *struct{}) (*listPoliciesOutput, error) {
	all, err := a.cfg.Trial.Policies(ctx)
	if err != nil {
		return nil, err
	}
	out := &listPoliciesOutput{Body: PolicyList{Policies: []ShownPolicy{}}}
	for _, one := range all {
		out.Body.Policies = append(out.Body.Policies, ShownPolicy{Name: one.Name(), Version: one.Version, Hash: one.Hash(), Words: one.Words()})
	}
	slices.SortFunc(out.Body.Policies, func(x, y ShownPolicy) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

func (a *API) testPolicy(ctx context.Context, p artifact.Principal, in *policyTestInput) (*policyTestOutput, error) {
	changed, err := policies(in.body(maxJSON, "the policies"), in.File)
	if err != nil {
		return nil, err
	}
	var inForce []policy.Versioned
	if in.With {
		if inForce, err = a.cfg.Trial.Policies(ctx); err != nil {
			return nil, err
		}
	}
	out := &policyTestOutput{Body: PolicyTest{Verdicts: []artifact.VerdictRecord{}}}
	for _, ref := range in.Refs {
		s, err := a.look(ctx, p, ref)
		if err != nil {
			return nil, err
		}
		v, err := a.cfg.Trial.JudgeUnder(ctx, s.StoredManifest, policy.Replace(inForce, changed))
		if err != nil {
			return nil, err
		}
		v.Reasons, v.Policies = orEmpty(v.Reasons), orEmpty(v.Policies)
		out.Body.Verdicts = append(out.Body.Verdicts, v.VerdictRecord)
	}
	return out, nil
}

// impact answers 200 with the first event, so what fails later is told in the last line.
func (a *API) impact(_ context.Context, p artifact.Principal, in *policyImpactInput) (*policyImpactOutput, error) {
	changed, err := policies(in.body(maxJSON, "the policies"), in.File)
	if err != nil {
		return nil, err
	}
	return &policyImpactOutput{Body: func(hc huma.Context) {
		in.takeTime()
		events := &eventWriter{hc: hc}
		done, err := a.cfg.Trial.Impact(hc.Context(), changed, func(r artifact.Repository) bool { return p.Can(artifact.ActionAudit, r) },
			func(c *policy.ImpactChange, images int) { events.send(ImpactEvent{Change: c, Images: images}) })
		if err != nil {
			a.endStream(hc, events, err, func(p *Problem) any { return ImpactEvent{Problem: p} })
			return
		}
		events.send(ImpactEvent{Result: &done})
	}}, nil
}

func (a *API) createWaiver(ctx context.Context, p artifact.Principal, in *createWaiverInput) (*waiverOutput, error) {
	w, err := a.cfg.Waiving.Create(ctx, p, policy.WaiverRequest{Rule: in.Body.Rule, Digest: in.Body.Digest, Repository: in.Body.Repository, Expires: in.Body.Expires, Reason: in.Body.Reason})
	if err != nil {
		return nil, err
	}
	return &waiverOutput{Body: w}, nil
}

func (a *API) waivers(ctx context.Context, p artifact.Principal, in *waiversInput) (*waiversOutput, error) {
	all, next, err := a.cfg.Waiving.List(ctx, p, in.All, in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	return &waiversOutput{Body: WaiverList{orEmpty(all), next}}, nil
}

func (a *API) revokeWaiver(ctx context.Context, p artifact.Principal, in *waiverInput) (*waiverOutput, error) {
	w, err := a.cfg.Waiving.Revoke(ctx, p, in.ID)
	if err != nil {
		return nil, err
	}
	return &waiverOutput{Body: w}, nil
}
