package web

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/promotion"
)

// repositoriesPage lists repositories.
type repositoriesPage struct {
	Query        string
	Repositories []repositoryRow
	Pages        pages
	Total        int
}

// repositoryRow is a repository with what runs of it.
type repositoryRow struct {
	Repository artifact.Repository
	Runs       []artifact.Status
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
	statuses, err := w.cfg.Store.Status(ctx)
	if err != nil {
		return err
	}
	for _, r := range known {
		row := repositoryRow{Repository: r}
		for _, s := range statuses {
			if s.Repository == r && (p.Can(artifact.ActionLook, s.Repository) || slices.Contains(p.Deploys(s.Repository), s.Environment)) {
				row.Runs = append(row.Runs, s)
			}
		}
		w.inOrder(c, row.Runs)
		page.Repositories = append(page.Repositories, row)
	}
	w.render(c, http.StatusOK, "repositories", "Repositories", page)
	return nil
}

// repositoryPage is a repository's tags, and what was promoted from it.
type repositoryPage struct {
	Repository artifact.Repository
	Tags       []struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}
	TagPages pages
	Tag      string // whose history is shown; empty: none's
	Changes  []artifact.TagChange
	Runs     []artifact.Status
	History  []artifact.Promotion // newest first
	Pages    pages
	Looks    bool
	Promotes bool
}

// tagRows and historyRows are how many of each a page lists.
const (
	tagRows     = 100
	historyRows = 50
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
	page := repositoryPage{Repository: r, Looks: p.Can(artifact.ActionLook, r), Promotes: p.Can(artifact.ActionPromote, r)}
	tags, err := w.cfg.Store.Tags(ctx, r)
	if err != nil {
		return err
	}
	digests := make([]artifact.Digest, len(tags))
	for i, tag := range tags {
		digests[i] = tag.Digest
	}
	allowed := map[artifact.Digest]bool{}
	if !page.Looks {
		if allowed, err = w.cfg.Gate.Filter(ctx, p, r, digests); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if (page.Looks || allowed[tag.Digest]) && !strings.HasPrefix(tag.Name.String(), "sha256-") {
			page.Tags = append(page.Tags, tag)
		}
	}
	page.Tags, page.TagPages = pagedBy("tags", page.Tags, tagRows, c.Request.URL.Query())
	statuses, err := w.cfg.Store.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range statuses {
		if s.Repository == r && (p.Can(artifact.ActionLook, s.Repository) || slices.Contains(p.Deploys(s.Repository), s.Environment)) {
			page.Runs = append(page.Runs, s)
		}
	}
	w.inOrder(c, page.Runs)
	if page.Looks {
		if page.History, err = w.cfg.Store.History(ctx, r); err != nil {
			return err
		}
		slices.Reverse(page.History)
		page.History, page.Pages = paged(page.History, historyRows, c.Request.URL.Query())
		if name := c.Query("tag"); name != "" {
			tag, err := artifact.ParseTag(name)
			if err != nil {
				return err
			}
			if page.Changes, err = w.cfg.Store.TagHistory(ctx, r, tag); err != nil {
				return err
			}
			page.Tag = tag.String()
			slices.Reverse(page.Changes)
		}
	}
	w.render(c, http.StatusOK, "repository", r.String(), page)
	return nil
}

// inOrder sorts what runs as the pipelines do.
func (w *Web) inOrder(c *gin.Context, runs []artifact.Status) {
	order, err := w.cfg.Environments(c.Request.Context())
	if err != nil {
		return // by name, then
	}
	slices.SortStableFunc(runs, func(a, b artifact.Status) int {
		return slices.Index(order, a.Environment) - slices.Index(order, b.Environment)
	})
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
	if text := c.Query("after"); text != "" {
		var err error
		if after, err = artifact.ParseDigest(text); err != nil {
			return err
		}
	}
	all, last, err := w.cfg.Store.Affected(ctx, page.ID, after, affectedRows)
	if err != nil {
		return err
	}
	if !last.IsZero() {
		page.Next = last.String()
	}
	for _, one := range all {
		one, ok, err := w.affected(c, p, one)
		if err != nil {
			return err
		}
		if !ok {
			continue
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
	}
	slices.SortStableFunc(page.Affected, func(a, b artifact.Affected) int { return len(b.RunsIn) - len(a.RunsIn) })
	w.render(c, http.StatusOK, "cve", page.ID, page)
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
	statuses, err := w.cfg.Store.Status(ctx)
	if err != nil {
		return err
	}
	page := pipelinesPage{}
	for _, one := range all {
		page.Pipelines = append(page.Pipelines, w.view(c, p, one, statuses))
	}
	w.render(c, http.StatusOK, "pipelines", "Pipelines", page)
	return nil
}

func (w *Web) view(c *gin.Context, p artifact.Principal, one promotion.Versioned, statuses []artifact.Status) pipelineView {
	v := pipelineView{Name: one.Name(), Version: one.Version, Matches: one.Repositories(), Except: one.Except()}
	chosen := map[artifact.Repository]bool{}
	for _, s := range statuses {
		if _, asked := chosen[s.Repository]; !asked && p.Can(artifact.ActionLook, s.Repository) {
			its, err := w.cfg.Promotions.Pipeline(c.Request.Context(), s.Repository)
			chosen[s.Repository] = err == nil && its.Name() == one.Name()
		}
	}
	for _, stage := range one.Environments {
		s := stageView{Environment: stage.Environment, After: stage.Requires.After, Asks: stage.Asks()}
		for _, status := range statuses {
			if status.Environment == stage.Environment && chosen[status.Repository] {
				s.Runs++
			}
		}
		v.Stages = append(v.Stages, s)
	}
	return v
}
