package server

import (
	"context"
	"slices"

	"waybill/artifact"
)

// Replications are the copies of promoted digests to other registries.
type Replications interface {
	// Replications returns the newest state of each copy of a repository (the zero one: of all), newest first.
	Replications(ctx context.Context, r artifact.Repository) ([]artifact.Replication, error)
}

// ReplicationList is the answer to GET /replications, newest first.
type ReplicationList struct {
	Replications []artifact.Replication `json:"replications"`
}

type (
	replicationsInput struct {
		Service string `query:"service" maxLength:"255" doc:"A repository, or its last part where that is unique"`
	}
	replicationsOutput struct{ Body ReplicationList }
)

func (a *API) replications(ctx context.Context, p artifact.Principal, in *replicationsInput) (*replicationsOutput, error) {
	var only artifact.Repository
	if in.Service != "" {
		var err error
		if only, err = a.service(ctx, p, artifact.ActionLook, in.Service); err != nil {
			return nil, err
		}
	}
	all, err := a.cfg.Replications.Replications(ctx, only)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(r artifact.Replication) bool { return !p.Can(artifact.ActionLook, r.Repository) })
	return &replicationsOutput{Body: ReplicationList{Replications: orEmpty(all)}}, nil
}
