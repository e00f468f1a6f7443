package server

import (
	"context"

	"waybill/artifact"
)

// Replications are the copies of promoted digests to other registries.
type Replications interface {
	// Replications returns the newest state of each copy of a repository (the zero one: of all), newest first: the next n behind
	// one (the zero one: from the newest on).
	Replications(ctx context.Context, r artifact.Repository, after artifact.Replication, n int) ([]artifact.Replication, error)
}

// ReplicationList is the answer to GET /replications, newest first. Next is to be asked for with after, where there may be more.
type ReplicationList struct {
	Replications []artifact.Replication `json:"replications"`
	Next         string                 `json:"next,omitempty"`
}

type (
	replicationsInput struct {
		Service string `query:"service" maxLength:"255" doc:"A repository, or its last part where that is unique"`
		After   string `query:"after" maxLength:"4000" doc:"Next of the page before"`
		Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
	}
	replicationsOutput struct{ Body ReplicationList }
)

const replicationsList = "replications"

func (a *API) replications(ctx context.Context, p artifact.Principal, in *replicationsInput) (*replicationsOutput, error) {
	var only artifact.Repository
	if in.Service != "" {
		var err error
		if only, err = a.service(ctx, p, artifact.ActionLook, in.Service); err != nil {
			return nil, err
		}
	}
	var after artifact.Replication
	if err := a.cursors.open(replicationsList, in.After, &after); err != nil {
		return nil, err
	}
	all, last, more, err := artifact.Page(in.Limit, after, func(after artifact.Replication, n int) ([]artifact.Replication, bool, error) {
		rows, err := a.cfg.Replications.Replications(ctx, only, after, n)
		return rows, len(rows) == n, err
	}, func(r artifact.Replication) bool { return p.Can(artifact.ActionLook, r.Repository) })
	if err != nil {
		return nil, err
	}
	out := &replicationsOutput{Body: ReplicationList{Replications: orEmpty(all)}}
	if more {
		out.Body.Next = a.cursors.seal(replicationsList, artifact.Replication{Target: last.Target, Repository: last.Repository, Digest: last.Digest, Environment: last.Environment, Since: last.Since})
	}
	return out, nil
}
