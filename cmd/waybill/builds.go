package main

import (
	"context"
	"encoding/json"
	"time"

	buildkit "github.com/moby/buildkit/client"

	"waybill/artifact"
	"waybill/builder"
	"waybill/postgres"
	"waybill/server"
)

// RecordBases implements builder.Store.
func (s buildStore) RecordBases(ctx context.Context, all []artifact.BuiltOn) error {
	return s.db.RecordBases(ctx, all)
}

// runStore fits the database's rows to builder's runs.
type runStore struct{ db *postgres.DB }

func (s runStore) AddRun(ctx context.Context, r builder.Run, owner string) (string, error) {
	request, err := json.Marshal(storedRequest{r.Request, r.Request.Source.Time})
	if err != nil {
		return "", err
	}
	return s.db.AddBuildRun(ctx, postgres.BuildRun{Build: r.Build, Request: request, Principal: r.Principal, Context: r.Context.String(), Owner: owner})
}

func (s runStore) ClaimRun(ctx context.Context, id, owner string) (r builder.Run, ok bool, err error) {
	row, ok, err := s.db.ClaimBuildRun(ctx, id, owner)
	if err != nil || !ok {
		return r, false, err
	}
	r = builder.Run{Build: row.Build, Principal: row.Principal}
	if r.Context, err = artifact.ParseDigest(row.Context); err != nil {
		return r, false, err
	}
	var request storedRequest
	err = json.Unmarshal(row.Request, &request)
	r.Request, r.Request.Source.Time = request.Request, request.CommitTime
	return r, true, err
}

// storedRequest is a request with what its provenance leaves out.
type storedRequest struct {
	builder.Request
	CommitTime time.Time
}

func (s runStore) BeatRun(ctx context.Context, id, owner string) (string, bool, error) {
	return s.db.BeatBuildRun(ctx, id, owner)
}

func (s runStore) EndRun(ctx context.Context, owner string, b artifact.Build) error {
	return s.db.EndBuildRun(ctx, owner, b)
}

func (s runStore) CancelRun(ctx context.Context, id, by string) error {
	return s.db.CancelBuildRun(ctx, id, by)
}

func (s runStore) Run(ctx context.Context, id string) (artifact.Build, error) {
	return s.db.BuildRun(ctx, id)
}

func (s runStore) Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	return s.db.BuildRuns(ctx, f)
}

func (s runStore) LostRuns(ctx context.Context, unheard time.Duration, attempts int) (int, error) {
	return s.db.LostBuildRuns(ctx, unheard, attempts)
}

func (s runStore) ForgetRuns(ctx context.Context, age time.Duration) error {
	return s.db.ForgetBuildRuns(ctx, age)
}

func (s runStore) ContextWanted(ctx context.Context, d artifact.Digest) (bool, error) {
	return s.db.ContextWanted(ctx, d.String())
}

func (s runStore) RunChanges(id string) (func() <-chan struct{}, func()) {
	return s.db.BuildChanges(id)
}

func (s runStore) RunCancelled(id string) (func() <-chan struct{}, func()) {
	return s.db.BuildCancelled(id)
}

func (s runStore) AppendLog(ctx context.Context, id string, body []byte) (int64, error) {
	return s.db.AppendBuildLog(ctx, id, body)
}

func (s runStore) Log(ctx context.Context, id string, after int64, n int) ([][]byte, int64, error) {
	return s.db.BuildLog(ctx, id, after, n)
}

// builderAPI fits the API's requests to builder's.
type builderAPI struct {
	service *builder.Service
	runs    *builder.Runs
	db      *postgres.DB
}

func (b builderAPI) Build(ctx context.Context, p artifact.Principal, r server.BuildRequest, log server.BuildLog) (server.Built, error) {
	request := builder.Request{Repository: r.Repository, Tags: r.Tags, Dockerfile: r.Dockerfile, Args: r.Args, Labels: r.Labels, Target: r.Target, Platform: r.Platform,
		Source: builder.Source{Git: r.Git, URI: r.SourceURI, Commit: r.Commit, Tree: r.Tree}}
	private := builder.Private{Secrets: r.Secrets}
	if r.Check {
		c, err := b.service.Check(ctx, p, request, r.Context, private, buildLog{log})
		check := &server.BuildCheck{Reproducible: err == nil && c.Digest == c.Again, Before: c.Before, Again: c.Again}
		for _, d := range c.Differences {
			check.Differences = append(check.Differences, server.BuildDifference(d))
		}
		return server.Built{Repository: r.Repository, Digest: c.Digest, Key: c.Key, Check: check}, err
	}
	done, err := b.runs.Build(ctx, p, request, r.Context, private, buildLog{log})
	return server.Built{Repository: done.Repository, Tags: r.Tags, Digest: done.Digest, Key: done.Key, New: done.Built, BuiltBy: done.BuiltBy, BuiltAt: done.BuiltAt}, err
}

func (b builderAPI) Run(ctx context.Context, id string) (artifact.Build, error) {
	return b.runs.Run(ctx, id)
}

func (b builderAPI) Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	return b.runs.Runs(ctx, f)
}

func (b builderAPI) Cancel(ctx context.Context, id, by string) error {
	return b.runs.Cancel(ctx, id, by)
}

func (b builderAPI) Follow(ctx context.Context, id string, after int64, tell func(seq int64, e server.BuildEvent)) (artifact.Build, error) {
	return b.runs.Follow(ctx, id, after, func(seq int64, e builder.Event) {
		event := server.BuildEvent{Log: e.Log}
		if e.Status != nil {
			event.Status = e.Status
		}
		tell(seq, event)
	})
}

func (b builderAPI) BuiltOn(ctx context.Context, after artifact.BuiltOn, n int) ([]artifact.BuiltOn, error) {
	return b.db.BuiltOn(ctx, after, n)
}

func (b builderAPI) BasesOf(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.BuiltOn, error) {
	return b.db.BasesOf(ctx, r, d)
}

// buildLog fits the API's log, which knows nothing of BuildKit, to builder's.
type buildLog struct{ server.BuildLog }

func (l buildLog) Status(s *buildkit.SolveStatus) { l.Report(s) }
