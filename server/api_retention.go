package server

import (
	"context"
	"strings"

	"waybill/artifact"
	"waybill/storage"
)

// RetentionRequest asks to remove what no rule keeps.
type RetentionRequest struct {
	DryRun bool `json:"dryRun,omitempty" doc:"Remove nothing, and say what would be removed and why the rest stays"`
}

type (
	retentionInput struct {
		stream
		Body RetentionRequest
	}
	retentionOutput struct{ Body storage.Report }
)

func (a *API) retention(ctx context.Context, p artifact.Principal, in *retentionInput) (*retentionOutput, error) {
	if !p.CanEverywhere(artifact.ActionManage) {
		return nil, artifact.Errorf(artifact.Denied, "retention is of all repositories, and the token of %s is bound to %s; that takes role admin that is bound to all", p.Name, strings.Join(p.Patterns(artifact.ActionManage), ", "))
	}
	in.takeTime()
	done, err := a.cfg.Retention.Run(ctx, p.Name, in.Body.DryRun)
	if err != nil {
		return nil, err
	}
	return &retentionOutput{Body: done}, nil
}
