package main

import (
	"context"

	"waybill/artifact"
	"waybill/policy"
	"waybill/postgres"
	"waybill/promotion"
	"waybill/server"
	"waybill/storage"
)

// documents fits stored documents to the API's.
type documents struct {
	db         *postgres.DB
	promotions *promotion.Service
}

func (d documents) Apply(ctx context.Context, actor artifact.Principal, p server.ParsedDocument) (server.Applied, error) {
	if p.Kind == "Pipeline" {
		if err := d.promotions.Fits(ctx, p.Name, p.Body); err != nil {
			return server.Applied{}, err
		}
	}
	v, changed, err := d.db.ApplyDocument(ctx, p.Kind, p.Name, p.Hash, string(p.Body), actor.Name)
	return server.Applied{Kind: p.Kind, Name: p.Name, Version: v, Hash: p.Hash, Changed: changed}, err
}

// Fit checks rules for repositories all together with those in force; a pipeline is checked when its turn comes.
func (d documents) Fit(ctx context.Context, all []server.ParsedDocument) error {
	var together []storage.Document
	anew := map[string]bool{}
	for _, p := range all {
		if p.Kind != storage.Kind {
			continue
		}
		parsed, err := storage.Parse(p.Name, p.Body)
		if err != nil {
			return err
		}
		together, anew[p.Name] = append(together, parsed...), true
	}
	if len(together) == 0 {
		return nil
	}
	current, err := d.db.StorageDocuments(ctx)
	if err != nil {
		return err
	}
	for _, c := range current {
		if !anew[c.Name()] {
			together = append(together, c.Document)
		}
	}
	return storage.Fit(together)
}

func (d documents) Current(ctx context.Context) ([]server.Document, error) {
	rows, err := d.db.CurrentDocuments(ctx, "")
	return documentsOf(rows), err
}

func documentsOf(rows []postgres.DocumentRow) []server.Document {
	var all []server.Document
	for _, r := range rows {
		all = append(all, documentOf(r))
	}
	return all
}

func documentOf(r postgres.DocumentRow) server.Document {
	return server.Document{Kind: r.Kind, Name: r.Name, Version: r.Version, Hash: r.Hash, AppliedBy: r.AppliedBy, AppliedAt: r.AppliedAt, Body: r.Body}
}

func (d documents) DocumentVersions(ctx context.Context, kind, name string, before, n int) ([]server.Document, error) {
	rows, err := d.db.DocumentVersions(ctx, kind, name, before, n)
	return documentsOf(rows), err
}

func (d documents) DocumentVersion(ctx context.Context, kind, name string, version int) (server.Document, error) {
	row, err := d.db.DocumentVersion(ctx, kind, name, version)
	return documentOf(row), err
}

// trial judges one image as a push would, and all of them from what is stored.
type trial struct {
	*postgres.DB
	judge, many *policy.Judge
}

func (t trial) JudgeUnder(ctx context.Context, m artifact.StoredManifest, policies []policy.Versioned) (policy.Verdict, error) {
	return t.judge.JudgeUnder(ctx, m, policies)
}

func (t trial) Impact(ctx context.Context, changed []policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error) {
	return t.many.Impact(ctx, t.DB, changed, sees, tell)
}
