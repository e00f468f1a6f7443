package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/registry"
	"waybill/storage"
)

// Accounts say what is stored (storage.Accounts).
type Accounts interface {
	Account(ctx context.Context) (storage.Account, error)
}

// Upkeep looks after what is stored, and remembers what that came to.
type Upkeep interface {
	Collect(ctx context.Context, p artifact.Principal, dryRun bool) (registry.Collected, error)
	// Run runs retention.
	Run(ctx context.Context, actor string, dryRun bool) (storage.Report, error)
	// Runs returns the newest of a kind, the newest first, at most n.
	Runs(ctx context.Context, kind string, n int) ([]storage.Run, error)
}

// storagePage says what is stored, and looks after it.
type storagePage struct {
	form
	Account storage.Account
	Largest int64
	Saved   int64 // bytes that repositories share instead of having each their own
	Query   string
	Sorts   []tokenView
	Sort    string
	Rows    []storage.Holding
	Pages   pages

	Collections, Checks, Retentions []storage.Run // the newest first

	Problem string
	Garbage *registry.Collected // a dry run of garbage collection
	More    int64               // things that it does not name here
	Plan    *retentionPlan      // a dry run of retention
}

// Share is how many of 1000 parts of a bar some bytes are.
func (p *storagePage) Share(n int64) int64 {
	if whole := max(p.Account.Quota, p.Account.Used()); whole > 0 {
		return n * 1000 / whole
	}
	return 0
}

// Part is Share of the largest repository.
func (p *storagePage) Part(n int64) int64 {
	if p.Largest > 0 {
		return n * 1000 / p.Largest
	}
	return 0
}

// Percent is how much of a quota is used.
func (p *storagePage) Percent(n, quota int64) int64 { return n * 100 / max(quota, 1) }

// retentionPlan is what a dry run of retention says, as far as a page shows it.
type retentionPlan struct {
	Repositories  []storage.RepositoryReport
	Removed, Kept int
	Freed         int64
	Cut           int // of those that go, how many are not named
}

const (
	holdingRows = 50
	shownRuns   = 5
	shownItems  = 50 // of what a dry run names
)

// manages refuses whom the API would: this is of all repositories.
func manages(p artifact.Principal) error {
	if p.CanEverywhere(artifact.ActionManage) {
		return nil
	}
	return artifact.Errorf(artifact.Denied, "%s, a %s, may not manage what is stored; that takes role %s", p.Name, p.Roles(), artifact.RolesWith(artifact.ActionManage))
}

func (w *Web) storage(c *gin.Context, p artifact.Principal) error {
	return w.showStorage(c, p, http.StatusOK, &storagePage{})
}

func (w *Web) showStorage(c *gin.Context, p artifact.Principal, status int, page *storagePage) (err error) {
	if err := manages(p); err != nil {
		return err
	}
	ctx := c.Request.Context()
	if page.Account, err = w.cfg.Accounts.Account(ctx); err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		runs *[]storage.Run
	}{{storage.RunCollection, &page.Collections}, {storage.RunCheck, &page.Checks}, {storage.RunRetention, &page.Retentions}} {
		if *kind.runs, err = w.cfg.Upkeep.Runs(ctx, kind.name, shownRuns); err != nil {
			return err
		}
	}
	for _, h := range page.Account.Repositories {
		page.Largest, page.Saved = max(page.Largest, h.Bytes), page.Saved+h.Bytes
	}
	page.Saved -= page.Account.Bytes - page.Account.Loose
	page.Query, page.Sort = strings.TrimSpace(c.Query("q")), c.Query("sort")
	for _, by := range []struct{ name, text string }{{"", "size"}, {"own", "alone"}, {"name", "name"}} {
		query := url.Values{}
		if page.Query != "" {
			query.Set("q", page.Query)
		}
		if by.name != "" {
			query.Set("sort", by.name)
		}
		page.Sorts = append(page.Sorts, tokenView{Name: by.text, Path: "/storage?" + query.Encode() + "#repositories", Here: by.name == page.Sort})
	}
	rows := slices.DeleteFunc(slices.Clone(page.Account.Repositories), func(h storage.Holding) bool {
		return !strings.Contains(h.Repository.String(), strings.ToLower(page.Query))
	})
	storage.Sort(rows, page.Sort)
	page.Rows, page.Pages = paged(rows, holdingRows, c.Request.URL.Query())
	page.Pages = page.Pages.at("/storage")
	w.render(c, status, "storage", "Storage", page)
	return nil
}

// takeTime is for what takes long once a form has come: neither the deadline for the form's bytes ends it, nor the bound
// of what a request waits for of the database.
func takeTime(c *gin.Context) context.Context {
	_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Time{}) // a writer that has no deadlines is one of a test's
	return artifact.TakesTime(c.Request.Context())
}

// collect runs garbage collection, or says what it would remove.
func (w *Web) collect(c *gin.Context, p artifact.Principal) error {
	if err := manages(p); err != nil {
		return err
	}
	dry := c.PostForm("do") != "run"
	done, err := w.cfg.Upkeep.Collect(takeTime(c), p, dry)
	if artifact.KindOf(err) == artifact.Conflict {
		return w.showStorage(c, p, http.StatusConflict, &storagePage{Problem: messageOf(err)})
	} else if err != nil {
		return err
	}
	things := done.Blobs.Count + done.Uploads.Count + done.Files.Count
	if !dry {
		return w.done(c, "/storage", "Collected garbage: removed %s, and freed %s.", thingsOf(things), size(done.Freed))
	}
	page := &storagePage{Garbage: &done}
	if len(done.Items) > shownItems {
		done.Items = done.Items[:shownItems]
	}
	page.More = things + done.Links.Count - int64(len(done.Items))
	return w.showStorage(c, p, http.StatusOK, page)
}

func thingsOf(n int64) string {
	if n == 1 {
		return "1 thing"
	}
	return fmt.Sprintf("%d things", n)
}

// retain runs retention, or says what it would remove.
func (w *Web) retain(c *gin.Context, p artifact.Principal) error {
	if err := manages(p); err != nil {
		return err
	}
	dry := c.PostForm("do") != "run"
	report, err := w.cfg.Upkeep.Run(takeTime(c), p.Name, dry)
	if err != nil {
		return err
	}
	plan := planOf(report)
	if !dry {
		return w.done(c, "/storage", "Retention removed %s of %s; garbage collection frees %s.", manifestsOf(plan.Removed), repositoriesOf(len(plan.Repositories)), size(plan.Freed))
	}
	return w.showStorage(c, p, http.StatusOK, &storagePage{Plan: &plan})
}

func manifestsOf(n int) string {
	if n == 1 {
		return "1 manifest or tag"
	}
	return fmt.Sprintf("%d manifests and tags", n)
}

func repositoriesOf(n int) string {
	if n == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", n)
}

// planOf counts a report, and cuts it to what a page names.
func planOf(report storage.Report) retentionPlan {
	plan := retentionPlan{}
	for _, r := range report.Repositories {
		plan.Removed, plan.Kept, plan.Freed = plan.Removed+len(r.Removed), plan.Kept+len(r.Kept), plan.Freed+r.Freed
		if room := max(shownItems-(plan.Removed-len(r.Removed)-plan.Cut), 0); len(r.Removed) > room {
			plan.Cut += len(r.Removed) - room
			r.Removed = r.Removed[:room]
		}
		plan.Repositories = append(plan.Repositories, r)
	}
	return plan
}
