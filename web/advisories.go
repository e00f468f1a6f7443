package web

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// Advisories hold the databases that scans match with.
type Advisories interface {
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	// AdvisoryDatabases and JavaDatabases return those that were in use, the newest first, at most n.
	AdvisoryDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error)
	JavaDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error)
	LastPull(ctx context.Context) (artifact.AdvisoryPull, bool, error)
	LastJavaPull(ctx context.Context) (artifact.AdvisoryPull, bool, error)
	// NextPull is when it is pulled by itself next, at the latest; the zero time when it is not.
	NextPull(ctx context.Context) (time.Time, error)
	// Pull brings what is configured into use.
	Pull(ctx context.Context, actor artifact.Principal, source string) (artifact.AdvisoryDatabase, error)
	Source() string
	JavaSource() string
	Key() string // the id of the key that must have signed what is pulled; empty: none must
	MaxAge() time.Duration
	Interval() time.Duration
	// Matched counts images by how far they are with the database in use.
	Matched(ctx context.Context) (artifact.ScanCoverage, error)
}

// advisoriesPage says what scans know of.
type advisoriesPage struct {
	form
	Databases []databaseView
	Key       string
	MaxAge    time.Duration
	Interval  time.Duration
	Next      time.Time
	Images    *artifact.ScanCoverage // nil for who does not see all of them
	Manages   bool
	Pulls     bool // there is something to pull from
	Problem   string
	History   []databaseImport
	Pages     pages
}

// databaseView is one of the two databases.
type databaseView struct {
	Name, What string
	Present    bool
	artifact.AdvisoryDatabase
	Stale    bool
	Source   string
	LastPull *artifact.AdvisoryPull
}

// databaseImport is one that was in use.
type databaseImport struct {
	Name string
	artifact.AdvisoryDatabase
	Current bool
}

// Behind is how many images have no answer of the database in use.
func (p *advisoriesPage) Behind() int64 {
	return p.Images.Outdated + p.Images.Pending + p.Images.Failed
}

// All is how many images there are.
func (p *advisoriesPage) All() int64 { return p.Images.Matched + p.Behind() }

// Share is how many of 1000 parts of a bar some images are.
func (p *advisoriesPage) Share(n int64) int64 { return n * 1000 / max(p.All(), 1) }

const (
	importRows = 25
	maxImports = 1000
)

func (w *Web) advisories(c *gin.Context, p artifact.Principal) error {
	return w.showAdvisories(c, p, http.StatusOK, "")
}

func (w *Web) showAdvisories(c *gin.Context, p artifact.Principal, status int, problem string) (err error) {
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	ctx, from := c.Request.Context(), w.cfg.Advisories
	page := &advisoriesPage{Problem: problem, Key: from.Key(), MaxAge: from.MaxAge(), Interval: from.Interval(), Manages: p.Can(artifact.ActionManage, artifact.Repository{}), Pulls: from.Source() != "" || from.JavaSource() != ""}
	if page.Next, err = from.NextPull(ctx); err != nil {
		return err
	}
	if err := w.databases(ctx, page); err != nil {
		return err
	}
	if p.CanEverywhere(artifact.ActionLook) {
		images, err := from.Matched(ctx)
		if err != nil {
			return err
		}
		page.Images = &images
	}
	page.History, page.Pages = paged(page.History, importRows, c.Request.URL.Query())
	page.Pages = page.Pages.at("/advisories")
	w.render(c, status, "advisories", "Advisory database", page)
	return nil
}

// databases fills in both, and those that were in use before.
func (w *Web) databases(ctx context.Context, page *advisoriesPage) error {
	from := w.cfg.Advisories
	for _, kind := range []struct {
		view     databaseView
		database func(context.Context) (artifact.AdvisoryDatabase, bool, error)
		pull     func(context.Context) (artifact.AdvisoryPull, bool, error)
		before   func(context.Context, int) ([]artifact.AdvisoryDatabase, error)
	}{
		{databaseView{Name: "Advisories", What: "What is known of vulnerabilities; without it, scans are pending", Source: from.Source()}, from.AdvisoryDatabase, from.LastPull, from.AdvisoryDatabases},
		{databaseView{Name: "Java", What: "What jars are called that do not say it themselves; without it, those are not matched", Source: from.JavaSource()}, from.JavaDatabase, from.LastJavaPull, from.JavaDatabases},
	} {
		view := kind.view
		d, have, err := kind.database(ctx)
		if err != nil {
			return err
		}
		view.AdvisoryDatabase, view.Present = d, have
		view.Stale = view.Present && view.Name == "Advisories" && w.cfg.Now().Sub(view.UpdatedAt) > page.MaxAge
		pull, had, err := kind.pull(ctx)
		if err != nil {
			return err
		}
		if had {
			view.LastPull = &pull
		}
		page.Databases = append(page.Databases, view)
		before, err := kind.before(ctx, maxImports)
		if err != nil {
			return err
		}
		for _, d := range before {
			page.History = append(page.History, databaseImport{view.Name, d, view.Present && d.Digest == view.Digest})
		}
	}
	return nil
}

// pullAdvisories brings what is configured into use, as the server does by itself.
func (w *Web) pullAdvisories(c *gin.Context, p artifact.Principal) error {
	if !p.Can(artifact.ActionManage, artifact.Repository{}) {
		return artifact.Errorf(artifact.Denied, "%s, a %s, may not pull the advisory database; that takes role %s", p.Name, p.Roles(), artifact.RolesWith(artifact.ActionManage))
	}
	_, err := w.cfg.Advisories.Pull(takeTime(c), p, "")
	if kind := artifact.KindOf(err); kind != "" {
		return w.showAdvisories(c, p, statuses[kind], messageOf(err))
	} else if err != nil {
		return err
	}
	return w.done(c, "/advisories", "Pulled: what is published is in use here.")
}
