package server

import (
	"context"

	"waybill/artifact"
	"waybill/promotion"
)

// ApprovalRequest is somebody's word that a version may go to an environment.
type ApprovalRequest struct {
	Service     string `json:"service" minLength:"1" maxLength:"255"`
	Version     string `json:"version" minLength:"1" maxLength:"200"`
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
	Reason      string `json:"reason,omitempty" maxLength:"2000"`
}

// WaitingApproval is a digest that lacks approvals.
type WaitingApproval struct {
	Repository  artifact.Repository  `json:"repository"`
	Environment artifact.Environment `json:"environment"`
	Digest      artifact.Digest      `json:"digest"`
	Version     string               `json:"version,omitempty"`
	Count       int                  `json:"count" doc:"How many the environment asks for"`
	Role        artifact.Role        `json:"role" doc:"Whose count"`
	NotPusher   bool                 `json:"notPusher,omitempty" doc:"Not those of who pushed it"`
	Approvals   []artifact.Approval  `json:"approvals" doc:"Those that there are"`
}

// WaitingApprovals is the answer to GET /approvals.
type WaitingApprovals struct {
	Waiting []WaitingApproval `json:"waiting"`
}

type (
	approveInput        struct{ Body ApprovalRequest }
	approvalOutput      struct{ Body artifact.Approval }
	revokeApprovalInput struct {
		ID int64 `path:"approval" minimum:"1"`
	}
	approvalsOutput struct{ Body WaitingApprovals }
)

func (a *API) approve(ctx context.Context, p artifact.Principal, in *approveInput) (*approvalOutput, error) {
	e, err := artifact.ParseEnvironment(in.Body.Environment)
	if err != nil {
		return nil, err
	}
	r, err := a.service(ctx, p, artifact.ActionApprove, in.Body.Service)
	if err != nil {
		return nil, err
	}
	approval, err := a.cfg.Promotions.Approve(ctx, p, promotion.Request{Repository: r, Version: in.Body.Version, Environment: e, Reason: in.Body.Reason})
	if err != nil {
		return nil, err
	}
	return &approvalOutput{Body: approval}, nil
}

func (a *API) revokeApproval(ctx context.Context, p artifact.Principal, in *revokeApprovalInput) (*approvalOutput, error) {
	approval, err := a.cfg.Promotions.RevokeApproval(ctx, p, in.ID)
	if err != nil {
		return nil, err
	}
	return &approvalOutput{Body: approval}, nil
}

func (a *API) approvals(ctx context.Context, p artifact.Principal, _ *struct{}) (*approvalsOutput, error) {
	all, err := a.cfg.Promotions.Waiting(ctx, func(r artifact.Repository) bool { return p.Can(artifact.ActionLook, r) })
	if err != nil {
		return nil, err
	}
	out := &approvalsOutput{Body: WaitingApprovals{Waiting: []WaitingApproval{}}}
	for _, w := range all {
		out.Body.Waiting = append(out.Body.Waiting, WaitingApproval{Repository: w.Repository, Environment: w.Environment, Digest: w.Digest, Version: w.Version,
			Count: w.Gate.Count, Role: w.Gate.Role, NotPusher: w.Gate.NotPusher, Approvals: orEmpty(w.Approvals)})
	}
	return out, nil
}
