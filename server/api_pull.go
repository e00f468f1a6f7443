package server

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"waybill/artifact"
)

// Pulls reads who pulled what.
type Pulls interface {
	// Pulls returns rows by day, repository, digest and principal, after a given one.
	Pulls(ctx context.Context, f artifact.PullFilter) ([]artifact.PullDay, error)
}

// PullPage is one page of who pulled what, the oldest first; Next asks for the following one, and is absent on the last.
type PullPage struct {
	Pulls []artifact.PullDay `json:"pulls"`
	Next  string             `json:"next,omitempty"`
}

type (
	pullsInput struct {
		Ref       string `query:"ref" maxLength:"500" doc:"REPOSITORY, REPOSITORY:TAG (what it stands at now) or REPOSITORY@DIGEST, which may have been removed since"`
		Principal string `query:"principal" maxLength:"255" doc:"As the ledger names actors" example:"token:ci/k3v9"`
		From      string `query:"from" maxLength:"40" doc:"The first day (UTC); without it, the first there is" example:"2026-10-01"`
		To        string `query:"to" maxLength:"40" doc:"The last day (UTC), which is in it; without it, today" example:"2026-10-31"`
		Newest    bool   `query:"newest" doc:"The newest first"`
		After     string `query:"after" maxLength:"4000" doc:"Next of the page before"`
		Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	pullsOutput     struct{ Body PullPage }
	pullsTableInput struct {
		Ref       string `query:"ref" maxLength:"500" doc:"REPOSITORY, REPOSITORY:TAG (what it stands at now) or REPOSITORY@DIGEST, which may have been removed since"`
		Principal string `query:"principal" maxLength:"255" doc:"As the ledger names actors" example:"token:ci/k3v9"`
		From      string `query:"from" maxLength:"40" doc:"The first day; without it, the first there is" example:"2026-10-01"`
		To        string `query:"to" maxLength:"40" doc:"The last day; without it, today" example:"2026-10-31"`
		Newest    bool   `query:"newest" doc:"The newest first"`
	}
	tableOutput struct{ Body func(huma.Context) }
)

// pullsTable answers with all pages at once.
func (a *API) pullsTable(ctx context.Context, p artifact.Principal, in *pullsTableInput) (*tableOutput, error) {
	f, err := a.pullFilter(ctx, p, &pullsInput{Ref: in.Ref, Principal: in.Principal, From: in.From, To: in.To, Newest: in.Newest, Limit: maxPageSize})
	if err != nil {
		return nil, err
	}
	return a.table("waybill-pulls.csv", artifact.PullHead, func(ctx context.Context) (lines []string, more bool, err error) {
		all, err := a.cfg.Pulls.Pulls(ctx, f)
		for _, d := range all {
			if f.After = d; p.Can(artifact.ActionAudit, d.Repository) {
				lines = append(lines, d.CSV())
			}
		}
		return lines, len(all) == f.Limit, err
	}), nil
}

// table answers with a file of lines, page by page. The first page is asked for before the status is sent.
func (a *API) table(name, head string, next func(ctx context.Context) (lines []string, more bool, err error)) *tableOutput {
	return &tableOutput{Body: func(hc huma.Context) {
		lines, more, err := next(hc.Context())
		if err != nil {
			a.writeProblem(hc, newProblem(err))
			return
		}
		hc.SetHeader("Content-Type", "text/csv; charset=utf-8")
		hc.SetHeader("Content-Disposition", `attachment; filename="`+name+`"`)
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		lines = append([]string{head}, lines...)
		for {
			for _, line := range lines {
				if _, err := io.WriteString(hc.BodyWriter(), line); err != nil {
					return // it is gone
				}
			}
			if !more {
				return
			}
			if lines, more, err = next(hc.Context()); err != nil {
				a.cfg.Logger.ErrorContext(hc.Context(), "table broke off", "request", a.requestID(hc), "error", err)
				panic(http.ErrAbortHandler) // a part must not look like the whole
			}
		}
	}}
}

func (a *API) pulls(ctx context.Context, p artifact.Principal, in *pullsInput) (*pullsOutput, error) {
	f, err := a.pullFilter(ctx, p, in)
	if err != nil {
		return nil, err
	}
	all, last, more, err := artifact.Page(f.Limit, f.After, func(after artifact.PullDay, n int) ([]artifact.PullDay, bool, error) {
		f.After, f.Limit = after, n
		rows, err := a.cfg.Pulls.Pulls(ctx, f)
		return rows, len(rows) == n, err
	}, func(d artifact.PullDay) bool { return p.Can(artifact.ActionAudit, d.Repository) })
	if err != nil {
		return nil, err
	}
	out := PullPage{Pulls: orEmpty(all)}
	if more {
		out.Next = a.cursors.seal(pullsList, artifact.PullDay{Day: last.Day, Repository: last.Repository, Digest: last.Digest, Principal: last.Principal})
	}
	return &pullsOutput{Body: out}, nil
}

const pullsList = "pulls"

func (a *API) pullFilter(ctx context.Context, p artifact.Principal, in *pullsInput) (f artifact.PullFilter, err error) {
	f = artifact.PullFilter{Principal: in.Principal, Newest: in.Newest, Limit: min(max(in.Limit, 1), maxPageSize), To: a.cfg.Now().UTC()}
	if in.Ref != "" {
		if f.Repository, f.Digest, err = a.pulledOf(ctx, p, in.Ref); err != nil {
			return f, err
		}
	}
	if in.From != "" {
		if f.From, err = parseTime(in.From); err != nil {
			return f, err
		}
	}
	if in.To != "" {
		if f.To, err = parseTime(in.To); err != nil {
			return f, err
		}
	}
	return f, a.cursors.open(pullsList, in.After, &f.After)
}

// pulledOf reads a reference, or a repository alone, if the caller may know who pulled it.
func (a *API) pulledOf(ctx context.Context, p artifact.Principal, s string) (r artifact.Repository, d artifact.Digest, err error) {
	if r, err = artifact.ParseRepository(s); err == nil {
		return r, d, may(p, artifact.ActionAudit, r)
	}
	ref, err := artifact.ParseShortReference(s)
	if err != nil {
		return r, d, err
	}
	if err := may(p, artifact.ActionAudit, ref.Repository); err != nil {
		return r, d, err
	}
	d, err = a.digest(ctx, p, ref)
	return ref.Repository, d, err
}
