package server

import (
	"context"

	"waybill/artifact"
)

// AdvisoryStatus is the answer to GET /advisories. Without a database scans are pending, never clean.
type AdvisoryStatus struct {
	Present    bool                       `json:"present"`
	Database   *artifact.AdvisoryDatabase `json:"database,omitempty"`
	AgeSeconds int64                      `json:"ageSeconds,omitempty"` // since it was built
}

type (
	importInput    struct{ stream }
	advisoryOutput struct{ Body AdvisoryStatus }
)

func (a *API) importAdvisories(ctx context.Context, p artifact.Principal, in *importInput) (*advisoryOutput, error) {
	db, err := a.cfg.Advisories.Import(ctx, p, in.body(maxArchive, "the advisory database archive"))
	if err != nil {
		return nil, err
	}
	return &advisoryOutput{Body: a.advisoryStatus(db, true)}, nil
}

func (a *API) advisories(ctx context.Context, _ artifact.Principal, _ *struct{}) (*advisoryOutput, error) {
	db, ok, err := a.cfg.Advisories.AdvisoryDatabase(ctx)
	if err != nil {
		return nil, err
	}
	return &advisoryOutput{Body: a.advisoryStatus(db, ok)}, nil
}

func (a *API) advisoryStatus(db artifact.AdvisoryDatabase, ok bool) AdvisoryStatus {
	if !ok {
		return AdvisoryStatus{}
	}
	return AdvisoryStatus{Present: true, Database: &db, AgeSeconds: int64(a.cfg.Now().Sub(db.UpdatedAt).Seconds())}
}
