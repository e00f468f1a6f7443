package server

import (
	"context"

	"waybill/artifact"
)

// TagHistory is the answer to GET /tags/history, the oldest first; of a tag that moved very often, the last changes.
type TagHistory struct {
	Repository artifact.Repository  `json:"repository"`
	Tag        artifact.Tag         `json:"tag"`
	Changes    []artifact.TagChange `json:"changes"`
}

type (
	tagHistoryInput struct {
		Ref string `query:"ref" required:"true" doc:"REPOSITORY:TAG" example:"shop/returns:v456"`
	}
	tagHistoryOutput struct{ Body TagHistory }
)

func (a *API) tagHistory(ctx context.Context, p artifact.Principal, in *tagHistoryInput) (*tagHistoryOutput, error) {
	ref, err := artifact.ParseReference(in.Ref)
	if err != nil {
		return nil, err
	}
	if err := may(p, artifact.ActionLook, ref.Repository); err != nil {
		return nil, err
	}
	if ref.Tag.IsZero() {
		return nil, artifact.Errorf(artifact.Invalid, "%.200q names no tag; want REPOSITORY:TAG", in.Ref)
	}
	changes, err := a.cfg.Records.TagHistory(ctx, ref.Repository, ref.Tag)
	if err != nil {
		return nil, err
	}
	if len(changes) == 0 {
		return nil, artifact.Errorf(artifact.NotFound, "%s has never had a tag %s; of an environment, `waybill history %s` shows what it ran", ref.Repository, ref.Tag, ref.Repository)
	}
	return &tagHistoryOutput{Body: TagHistory{Repository: ref.Repository, Tag: ref.Tag, Changes: changes}}, nil
}
