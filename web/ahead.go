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

// ahead says of each cell what an environment before it runs that it does not, and what that waits for.
func (w *Web) ahead(ctx context.Context, p artifact.Principal, page *boardPage) error {
	pipelines, err := w.cfg.Promotions.All(ctx)
	if err != nil {
		return err
	}
	var pairs [][2]artifact.Environment
	for _, one := range pipelines {
		for _, stage := range one.Environments {
			for _, earlier := range stage.Requires.After {
				if pair := [2]artifact.Environment{earlier, stage.Environment}; !slices.Contains(pairs, pair) {
					pairs = append(pairs, pair)
				}
			}
		}
	}
	leads, err := w.cfg.Store.Leads(ctx, pairs)
	if err != nil {
		return err
	}
	by := make(map[artifact.Lead]int, len(leads))
	for _, l := range leads {
		n := l.By
		l.By = 0
		by[l] = n
	}
	stages := map[*cell]promotion.Stage{}
	var candidates []artifact.Deployment
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
			for _, earlier := range stage.Requires.After {
				row.advance(c, earlier, by)
			}
			if c.Next != nil {
				stages[c] = stage
				candidates = append(candidates, artifact.Deployment{Repository: row.Repository, Environment: c.Environment, Digest: c.Next.Digest})
			}
		}
	}
	return w.waits(ctx, p, stages, candidates)
}

// waits says of each cell with something on its way what that waits for.
func (w *Web) waits(ctx context.Context, p artifact.Principal, stages map[*cell]promotion.Stage, candidates []artifact.Deployment) error {
	approvals, err := w.cfg.Store.ApprovalsOf(ctx, candidates)
	if err != nil {
		return err
	}
	given := map[artifact.Deployment][]artifact.Approval{}
	for _, a := range approvals {
		key := artifact.Deployment{Repository: a.Repository, Environment: a.Environment, Digest: a.Digest}
		given[key] = append(given[key], a)
	}
	for c, stage := range stages {
		c.Mine = c.Next.wait(stage, given[artifact.Deployment{Repository: c.Next.Repository, Environment: c.Environment, Digest: c.Next.Digest}], p, w.cfg.Now())
	}
	return nil
}

// advance notes that an earlier environment runs something else.
func (row *service) advance(c *cell, earlier artifact.Environment, by map[artifact.Lead]int) {
	for _, from := range row.Cells {
		if from.Environment != earlier || from.Status == nil || c.Status != nil && c.Digest == from.Digest {
			continue
		}
		n := &next{Deployment: from.Deployment, By: by[artifact.Lead{Repository: row.Repository, Ahead: earlier, Behind: c.Environment}]}
		if c.Next == nil || n.Since.After(c.Next.Since) {
			c.Next = n
		}
	}
}

// wait says what of the clock and of people is missing, and whether the reader is one of those. The promotion itself is
// what evaluates every gate.
func (n *next) wait(stage promotion.Stage, given []artifact.Approval, p artifact.Principal, now time.Time) (mine bool) {
	if until := n.Since.Add(stage.Requires.Soak); until.After(now) {
		n.Waits = append(n.Waits, "soaks until "+until.UTC().Format("15:04 UTC, 2 Jan"))
	}
	gate := stage.Requires.Approvals
	if gate == nil {
		return false
	}
	var people []string
	for _, a := range given {
		if a.Role == gate.Role && !slices.Contains(people, a.Actor) {
			people = append(people, a.Actor)
		}
	}
	if len(people) >= gate.Count {
		return false
	}
	if gate.Count == 1 {
		n.Waits = append(n.Waits, fmt.Sprintf("waits for an approval, by role %s", gate.Role))
	} else {
		n.Waits = append(n.Waits, fmt.Sprintf("waits for %d of %d approvals, by role %s", gate.Count-len(people), gate.Count, gate.Role))
	}
	return p.As(gate.Role, n.Repository, stage.Environment) && !slices.Contains(people, p.Name)
}
