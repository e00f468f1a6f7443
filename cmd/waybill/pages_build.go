package main

import (
	"context"
	"encoding/json"

	"waybill/artifact"
	"waybill/builder"
)

// buildPages fits builds to the pages'.
type buildPages struct {
	builds       *builder.Runs
	attestations attestations
}

func (b buildPages) Run(ctx context.Context, id string) (artifact.Build, error) {
	return b.builds.Run(ctx, id)
}

func (b buildPages) Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	return b.builds.Runs(ctx, f)
}

func (b buildPages) Said(ctx context.Context, id string, after int64, follow bool, tell func(artifact.Build, int64, []string)) (artifact.Build, error) {
	return b.builds.Said(ctx, id, after, follow, tell)
}

func (b buildPages) Cancel(ctx context.Context, id, by string) error {
	return b.builds.Cancel(ctx, id, by)
}

// Provenance says how an image was built, by what was signed of it.
func (b buildPages) Provenance(ctx context.Context, r artifact.Repository, d artifact.Digest) (string, error) {
	statement, _, err := b.attestations.Provenance(ctx, r, d)
	if err != nil {
		return "", err
	}
	var said struct {
		Predicate slsaProvenance `json:"predicate"`
	}
	if err := json.Unmarshal(statement, &said); err != nil {
		return "", err
	}
	return said.Predicate.sentence(r.String() + "@" + d.Short()), nil
}
