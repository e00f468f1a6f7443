package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"waybill/artifact"
)

type (
	exportInput struct {
		Ref  string `query:"ref" maxLength:"500" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST, which may have been removed since; or else a period"`
		From string `query:"from" maxLength:"40" doc:"The period's begin: a day (UTC), or an instant as RFC 3339" example:"2026-10-01"`
		To   string `query:"to" maxLength:"40" doc:"The period's end: a day, which is in it to its end (UTC), or an instant as RFC 3339" example:"2026-10-31"`
	}
	exportOutput struct{ Body func(huma.Context) }
)

// export answers with an archive (tar, gzip) that an auditor can check without this server.
func (a *API) export(ctx context.Context, p artifact.Principal, in *exportInput) (*exportOutput, error) {
	e := &export{api: a, principal: p, summary: ExportSummary{Version: a.cfg.Version, MadeAt: a.cfg.Now().UTC(), MadeBy: p.Name}}
	ref, err := e.of(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := e.prepare(ctx, ref); err != nil {
		return nil, err
	}
	return &exportOutput{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/gzip")
		hc.SetHeader("Content-Disposition", `attachment; filename="waybill-export.tar.gz"`)
		if err := e.write(hc.Context(), hc.BodyWriter()); err != nil {
			a.cfg.Logger.ErrorContext(hc.Context(), "export broke off", "request", a.requestID(hc), "error", err)
			panic(http.ErrAbortHandler) // the status was sent: a connection that breaks is what is left to say no with
		}
	}}, nil
}

// of reads what the export is of, and whether the caller may have it.
func (e *export) of(ctx context.Context, in *exportInput) (ref artifact.Reference, err error) {
	if (in.Ref == "") == (in.From == "" && in.To == "") {
		return ref, artifact.Errorf(artifact.Invalid, "an export is of a digest or of a period; give ref, or from and to")
	}
	if in.Ref != "" {
		named, err := artifact.ParseShortReference(in.Ref)
		if err != nil {
			return ref, err
		}
		ref.Repository = named.Repository
		if err = may(e.principal, artifact.ActionAudit, ref.Repository); err != nil {
			return ref, err
		}
		if ref.Digest, err = e.api.digest(ctx, e.principal, named); err != nil {
			return ref, err
		}
		e.summary.Reference = ref.String()
		return ref, nil
	}
	if !e.principal.CanEverywhere(artifact.ActionAudit) {
		return ref, artifact.Errorf(artifact.Denied, "a period is of all repositories, and %s is bound to some; name a digest, or take role auditor or admin that is bound to all", e.principal.Name)
	}
	if in.From == "" || in.To == "" {
		return ref, artifact.Errorf(artifact.Invalid, "a period has a begin and an end; give from and to")
	}
	if e.summary.From, err = parseTime(in.From); err != nil {
		return ref, err
	}
	if e.summary.To, err = parseEnd(in.To); err != nil {
		return ref, err
	}
	if !e.summary.From.Before(e.summary.To) {
		return ref, artifact.Errorf(artifact.Invalid, "the period ends before it begins: from %s to %s", in.From, in.To)
	}
	return ref, nil
}
