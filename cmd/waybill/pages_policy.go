package main

import (
	"context"

	"waybill/artifact"
	"waybill/policy"
	"waybill/postgres"
	"waybill/server"
	"waybill/web"
)

// policyPages fits policies to the pages': they are checked, applied and tried by what the API does it with.
type policyPages struct {
	documents trusting
	trial     trial
	waiving   *policy.Waiving
}

func (p policyPages) db() *postgres.DB { return p.documents.db }

func policyVersion(r postgres.DocumentRow) web.PolicyVersion {
	return web.PolicyVersion{Name: r.Name, Version: r.Version, Hash: r.Hash, AppliedBy: r.AppliedBy, AppliedAt: r.AppliedAt, Body: r.Body}
}

func policyVersions(rows []postgres.DocumentRow) []web.PolicyVersion {
	all := make([]web.PolicyVersion, len(rows))
	for i, r := range rows {
		all[i] = policyVersion(r)
	}
	return all
}

const policyKind = "Policy"

func (p policyPages) InForce(ctx context.Context) ([]web.PolicyVersion, error) {
	rows, err := p.db().CurrentDocuments(ctx, policyKind)
	return policyVersions(rows), err
}

func (p policyPages) Versions(ctx context.Context, name string, before, n int) ([]web.PolicyVersion, error) {
	rows, err := p.db().DocumentVersions(ctx, policyKind, name, before, n)
	return policyVersions(rows), err
}

func (p policyPages) Version(ctx context.Context, name string, version int) (web.PolicyVersion, error) {
	row, err := p.db().DocumentVersion(ctx, policyKind, name, version)
	return policyVersion(row), err
}

// one parses a text that is one policy and nothing else.
func (p policyPages) one(text []byte) (server.ParsedDocument, policy.Document, error) {
	const file = "policy"
	all, err := server.ParseDocuments(file, text)
	if err != nil {
		return server.ParsedDocument{}, policy.Document{}, err
	}
	if len(all) != 1 || all[0].Kind != policyKind {
		return server.ParsedDocument{}, policy.Document{}, artifact.Errorf(artifact.Invalid, "The text is not one policy; waybill apply -f takes other documents, and several at once.")
	}
	parsed, err := policy.Parse(file, text)
	if err != nil {
		return all[0], policy.Document{}, err
	}
	return all[0], parsed[0], nil
}

func (p policyPages) Check(ctx context.Context, text []byte) (policy.Document, error) {
	d, parsed, err := p.one(text)
	if err != nil {
		return parsed, err
	}
	return parsed, p.documents.Fit(ctx, []server.ParsedDocument{d})
}

func (p policyPages) Impact(ctx context.Context, changed policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error) {
	return p.trial.Impact(ctx, []policy.Document{changed}, sees, tell)
}

func (p policyPages) Apply(ctx context.Context, actor artifact.Principal, text []byte) (web.PolicyVersion, bool, error) {
	d, _, err := p.one(text)
	if err != nil {
		return web.PolicyVersion{}, false, err
	}
	done, err := server.ApplyDocuments(ctx, p.documents, actor, []server.ParsedDocument{d})
	if err != nil {
		return web.PolicyVersion{}, false, err
	}
	return web.PolicyVersion{Name: done[0].Name, Version: done[0].Version, Hash: done[0].Hash}, done[0].Changed, nil
}

func (p policyPages) Waivers(ctx context.Context, by artifact.Principal, n int) ([]artifact.Waiver, error) {
	all, _, err := p.waiving.List(ctx, by, false, 0, n)
	return all, err
}
