package web

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/promotion"
	"waybill/storage"
)

// repositoriesPage lists repositories.
type repositoriesPage struct {
	Query        string
	Repositories []repositoryRow
	Pages        pages
	Total        int
	Shares       bool // whether the reader sees what is shared with others: who sees all of them
	CountedAt    time.Time
}

// repositoryRow is a repository with what runs of it.
type repositoryRow struct {
	Repository artifact.Repository
	Runs       []artifact.Status
	Holds      *storage.Holding // nil: it is not the reader's business, or was not counted yet
}

// repositoryRows is how many repositories a page lists.
const repositoryRows = 50

func (w *Web) repositories(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	all, err := w.cfg.Store.Repositories(ctx)
	if err != nil {
		return err
	}
	known, err := w.cfg.Gate.Repositories(ctx, p, all)
	if err != nil {
		return err
	}
	page := repositoriesPage{Query: c.Query("q"), Total: len(known)}
	words := strings.ToLower(strings.TrimSpace(page.Query))
	known = slices.DeleteFunc(known, func(r artifact.Repository) bool { return !strings.Contains(r.String(), words) })
	known, page.Pages = paged(known, repositoryRows, c.Request.URL.Query())
	runs, err := w.runs(ctx, p, known...)
	if err != nil {
		return err
	}
	account, err := w.cfg.Accounts.Account(ctx)
	if err != nil {
		return err
	}
	page.Shares, page.CountedAt = p.CanEverywhere(artifact.ActionLook), account.CountedAt
	holds := map[artifact.Repository]*storage.Holding{}
	for i, h := range account.Repositories {
		if p.Can(artifact.ActionLook, h.Repository) {
			holds[h.Repository] = &account.Repositories[i]
		}
	}
	for _, r := range known {
		row := repositoryRow{Repository: r, Holds: holds[r]}
		for _, s := range runs {
			if s.Repository == r {
				row.Runs = append(row.Runs, s)
			}
		}
		page.Repositories = append(page.Repositories, row)
	}
	w.render(c, http.StatusOK, "repositories", "Repositories", page)
	return nil
}

// repositoryPage is a repository's tags, and what was promoted from it.
type repositoryPage struct {
	Repository artifact.Repository
	Query      string // what names of tags hold that are shown
	Tags       []artifact.TagAt
	TagPages   pages
	Tag        string // whose history is shown; empty: none's
	Changes    []artifact.TagChange
	Runs       []artifact.Status
	History    []artifact.Promotion // newest first
	Pages      pages
	Denials    []artifact.PushRecord
	Looks      bool
	Targets    []artifact.Environment // where the reader may promote to
}

// tagRows, historyRows and denialRows are how many of each a page lists.
const (
	tagRows     = 100
	historyRows = 50
	denialRows  = 10
)

func (w *Web) repository(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	r, err := artifact.ParseRepository(strings.TrimPrefix(c.Param("repository"), "/"))
	if err != nil {
		return err
	}
	known, err := w.cfg.Gate.Repositories(ctx, p, []artifact.Repository{r})
	if err != nil {
		return err
	}
	if len(known) == 0 {
		return p.Refusal(artifact.ActionLook, r)
	}
	page := repositoryPage{Repository: r, Query: strings.TrimSpace(c.Query("q")), Looks: p.Can(artifact.ActionLook, r)}
	if err := w.tags(ctx, p, &page, c.Request.URL.Query()); err != nil {
		return err
	}
	if page.Runs, err = w.runs(ctx, p, r); err != nil {
		return err
	}
	if page.Looks {
		if err := page.story(ctx, w, p, c.Request.URL.Query()); err != nil {
			return err
		}
	}
	w.render(c, http.StatusOK, "repository", r.String(), page)
	return nil
}

// tags lists a page of the tags that the reader may see.
func (w *Web) tags(ctx context.Context, p artifact.Principal, page *repositoryPage, query url.Values) error {
	if page.Looks {
		tags, all, err := w.cfg.Store.TagPage(ctx, page.Repository, page.Query, behind("tags", tagRows, query), tagRows)
		page.Tags, page.TagPages = tags, pageOf("tags", all, tagRows, query)
		return err
	}
	all, err := w.cfg.Store.Tags(ctx, page.Repository)
	if err != nil {
		return err
	}
	digests := make([]artifact.Digest, len(all))
	for i, tag := range all {
		digests[i] = tag.Digest
	}
	allowed, err := w.cfg.Gate.Filter(ctx, p, page.Repository, digests)
	if err != nil {
		return err
	}
	for _, tag := range all {
		if allowed[tag.Digest] && !strings.HasPrefix(tag.Name.String(), "sha256-") && strings.Contains(strings.ToLower(tag.Name.String()), strings.ToLower(page.Query)) {
			page.Tags = append(page.Tags, artifact.TagAt(tag))
		}
	}
	page.Tags, page.TagPages = pagedBy("tags", page.Tags, tagRows, query)
	return nil
}

// story adds what happened in a repository, for one who may look at it.
func (page *repositoryPage) story(ctx context.Context, w *Web, p artifact.Principal, query url.Values) (err error) {
	r := page.Repository
	var total int
	if page.History, total, err = w.cfg.Store.HistoryPage(ctx, r, behind("page", historyRows, query), historyRows); err != nil {
		return err
	}
	page.Pages = pageOf("page", total, historyRows, query)
	if page.Denials, err = w.cfg.Store.DeniedPushes(ctx, r, denialRows); err != nil {
		return err
	}
	if page.Targets, err = w.targets(ctx, p, r); err != nil || query.Get("tag") == "" {
		return err
	}
	tag, err := artifact.ParseTag(query.Get("tag"))
	if err != nil {
		return err
	}
	if page.Changes, err = w.cfg.Store.TagHistory(ctx, r, tag); err != nil {
		return err
	}
	slices.Reverse(page.Changes)
	page.Tag, page.Changes = tag.String(), page.Changes[:min(len(page.Changes), changeRows)]
	return nil
}

// changeRows is how many changes of a tag are shown, the last ones.
const changeRows = 100

// targets are the environments of a repository's pipeline that the reader may promote to.
func (w *Web) targets(ctx context.Context, p artifact.Principal, r artifact.Repository) (all []artifact.Environment, err error) {
	pipeline, err := w.cfg.Promotions.Pipeline(ctx, r)
	if kind := artifact.KindOf(err); kind == artifact.NotFound || kind == artifact.Conflict {
		return nil, nil // there is none, or two: a promotion says so
	}
	for _, stage := range pipeline.Environments {
		if p.CanPromote(r, stage.Environment) {
			all = append(all, stage.Environment)
		}
	}
	return all, err
}

// runs returns what runs of some repositories, as far as the reader may see it, in the order of the pipelines.
func (w *Web) runs(ctx context.Context, p artifact.Principal, repositories ...artifact.Repository) ([]artifact.Status, error) {
	all, err := w.cfg.Store.StatusOf(ctx, repositories)
	all = slices.DeleteFunc(all, func(s artifact.Status) bool {
		return !p.Can(artifact.ActionLook, s.Repository) && !slices.Contains(p.Deploys(s.Repository), s.Environment)
	})
	if order, err := w.cfg.Environments(ctx); err == nil { // else by name
		slices.SortStableFunc(all, func(a, b artifact.Status) int {
			return slices.Index(order, a.Environment) - slices.Index(order, b.Environment)
		})
	}
	return all, err
}

// cvePage says where a vulnerability is.
type cvePage struct {
	ID       string
	Asked    bool
	Title    string
	URL      string
	Severity artifact.Severity
	Affected []artifact.Affected
	Running  int    // of those, how many environments run
	Next     string // of the next page; empty: this is the last
}

// findingID is what databases call vulnerabilities: CVE-2024-24790, GHSA-…, DLA-…, TEMP-…, RUSTSEC-….
var findingID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$`)

// affectedRows is how many digests a page is about.
const affectedRows = 100

func (w *Web) cve(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	page := cvePage{ID: strings.TrimSpace(c.Query("id"))}
	if page.ID == "" {
		w.render(c, http.StatusOK, "cve", "Vulnerabilities", page)
		return nil
	}
	if !findingID.MatchString(page.ID) {
		return artifact.Errorf(artifact.Invalid, "%.100q is no id of a vulnerability; want one such as CVE-2024-24790", page.ID)
	}
	page.Asked = true
	var after artifact.Digest
	if err := w.open("cves", c.Query("after"), &after); err != nil {
		return err
	}
	for reads := 1; ; reads++ {
		all, last, err := w.cfg.Store.Affected(ctx, page.ID, after, affectedRows)
		if err != nil {
			return err
		}
		for _, one := range all {
			if err := w.addAffected(c, p, one, &page); err != nil {
				return err
			}
		}
		if after = last; last.IsZero() {
			break
		}
		if len(page.Affected) >= affectedRows || reads == affectedReads {
			page.Next = w.place("cves", last)
			break
		}
	}
	slices.SortStableFunc(page.Affected, func(a, b artifact.Affected) int { return len(b.RunsIn) - len(a.RunsIn) })
	w.render(c, http.StatusOK, "cve", page.ID, page)
	return nil
}

// affectedReads bounds how often a page reads on for one who may see little of what is affected.
const affectedReads = 10

// addAffected adds an image to the page, if the reader may see it.
func (w *Web) addAffected(c *gin.Context, p artifact.Principal, one artifact.Affected, page *cvePage) error {
	one, ok, err := w.affected(c, p, one)
	if err != nil || !ok {
		return err
	}
	page.Affected = append(page.Affected, one)
	page.Running += len(one.RunsIn)
	for _, f := range one.Findings {
		if page.Title == "" {
			page.Title, page.URL = f.Title, f.URL
		}
		if f.Severity.Rank() > page.Severity.Rank() {
			page.Severity = f.Severity
		}
	}
	return nil
}

// affected is what of an affected image the reader may see.
func (w *Web) affected(c *gin.Context, p artifact.Principal, one artifact.Affected) (artifact.Affected, bool, error) {
	if p.Can(artifact.ActionLook, one.Repository) {
		return one, true, nil
	}
	allowed, err := w.cfg.Gate.Filter(c.Request.Context(), p, one.Repository, append([]artifact.Digest{one.Digest}, one.Indexes...))
	if err != nil || !allowed[one.Digest] {
		return one, false, err
	}
	one.Indexes = slices.DeleteFunc(one.Indexes, func(d artifact.Digest) bool { return !allowed[d] })
	one.RunsIn = slices.DeleteFunc(one.RunsIn, func(a artifact.Affecting) bool { return !slices.Contains(p.Deploys(one.Repository), a.Environment) })
	one.Tags = nil // where tags stand is not a deployer's business
	return one, true, nil
}

// pipelinesPage draws the pipelines in force.
type pipelinesPage struct{ Pipelines []pipelineView }

type pipelineView struct {
	Name    string
	Version int
	Matches []string
	Except  []string
	Stages  []stageView
}

type stageView struct {
	Environment artifact.Environment
	After       []artifact.Environment
	Asks        []string
	Runs        int // services whose current digest it has
}

func (w *Web) pipelines(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	all, err := w.cfg.Promotions.All(ctx)
	if err != nil {
		return err
	}
	runs, err := w.cfg.Store.Deployments(ctx, artifact.Repository{})
	if err != nil {
		return err
	}
	page := pipelinesPage{}
	for _, one := range all {
		page.Pipelines = append(page.Pipelines, w.view(c, p, one, runs))
	}
	w.render(c, http.StatusOK, "pipelines", "Pipelines", page)
	return nil
}

func (w *Web) view(c *gin.Context, p artifact.Principal, one promotion.Versioned, runs []artifact.Deployment) pipelineView {
	v := pipelineView{Name: one.Name(), Version: one.Version, Matches: one.Repositories(), Except: one.Except()}
	chosen := map[artifact.Repository]bool{}
	for _, s := range runs {
		if _, asked := chosen[s.Repository]; !asked && p.Can(artifact.ActionLook, s.Repository) {
			its, err := w.cfg.Promotions.Pipeline(c.Request.Context(), s.Repository)
			chosen[s.Repository] = err == nil && its.Name() == one.Name()
		}
	}
	for _, stage := range one.Environments {
		s := stageView{Environment: stage.Environment, After: stage.Requires.After, Asks: stage.Asks()}
		for _, d := range runs {
			if d.Environment == stage.Environment && chosen[d.Repository] {
				s.Runs++
			}
		}
		v.Stages = append(v.Stages, s)
	}
	return v
}
