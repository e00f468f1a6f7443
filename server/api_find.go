package server

import (
	"context"
	"regexp"
	"strings"

	"waybill/artifact"
)

// FoundEntries is one page of entries, newest first; Next asks for the following one, and is absent on the last.
type FoundEntries struct {
	Entries []artifact.LedgerLine `json:"entries"`
	Next    string                `json:"next,omitempty"`
}

type (
	findTableInput struct {
		Actor string `query:"actor" maxLength:"255" doc:"Who did it, as the ledger names actors" example:"token:ci/k3v9"`
		Ref   string `query:"ref" maxLength:"500" doc:"REPOSITORY, REPOSITORY:TAG (what it stands at now), REPOSITORY@DIGEST, or a digest alone"`
		Kind  string `query:"kind" maxLength:"40" example:"promotion"`
		From  string `query:"from" maxLength:"40" doc:"From this instant on, or this day of UTC" example:"2026-10-01"`
		To    string `query:"to" maxLength:"40" doc:"Before this instant, or to the end of this day of UTC" example:"2026-10-31"`
	}
	findInput struct { // the same, and a page of it
		Actor string `query:"actor" maxLength:"255" doc:"Who did it, as the ledger names actors" example:"token:ci/k3v9"`
		Ref   string `query:"ref" maxLength:"500" doc:"REPOSITORY, REPOSITORY:TAG (what it stands at now), REPOSITORY@DIGEST, or a digest alone"`
		Kind  string `query:"kind" maxLength:"40" example:"promotion"`
		From  string `query:"from" maxLength:"40" doc:"From this instant on, or this day of UTC" example:"2026-10-01"`
		To    string `query:"to" maxLength:"40" doc:"Before this instant, or to the end of this day of UTC" example:"2026-10-31"`
		After string `query:"after" maxLength:"2000" doc:"Next of the page before"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	findOutput struct{ Body FoundEntries }
)

const foundList = "ledger"

func (a *API) findEntries(ctx context.Context, p artifact.Principal, in *findInput) (*findOutput, error) {
	f, err := a.ledgerFilter(ctx, p, findTableInput{Actor: in.Actor, Ref: in.Ref, Kind: in.Kind, From: in.From, To: in.To})
	if err != nil {
		return nil, err
	}
	if err := a.cursors.open(foundList, in.After, &f.Before); err != nil {
		return nil, err
	}
	f.Limit = min(max(in.Limit, 1), maxPageSize)
	all, err := a.cfg.Ledger.FindEntries(ctx, f)
	if err != nil {
		return nil, err
	}
	out := FoundEntries{Entries: orEmpty(all)}
	if len(all) == f.Limit {
		out.Next = a.cursors.seal(foundList, artifact.LedgerLine{At: all[len(all)-1].At, Index: all[len(all)-1].Index})
	}
	return &findOutput{Body: out}, nil
}

// findEntriesTable answers with all pages at once.
func (a *API) findEntriesTable(ctx context.Context, p artifact.Principal, in *findTableInput) (*tableOutput, error) {
	f, err := a.ledgerFilter(ctx, p, *in)
	if err != nil {
		return nil, err
	}
	f.Limit = maxPageSize
	return a.table("waybill-ledger.csv", artifact.LedgerHead, func(ctx context.Context) (lines []string, more bool, err error) {
		all, err := a.cfg.Ledger.FindEntries(ctx, f)
		for _, l := range all {
			f.Before = l
			lines = append(lines, l.CSV())
		}
		return lines, len(all) == f.Limit, err
	}), nil
}

var ledgerKind = regexp.MustCompile(`^[a-z]+([.-][a-z]+)*$`)

func (a *API) ledgerFilter(ctx context.Context, p artifact.Principal, in findTableInput) (f artifact.LedgerFilter, err error) {
	f = artifact.LedgerFilter{Actor: in.Actor, Kind: in.Kind}
	if in.Kind != "" && !ledgerKind.MatchString(in.Kind) {
		return f, artifact.Errorf(artifact.Invalid, "kind %.40q: want one of %s", in.Kind, strings.Join(artifact.LedgerKinds, ", "))
	}
	if in.Ref != "" {
		if f.Repository, f.Digest, err = a.mentionedAs(ctx, p, in.Ref); err != nil {
			return f, err
		}
	}
	if in.From != "" {
		if f.From, err = parseTime(in.From); err != nil {
			return f, err
		}
	}
	if in.To != "" {
		f.To, err = parseEnd(in.To)
	}
	return f, err
}

// mentionedAs reads what entries are about. Who asks may audit everything.
func (a *API) mentionedAs(ctx context.Context, p artifact.Principal, s string) (r artifact.Repository, d artifact.Digest, err error) {
	if d, err = artifact.ParseDigest(s); err == nil {
		return r, d, nil
	}
	if r, err = artifact.ParseRepository(s); err == nil {
		return r, artifact.Digest{}, nil
	}
	ref, err := artifact.ParseShortReference(s)
	if err != nil {
		return r, artifact.Digest{}, err
	}
	d, err = a.digest(ctx, p, ref)
	return ref.Repository, d, err
}
