package server

import (
	"context"

	"waybill/artifact"
	"waybill/promotion"
)

// ReleaseRequest asks to put versions of services together under a name.
type ReleaseRequest struct {
	Name     string           `json:"name" minLength:"1" maxLength:"128"`
	Reason   string           `json:"reason,omitempty" maxLength:"2000"`
	Services []ServiceVersion `json:"services" minItems:"1" maxItems:"100"`
}

// ServiceVersion is a version of a service.
type ServiceVersion struct {
	Service string `json:"service" minLength:"1" maxLength:"255"`
	Version string `json:"version" minLength:"1" maxLength:"200"`
}

// ReleasePromotion asks to promote all of a release.
type ReleasePromotion struct {
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
	Reason      string `json:"reason,omitempty" maxLength:"2000"`
	DryRun      bool   `json:"dryRun,omitempty" doc:"Evaluate every gate, change nothing"`
	Override    bool   `json:"override,omitempty" doc:"As of a promotion"`
}

// ReleaseList is the answer to GET /releases, newest first. Next is to be asked for with after, where there may be more.
type ReleaseList struct {
	Releases []artifact.Release `json:"releases"`
	Next     string             `json:"next,omitempty"`
}

// PromotedRelease is what the promotion of a release came to, service by service.
type PromotedRelease struct {
	Release  string     `json:"release"`
	Promoted []Promoted `json:"promoted"`
}

type (
	createReleaseInput struct{ Body ReleaseRequest }
	releaseInput       struct {
		Name string `path:"release" maxLength:"128"`
	}
	promoteReleaseInput struct {
		Name string `path:"release" maxLength:"128"`
		Body ReleasePromotion
	}
	releasesInput struct {
		After string `query:"after" maxLength:"1000" doc:"Next of the page before"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
	}
	releaseOutput         struct{ Body artifact.Release }
	releasesOutput        struct{ Body ReleaseList }
	promotedReleaseOutput struct{ Body PromotedRelease }
)

func (a *API) createRelease(ctx context.Context, p artifact.Principal, in *createReleaseInput) (*releaseOutput, error) {
	var versions []promotion.Request
	for _, s := range in.Body.Services {
		r, err := a.service(ctx, p, artifact.ActionPromote, s.Service)
		if err != nil {
			return nil, err
		}
		versions = append(versions, promotion.Request{Repository: r, Version: s.Version})
	}
	release, err := a.cfg.Promotions.CreateRelease(ctx, p, in.Body.Name, in.Body.Reason, versions)
	if err != nil {
		return nil, err
	}
	return &releaseOutput{Body: release}, nil
}

const releasesList = "releases"

func (a *API) releases(ctx context.Context, p artifact.Principal, in *releasesInput) (*releasesOutput, error) {
	var after artifact.Release
	if err := a.cursors.open(releasesList, in.After, &after); err != nil {
		return nil, err
	}
	all, last, more, err := a.cfg.Promotions.Releases(ctx, p, after, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &releasesOutput{Body: ReleaseList{Releases: orEmpty(all)}}
	if more {
		out.Body.Next = a.cursors.seal(releasesList, artifact.Release{Name: last.Name, At: last.At})
	}
	return out, nil
}

func (a *API) release(ctx context.Context, p artifact.Principal, in *releaseInput) (*releaseOutput, error) {
	release, err := a.cfg.Promotions.Release(ctx, p, in.Name)
	if err != nil {
		return nil, err
	}
	return &releaseOutput{Body: release}, nil
}

func (a *API) promoteRelease(ctx context.Context, p artifact.Principal, in *promoteReleaseInput) (*promotedReleaseOutput, error) {
	e, err := artifact.ParseEnvironment(in.Body.Environment)
	if err != nil {
		return nil, err
	}
	done, err := a.cfg.Promotions.PromoteRelease(ctx, p, in.Name, promotion.Request{Environment: e, Reason: in.Body.Reason, DryRun: in.Body.DryRun, Override: in.Body.Override})
	if err != nil {
		return nil, err
	}
	out := &promotedReleaseOutput{Body: PromotedRelease{Release: in.Name, Promoted: []Promoted{}}}
	for _, d := range done {
		out.Body.Promoted = append(out.Body.Promoted, promoted(d).Body)
	}
	return out, nil
}
