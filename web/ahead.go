package web

import (
	"context"
	"fmt"
	"slices"
	"time"

	"waybill/artifact"
	"waybill/promotion"
)

// next is what runs in an environment before this one, and not here.
type next struct {
	artifact.Deployment     // where it comes from
	By                  int // promotions that this environment has not had
	Waits               []string
}

// ahead says of each cell what an environment before it runs that it does not, and whether that waits for the reader's
// approval.
func (w *Web) ahead(ctx context.Context, p artifact.Principal, page *boardPage) error {
	var mine []*cell
	for i := range page.Services {
		row := &page.Services[i]
		pipeline, err := w.cfg.Promotions.Pipeline(ctx, row.Repository)
		if err != nil {
			continue // a promotion says what is wrong with the pipelines
		}
		for j := range row.Cells {
			c := &row.Cells[j]
			stage, ok := pipeline.Stage(c.Environment)
			if !ok {
				continue
			}
			c.stage = &stage
			for _, earlier := range stage.Requires.After {
				row.advance(c, earlier)
			}
			if gate := stage.Requires.Approvals; c.Next != nil && gate != nil && p.As(gate.Role, row.Repository, c.Environment) {
				mine = append(mine, c)
			}
		}
	}
	given, err := w.given(ctx, mine)
	for _, c := range mine {
		c.Mine = c.Next.lacks(*c.stage.Requires.Approvals, given(c), p)
	}
	return err
}

// waits says of each cell with something on its way what that waits for, and how far it is ahead.
func (w *Web) waits(ctx context.Context, p artifact.Principal, page *boardPage) error {
	var pairs [][2]artifact.Environment
	var repositories []artifact.Repository
	var cells []*cell
	for i := range page.Services {
		repositories = append(repositories, page.Services[i].Repository)
		for j := range page.Services[i].Cells {
			c := &page.Services[i].Cells[j]
			if c.Next == nil {
				continue
			}
			cells = append(cells, c)
			if pair := [2]artifact.Environment{c.Next.Environment, c.Environment}; !slices.Contains(pairs, pair) {
				pairs = append(pairs, pair)
			}
		}
	}
	leads, err := w.cfg.Store.Leads(ctx, repositories, pairs)
	if err != nil {
		return err
	}
	by := make(map[artifact.Lead]int, len(leads))
	for _, l := range leads {
		n := l.By
		l.By = 0
		by[l] = n
	}
	given, err := w.given(ctx, cells)
	for _, c := range cells {
		c.Next.By = by[artifact.Lead{Repository: c.Next.Repository, Ahead: c.Next.Environment, Behind: c.Environment}]
		c.Next.wait(*c.stage, given(c), w.cfg.Now())
	}
	return err
}

// given returns what was approved already of what is on its way.
func (w *Web) given(ctx context.Context, cells []*cell) (func(*cell) []artifact.Approval, error) {
	key := func(c *cell) artifact.Deployment {
		return artifact.Deployment{Repository: c.Next.Repository, Environment: c.Environment, Digest: c.Next.Digest}
	}
	var candidates []artifact.Deployment
	for _, c := range cells {
		if c.stage.Requires.Approvals != nil {
			candidates = append(candidates, key(c))
		}
	}
	all := map[artifact.Deployment][]artifact.Approval{}
	of := func(c *cell) []artifact.Approval { return all[key(c)] }
	if len(candidates) == 0 {
		return of, nil
	}
	approvals, err := w.cfg.Store.ApprovalsOf(ctx, candidates)
	for _, a := range approvals {
		d := artifact.Deployment{Repository: a.Repository, Environment: a.Environment, Digest: a.Digest}
		all[d] = append(all[d], a)
	}
	return of, err
}

// advance notes that an earlier environment runs something else.
func (row *service) advance(c *cell, earlier artifact.Environment) {
	for _, from := range row.Cells {
		if from.Environment != earlier || from.runs == nil || c.runs != nil && c.runs.Digest == from.runs.Digest {
			continue
		}
		if c.Next == nil || from.runs.Since.After(c.Next.Since) {
			c.Next = &next{Deployment: artifact.Deployment{Repository: row.Repository, Environment: earlier, Digest: from.runs.Digest, Version: from.runs.Version, Since: from.runs.Since}}
		}
	}
}

// wait says what of the clock and of people is missing. The promotion itself is what evaluates every gate.
func (n *next) wait(stage promotion.Stage, given []artifact.Approval, now time.Time) {
	if until := n.Since.Add(stage.Requires.Soak); until.After(now) {
		n.Waits = append(n.Waits, "soaks until "+until.UTC().Format("15:04 UTC, 2 Jan"))
	}
	gate := stage.Requires.Approvals
	if gate == nil {
		return
	}
	switch missing := gate.Count - len(people(*gate, given)); {
	case missing <= 0:
	case gate.Count == 1:
		n.Waits = append(n.Waits, fmt.Sprintf("waits for an approval, by role %s", gate.Role))
	default:
		n.Waits = append(n.Waits, fmt.Sprintf("waits for %d of %d approvals, by role %s", missing, gate.Count, gate.Role))
	}
}

// lacks reports whether an approval by the reader, who has the role, is one that is missing.
func (n *next) lacks(gate promotion.ApprovalGate, given []artifact.Approval, p artifact.Principal) bool {
	have := people(gate, given)
	return len(have) < gate.Count && !slices.Contains(have, p.Name)
}

// people are those whose approvals count towards a gate.
func people(gate promotion.ApprovalGate, given []artifact.Approval) (names []string) {
	for _, a := range given {
		if a.Role == gate.Role && !slices.Contains(names, a.Actor) {
			names = append(names, a.Actor)
		}
	}
	return names
}
