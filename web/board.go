package web

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/promotion"
)

// boardPage is services × environments, now or at an instant.
type boardPage struct {
	Rendered     int64 // milliseconds since 1970: what changed before is on the page
	Past         bool
	At           time.Time
	Slider       *slider // nil: nothing was ever promoted
	Environments []artifact.Environment
	Services     []service
	Total        int // services before the filter
	Tiles        []tile
	Query, Show  string
	Pages        pages
	Activity     []activity
	Denials      []artifact.PushRecord
	Empty        bool // nothing was ever pushed that the reader may see
	Looks        bool // the reader is told of more than what is promoted to environments of its own
}

// service is a row: a cell per environment.
type service struct {
	Repository artifact.Repository
	Group      string // shop/
	Name       string // returns
	Cells      []cell
}

// cell is what an environment of a service runs, and what is on its way there. What costs more than to count it is there
// of the page's rows alone.
type cell struct {
	Environment artifact.Environment
	*artifact.Status
	runs     *artifact.Cell       // what all rows have of Status; nil: nothing runs there, or the reader may not see it
	stage    *promotion.Stage     // what the environment asks for; nil: no pipeline has it, or the board is of the past
	Next     *next                // nil: nothing
	Gone     *artifact.Promotion  // of an empty cell: how what ran there was taken away; nil: it was not, or long ago
	Now      *artifact.Deployment // of the past: what runs there by now, where that is something else
	Promotes bool                 // the reader may promote here
	Mine     bool                 // what is next waits for the reader's approval
}

// tile is a number that leads to its services.
type tile struct {
	Show, Name string
	Count      int
	Bad        bool
}

// slider is the time that the board can be asked about.
type slider struct {
	From, To, At    int64 // seconds since 1970
	Ticks           []tick
	Earlier, Before time.Time // the last promotion before, and the next after what is shown; zero: none
}

// tick is a promotion on the slider.
type tick struct {
	X      float64 // of 1000
	Action string
}

// activity is what was pushed or promoted lately.
type activity struct {
	At         time.Time
	Actor      string
	What       string
	Repository artifact.Repository
	Digest     artifact.Digest
	Version    string
	Where      string // environments
	Reason     string
}

// Bounds of the board.
const (
	boardRows  = 15
	maxTicks   = 400
	recentRows = 10
	recentRead = 100  // pushes to any repository, before those of the reader are asked for
	recentFrom = 5000 // of these, at most
)

func (w *Web) board(c *gin.Context, p artifact.Principal) error {
	ctx, now := c.Request.Context(), w.cfg.Now()
	page := &boardPage{Rendered: now.UnixMilli(), At: now, Query: c.Query("q"), Show: c.Query("show"), Looks: p.Can(artifact.ActionLook, artifact.Repository{})}
	if err := page.parseTime(c.Query("at"), now); err != nil {
		return err
	}
	environments, err := w.cfg.Environments(ctx)
	if err != nil {
		return err
	}
	// What is not shown of an environment is not said to be nothing.
	page.Environments = slices.DeleteFunc(slices.Clone(environments), func(e artifact.Environment) bool {
		return !page.Looks && !slices.Contains(p.Deploys(artifact.Repository{}), e)
	})
	all, err := w.cfg.Store.Repositories(ctx)
	if err != nil {
		return err
	}
	known, err := w.cfg.Gate.Repositories(ctx, p, all)
	if err != nil {
		return err
	}
	page.Total = len(known)
	if page.Past {
		err = w.past(ctx, p, page, known, c.Request.URL.Query())
	} else {
		err = w.present(ctx, p, page, known, c.Request.URL.Query())
	}
	if err != nil {
		return err
	}
	title := "Board"
	if page.Past {
		title = "Board at " + page.At.UTC().Format("2006-01-02 15:04 UTC")
	}
	w.render(c, http.StatusOK, "board", title, page)
	return nil
}

// past fills the page with what ran at an instant.
func (w *Web) past(ctx context.Context, p artifact.Principal, page *boardPage, known []artifact.Repository, query url.Values) error {
	page.Empty = len(known) == 0
	known = slices.DeleteFunc(known, func(r artifact.Repository) bool { return !page.finds(r) })
	known, page.Pages = paged(known, boardRows, query)
	then, err := w.cfg.Store.DeploymentsAt(ctx, known, page.At)
	if err != nil {
		return err
	}
	statuses := make([]artifact.Status, len(then))
	for i, d := range then {
		statuses[i] = artifact.Status{Deployment: d}
		if !slices.Contains(page.Environments, d.Environment) && (page.Looks || slices.Contains(p.Deploys(d.Repository), d.Environment)) {
			page.Environments = append(page.Environments, d.Environment) // it is in no pipeline any more
		}
	}
	page.rows(p, known)
	page.fill(p, statuses)
	if err := w.slide(ctx, p, page); err != nil {
		return err
	}
	return w.compareWithNow(ctx, page)
}

// present fills the page with what runs now: of all services what is counted and filtered by, of the page's rows all.
func (w *Web) present(ctx context.Context, p artifact.Principal, page *boardPage, known []artifact.Repository, query url.Values) error {
	cells, err := w.cfg.Store.Cells(ctx)
	if err != nil {
		return err
	}
	page.rows(p, known)
	page.count(p, cells)
	if err := w.ahead(ctx, p, page); err != nil {
		return err
	}
	page.choose(query)
	shown := make([]artifact.Repository, len(page.Services))
	for i, row := range page.Services {
		shown[i] = row.Repository
	}
	statuses, err := w.cfg.Store.StatusOf(ctx, shown)
	if err != nil {
		return err
	}
	page.fill(p, statuses)
	if err := w.slide(ctx, p, page); err != nil {
		return err
	}
	if err := w.waits(ctx, p, page); err != nil {
		return err
	}
	if err := w.lately(ctx, p, page, known); err != nil {
		return err
	}
	page.Empty = len(known) == 0 && len(page.Denials) == 0
	return nil
}

// parseTime takes what a slider sends, seconds since 1970, what a form's date and time does, in UTC, and RFC 3339.
func (page *boardPage) parseTime(text string, now time.Time) error {
	if text == "" {
		return nil
	}
	page.Past = true
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds >= 0 && seconds < 1<<40 {
		page.At = time.Unix(seconds, 0).UTC()
		page.Past = page.At.Before(now.Add(-time.Second))
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02T15:04:05", time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			if at.After(now) {
				return artifact.Errorf(artifact.Invalid, "%s is in the future, of which nothing is known; it is %s now", text, now.UTC().Format(time.RFC3339))
			}
			page.At = at.UTC()
			return nil
		}
	}
	return artifact.Errorf(artifact.Invalid, "time %.50q: want 2026-10-01T12:00:00Z, 2026-10-01T12:00 or 2026-10-01", text)
}

// rows makes a row of each repository.
func (page *boardPage) rows(p artifact.Principal, known []artifact.Repository) {
	for _, r := range known {
		group, name := "", r.String()
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			group, name = name[:i+1], name[i+1:]
		}
		row := service{Repository: r, Group: group, Name: name, Cells: make([]cell, len(page.Environments))}
		for i, e := range page.Environments {
			row.Cells[i] = cell{Environment: e, Promotes: !page.Past && p.CanPromote(r, e)}
		}
		page.Services = append(page.Services, row)
	}
}

// at finds the cell of an environment of a repository that the reader may see; nil when there is none.
func (page *boardPage) at(p artifact.Principal) func(artifact.Repository, artifact.Environment) *cell {
	rows, columns := make(map[artifact.Repository]*service, len(page.Services)), map[artifact.Environment]int{}
	for i := range page.Services {
		rows[page.Services[i].Repository] = &page.Services[i]
	}
	for i, e := range page.Environments {
		columns[e] = i
	}
	return func(r artifact.Repository, e artifact.Environment) *cell {
		row, ok := rows[r]
		column, known := columns[e]
		if !ok || !known || !p.Can(artifact.ActionLook, r) && !slices.Contains(p.Deploys(r), e) {
			return nil
		}
		return &row.Cells[column]
	}
}

func (page *boardPage) count(p artifact.Principal, cells []artifact.Cell) {
	at := page.at(p)
	for i := range cells {
		if c := at(cells[i].Repository, cells[i].Environment); c != nil {
			c.runs = &cells[i]
		}
	}
}

func (page *boardPage) fill(p artifact.Principal, statuses []artifact.Status) {
	at := page.at(p)
	for i := range statuses {
		if c := at(statuses[i].Repository, statuses[i].Environment); c != nil {
			c.Status = &statuses[i]
		}
	}
}

// slide makes the slider of the promotions that the reader may know of.
func (w *Web) slide(ctx context.Context, p artifact.Principal, page *boardPage) error {
	first, ok, err := w.cfg.Store.FirstPromotion(ctx)
	if err != nil || !ok || !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return err
	}
	now := w.cfg.Now()
	recent, err := w.cfg.Store.PromotionsUntil(ctx, now, maxTicks)
	if err != nil {
		return err
	}
	s := &slider{From: first.Unix() - 1, To: now.Unix(), At: page.At.Unix()}
	s.mark(p, recent)
	if page.Past {
		if recent, err = w.cfg.Store.PromotionsUntil(ctx, page.At, maxTicks); err != nil {
			return err
		}
		after, err := w.cfg.Store.PromotionsAfter(ctx, page.At, maxTicks)
		if err != nil {
			return err
		}
		for _, one := range after {
			if s.Before.IsZero() && p.Can(artifact.ActionLook, one.Repository) {
				s.Before = one.At
			}
		}
	}
	for _, one := range recent {
		if !p.Can(artifact.ActionLook, one.Repository) {
			continue
		}
		if s.Earlier.IsZero() {
			s.Earlier = one.At.Add(-time.Microsecond) // as finely as times are stored: several are in one second
		}
		page.note(one)
	}
	page.gone(recent)
	page.Slider = s
	return nil
}

// mark draws the last promotions; those that would lie on each other once.
func (s *slider) mark(p artifact.Principal, recent []artifact.Promotion) {
	span := max(float64(s.To-s.From), 1)
	seen := map[tick]bool{}
	for _, one := range recent {
		t := tick{X: math.Round(float64(one.At.Unix()-s.From)/span*10000) / 10, Action: one.Action}
		if !seen[t] && p.Can(artifact.ActionLook, one.Repository) {
			seen[t] = true
			s.Ticks = append(s.Ticks, t)
		}
	}
}

// note adds a promotion to what happened lately. A recall is one, of however many environments.
func (page *boardPage) note(one artifact.Promotion) {
	if n := len(page.Activity); n > 0 && page.Activity[n-1].What == one.Action && page.Activity[n-1].Digest == one.Digest && page.Activity[n-1].At.Equal(one.At) {
		page.Activity[n-1].Where += ", " + one.Environment.String()
		return
	}
	if len(page.Activity) < recentRows {
		page.Activity = append(page.Activity, activity{At: one.At, Actor: one.Actor, What: one.Action, Repository: one.Repository, Digest: one.Digest, Version: one.Version, Where: one.Environment.String(), Reason: one.Reason})
	}
}

// gone finds of empty cells what was taken away from them, among the last promotions, newest first.
func (page *boardPage) gone(recent []artifact.Promotion) {
	empty := map[artifact.Repository][]*cell{}
	for i := range page.Services {
		for j := range page.Services[i].Cells {
			if c := &page.Services[i].Cells[j]; c.Status == nil {
				empty[page.Services[i].Repository] = append(empty[page.Services[i].Repository], c)
			}
		}
	}
	for i := range recent {
		one := &recent[i]
		for _, c := range empty[one.Repository] {
			if c.Environment == one.Environment && c.Gone == nil && !one.At.After(page.At) && (one.Action == "recall" || one.Action == "retire") {
				c.Gone = one
			}
		}
	}
}

// compareWithNow marks what runs elsewhere by now.
func (w *Web) compareWithNow(ctx context.Context, page *boardPage) error {
	for i := range page.Services {
		row := &page.Services[i]
		now, err := w.cfg.Store.Deployments(ctx, row.Repository)
		if err != nil {
			return err
		}
		for j := range row.Cells {
			c := &row.Cells[j]
			d := &artifact.Deployment{}
			for k := range now {
				if now[k].Environment == c.Environment {
					d = &now[k]
				}
			}
			if c.Status != nil && d.Digest != c.Digest {
				c.Now = d
			}
		}
	}
	return nil
}

// lately adds what happened lately, in the repositories that the reader knows of.
func (w *Web) lately(ctx context.Context, p artifact.Principal, page *boardPage, known []artifact.Repository) error {
	pushes, err := w.pushes(ctx, p, known, artifact.Allow)
	if err != nil {
		return err
	}
	for _, push := range pushes {
		page.Activity = append(page.Activity, activity{At: push.At, Actor: push.Actor, What: "push", Repository: push.Repository, Digest: push.Digest, Version: push.Reference})
	}
	slices.SortStableFunc(page.Activity, func(a, b activity) int { return b.At.Compare(a.At) })
	page.Activity = page.Activity[:min(len(page.Activity), recentRows)]
	page.Denials, err = w.pushes(ctx, p, known, artifact.Deny)
	return err
}

// pushes returns the newest pushes in repositories whose content the reader may look at. Where most go to those of others, the
// reader's are looked into.
func (w *Web) pushes(ctx context.Context, p artifact.Principal, known []artifact.Repository, outcome artifact.Outcome) ([]artifact.PushRecord, error) {
	all, err := w.cfg.Store.RecentPushes(ctx, outcome, recentRead)
	if err != nil {
		return nil, err
	}
	seen := slices.DeleteFunc(slices.Clone(all), func(push artifact.PushRecord) bool { return !p.Can(artifact.ActionLook, push.Repository) })
	if len(seen) < recentRows && len(all) == recentRead && len(seen) < len(all) {
		if seen, err = w.cfg.Store.RecentPushesTo(ctx, looked(p, known), outcome, recentRows); err != nil {
			return nil, err
		}
	}
	return seen[:min(len(seen), recentRows)], nil
}

// looked returns repositories that the reader may look at: of those that are known, and those that a role names, which may have nothing but
// what was denied.
func looked(p artifact.Principal, known []artifact.Repository) (all []artifact.Repository) {
	for _, pattern := range p.Patterns(artifact.ActionLook) {
		if r, err := artifact.ParseRepository(pattern); err == nil {
			all = append(all, r)
		}
	}
	for _, r := range known {
		if p.Can(artifact.ActionLook, r) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b artifact.Repository) int { return strings.Compare(a.String(), b.String()) })
	all = slices.Compact(all)
	return all[:min(len(all), recentFrom)]
}

// shows are the filters that tiles lead to.
var shows = []struct {
	show, name string
	bad        bool
	looks      bool // only who may look knows
	is         func(service) bool
}{
	{"", "services", false, false, func(service) bool { return true }},
	{"behind", "with something on its way", false, true, func(s service) bool { return slices.ContainsFunc(s.Cells, func(c cell) bool { return c.Next != nil }) }},
	{"mine", "waiting for your approval", false, true, func(s service) bool { return slices.ContainsFunc(s.Cells, func(c cell) bool { return c.Mine }) }},
	{"bad", "denied by the policies of now", true, false, func(s service) bool {
		return slices.ContainsFunc(s.Cells, func(c cell) bool { return c.runs != nil && c.runs.Denied })
	}},
	{"severe", "with critical or high findings", true, false, func(s service) bool {
		return slices.ContainsFunc(s.Cells, func(c cell) bool { return c.runs != nil && c.runs.Severe })
	}},
}

// finds reports whether a repository's name holds what is searched for.
func (page *boardPage) finds(r artifact.Repository) bool {
	return strings.Contains(r.String(), strings.ToLower(strings.TrimSpace(page.Query)))
}

// choose counts what each filter would show, and keeps a page of what the one that was asked for does.
func (page *boardPage) choose(query url.Values) {
	is := shows[0].is
	for _, s := range shows {
		if s.looks && !page.Looks {
			continue
		}
		count, name := 0, s.name
		for _, row := range page.Services {
			if s.is(row) {
				count++
			}
		}
		if s.show == "" && count == 1 {
			name = "service"
		}
		page.Tiles = append(page.Tiles, tile{Show: s.show, Name: name, Count: count, Bad: s.bad && count > 0})
		if s.show == page.Show {
			is = s.is
		}
	}
	page.Services = slices.DeleteFunc(page.Services, func(s service) bool { return !is(s) || !page.finds(s.Repository) })
	page.Services, page.Pages = paged(page.Services, boardRows, query)
}
