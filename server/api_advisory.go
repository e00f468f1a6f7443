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
	// Stale says that it is older than it should be (advisories.maxAge): newer vulnerabilities are not known here.
	Stale    bool                   `json:"stale,omitempty"`
	Source   string                 `json:"source,omitempty"`   // where it is pulled from by itself
	LastPull *artifact.AdvisoryPull `json:"lastPull,omitempty"` // the newest attempt, whoever asked for it
	Java     JavaStatus             `json:"java"`
}

// JavaStatus is the same of the Java database. Without one, jars that do not say their names are not matched.
type JavaStatus struct {
	Present    bool                       `json:"present"`
	Database   *artifact.AdvisoryDatabase `json:"database,omitempty"`
	AgeSeconds int64                      `json:"ageSeconds,omitempty"`
	Source     string                     `json:"source,omitempty"`
	LastPull   *artifact.AdvisoryPull     `json:"lastPull,omitempty"`
}

type (
	importInput struct{ stream }
	pullInput   struct {
		Body struct {
			Source string `json:"source,omitempty" maxLength:"500" doc:"HOST/REPOSITORY:TAG, or REPOSITORY:TAG of this registry; empty: the configured ones" example:"ghcr.io/aquasecurity/trivy-db:2"`
		}
	}
	advisoryOutput struct{ Body AdvisoryStatus }
)

func (a *API) importAdvisories(ctx context.Context, p artifact.Principal, in *importInput) (*advisoryOutput, error) {
	if err := a.cfg.Advisories.Import(ctx, p, in.body(maxArchive, "the advisory database archive")); err != nil {
		return nil, err
	}
	return a.advisories(ctx, p, nil)
}

func (a *API) pullAdvisories(ctx context.Context, p artifact.Principal, in *pullInput) (*advisoryOutput, error) {
	if _, err := a.cfg.Advisories.Pull(ctx, p, in.Body.Source); err != nil {
		return nil, err
	}
	return a.advisories(ctx, p, nil)
}

func (a *API) advisories(ctx context.Context, _ artifact.Principal, _ *struct{}) (*advisoryOutput, error) {
	db, ok, err := a.cfg.Advisories.AdvisoryDatabase(ctx)
	if err != nil {
		return nil, err
	}
	status := a.advisoryStatus(db, ok)
	pull, ok, err := a.cfg.Advisories.LastPull(ctx)
	if err != nil {
		return nil, err
	}
	if ok {
		status.LastPull = &pull
	}
	status.Source = a.cfg.Advisories.Source()
	status.Java, err = a.javaStatus(ctx)
	return &advisoryOutput{Body: status}, err
}

func (a *API) javaStatus(ctx context.Context) (JavaStatus, error) {
	status := JavaStatus{Source: a.cfg.Advisories.JavaSource()}
	db, ok, err := a.cfg.Advisories.JavaDatabase(ctx)
	if err != nil {
		return status, err
	}
	if ok {
		status.Present, status.Database, status.AgeSeconds = true, &db, int64(a.cfg.Now().Sub(db.UpdatedAt).Seconds())
	}
	pull, ok, err := a.cfg.Advisories.LastJavaPull(ctx)
	if ok {
		status.LastPull = &pull
	}
	return status, err
}

func (a *API) advisoryStatus(db artifact.AdvisoryDatabase, ok bool) AdvisoryStatus {
	if !ok {
		return AdvisoryStatus{}
	}
	age := a.cfg.Now().Sub(db.UpdatedAt)
	return AdvisoryStatus{Present: true, Database: &db, AgeSeconds: int64(age.Seconds()), Stale: age > a.cfg.Advisories.MaxAge()}
}
