package server

import (
	"context"
	"time"

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

	MaxAgeSeconds   int64                  `json:"maxAgeSeconds" doc:"How old it should be at most (advisories.maxAge)"`
	IntervalSeconds int64                  `json:"intervalSeconds,omitempty" doc:"How often it is pulled by itself (advisories.interval); absent: it is not"`
	NextPullBy      time.Time              `json:"nextPullBy,omitzero" doc:"When it is pulled by itself next, at the latest"`
	Key             string                 `json:"key,omitempty" doc:"The id of the key that must have signed what is pulled (advisories.key); absent: none must"`
	Images          *artifact.ScanCoverage `json:"images,omitempty" doc:"How far images are with it; for who may look at every repository"`
}

// AdvisoryHistory is the answer to GET /advisories/history, the newest first.
type AdvisoryHistory struct {
	Databases []artifact.AdvisoryDatabase `json:"databases"`
	Java      []artifact.AdvisoryDatabase `json:"java"`
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
	advisoryOutput       struct{ Body AdvisoryStatus }
	advisoryHistoryInput struct {
		Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Of each kind"`
	}
	advisoryHistoryOutput struct{ Body AdvisoryHistory }
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

func (a *API) advisoryHistory(ctx context.Context, _ artifact.Principal, in *advisoryHistoryInput) (*advisoryHistoryOutput, error) {
	all, err := a.cfg.Advisories.AdvisoryDatabases(ctx, in.Limit)
	if err != nil {
		return nil, err
	}
	java, err := a.cfg.Advisories.JavaDatabases(ctx, in.Limit)
	return &advisoryHistoryOutput{Body: AdvisoryHistory{Databases: orEmpty(all), Java: orEmpty(java)}}, err
}

func (a *API) advisories(ctx context.Context, p artifact.Principal, _ *struct{}) (*advisoryOutput, error) {
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
	status.Source, status.Key = a.cfg.Advisories.Source(), a.cfg.Advisories.Key()
	status.MaxAgeSeconds = int64(a.cfg.Advisories.MaxAge().Seconds())
	if status.NextPullBy, err = a.cfg.Advisories.NextPull(ctx); err != nil {
		return nil, err
	}
	if status.Source != "" {
		status.IntervalSeconds = int64(a.cfg.Advisories.Interval().Seconds())
	}
	if p.CanEverywhere(artifact.ActionLook) {
		images, err := a.cfg.Advisories.Matched(ctx)
		if err != nil {
			return nil, err
		}
		status.Images = &images
	}
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
