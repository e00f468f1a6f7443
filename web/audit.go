package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// auditPage is who did or pulled what: one of the two.
type auditPage struct {
	auditFilter
	Entries []artifact.LedgerLine
	Pulls   []artifact.PullDay
	Kinds   []string
	Whole   bool // the reader may see the ledger, and not only pulls of its repositories
	Newest  string
	Older   string
	CSV     string
	Others  string // query of the other view, of the same filter
	Looked  bool   // this page has none of what the reader may see, and a later one may
}

// auditFilter is what the form asks for, as it was written.
type auditFilter struct {
	View                       string // pulls, or nothing: the ledger
	Who, About, Kind, From, To string
	after                      string
}

// auditRows is how many rows a page has; tables are read a thousand at a time.
const (
	auditRows = 50
	tableRows = 1000
)

// query is the filter's, without a place in it.
func (f auditFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"view": f.View, "who": f.Who, "about": f.About, "kind": f.Kind, "from": f.From, "to": f.To} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// Filtered reports whether less than all is asked for.
func (f auditFilter) Filtered() bool { return f.Who+f.About+f.Kind+f.From+f.To != "" }

// Words says what is shown.
func (f auditFilter) Words() string {
	what := "Everything in the ledger"
	if f.View == "pulls" {
		what = "Every pull"
	} else if f.Kind != "" {
		what = "Every " + f.Kind
	}
	for _, part := range []struct{ word, value string }{{"by", f.Who}, {"of", f.About}, {"from", f.From}, {"to", f.To}} {
		if part.value != "" {
			what += " " + part.word + " " + part.value
		}
	}
	return what
}

// auditOf reads and checks the filter; who may not see the ledger sees pulls.
func auditOf(c *gin.Context, p artifact.Principal) (f auditFilter, err error) {
	if !p.Can(artifact.ActionAudit, artifact.Repository{}) {
		return f, p.Refusal(artifact.ActionAudit, artifact.Repository{})
	}
	text := func(name string) string { return strings.TrimSpace(c.Query(name)) }
	f = auditFilter{View: text("view"), Who: text("who"), About: text("about"), Kind: text("kind"), From: text("from"), To: text("to"), after: text("after")}
	if f.View != "" && f.View != "pulls" {
		return f, artifact.Errorf(artifact.Invalid, "view %.40q: want pulls, or nothing for the ledger", f.View)
	}
	if !p.CanEverywhere(artifact.ActionAudit) {
		f.View = "pulls"
	}
	if f.View == "pulls" {
		f.Kind = ""
	}
	if f.Kind != "" && !slices.Contains(artifact.LedgerKinds, f.Kind) {
		return f, artifact.Errorf(artifact.Invalid, "kind %.40q: want one of %s", f.Kind, strings.Join(artifact.LedgerKinds, ", "))
	}
	if len(f.Who) > 255 || len(f.About) > 500 || len(f.after) > 4000 {
		return f, artifact.Errorf(artifact.Invalid, "The filter is longer than any name.")
	}
	return f, nil
}

// period reads the days of the filter: from the first instant on, and before the second. Zero is no bound.
func (f auditFilter) period() (from, to time.Time, err error) {
	for _, bound := range []struct {
		text string
		into *time.Time
	}{{f.From, &from}, {f.To, &to}} {
		if bound.text == "" {
			continue
		}
		if *bound.into, err = time.Parse(time.DateOnly, bound.text); err != nil {
			return from, to, artifact.Errorf(artifact.Invalid, "day %.40q: want one such as 2026-10-31, of UTC", bound.text)
		}
	}
	if !to.IsZero() {
		if to = to.AddDate(0, 0, 1); to.Before(from) {
			return from, to, artifact.Errorf(artifact.Invalid, "The period ends before it begins: from %s to %s.", f.From, f.To)
		}
	}
	return from, to, nil
}

// about reads what the filter is about: a repository, what a tag of it stands at now, a digest in it, or a digest anywhere.
func (w *Web) about(ctx context.Context, p artifact.Principal, text string) (r artifact.Repository, d artifact.Digest, err error) {
	if text == "" {
		return r, d, nil
	}
	if d, err = artifact.ParseDigest(text); err == nil {
		return r, d, nil
	}
	if r, err = artifact.ParseRepository(text); err == nil {
		if !p.Can(artifact.ActionAudit, r) {
			return r, artifact.Digest{}, p.Refusal(artifact.ActionAudit, r)
		}
		return r, artifact.Digest{}, nil
	}
	ref, err := artifact.ParseReference(text)
	if err != nil {
		return r, artifact.Digest{}, err
	}
	if !p.Can(artifact.ActionAudit, ref.Repository) {
		return r, artifact.Digest{}, p.Refusal(artifact.ActionAudit, ref.Repository)
	}
	if ref.Digest.IsZero() {
		ref.Digest, err = w.cfg.Store.ResolveTag(ctx, ref.Repository, ref.Tag)
	}
	return ref.Repository, ref.Digest, err
}

func (w *Web) ledgerFilter(ctx context.Context, p artifact.Principal, asked auditFilter) (f artifact.LedgerFilter, err error) {
	f = artifact.LedgerFilter{Actor: asked.Who, Kind: asked.Kind}
	if f.From, f.To, err = asked.period(); err != nil {
		return f, err
	}
	if f.Repository, f.Digest, err = w.about(ctx, p, asked.About); err != nil {
		return f, err
	}
	return f, w.open(entriesList, asked.after, &f.Before)
}

// What lists are called by the places in them.
const (
	entriesList = "entries"
	pullsList   = "pulls"
)

func (w *Web) pullFilter(ctx context.Context, p artifact.Principal, asked auditFilter) (f artifact.PullFilter, err error) {
	f = artifact.PullFilter{Principal: asked.Who, Newest: true}
	if f.From, f.To, err = asked.period(); err != nil {
		return f, err
	}
	if f.To.IsZero() {
		f.To = w.cfg.Now().UTC()
	} else {
		f.To = f.To.Add(-time.Nanosecond) // its days are both included
	}
	if f.Repository, f.Digest, err = w.about(ctx, p, asked.About); err != nil {
		return f, err
	}
	if f.Repository.IsZero() && !f.Digest.IsZero() {
		return f, artifact.Errorf(artifact.Invalid, "Pulls are kept by repository: name REPOSITORY@DIGEST.")
	}
	return f, w.open(pullsList, asked.after, &f.After)
}

func (w *Web) audit(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	asked, err := auditOf(c, p)
	if err != nil {
		return err
	}
	page := auditPage{auditFilter: asked, Kinds: artifact.LedgerKinds, Whole: p.CanEverywhere(artifact.ActionAudit), CSV: "/audit.csv?" + asked.query().Encode()}
	if asked.after != "" {
		page.Newest = "/audit?" + asked.query().Encode()
	}
	other := asked
	if other.View, other.Kind = "pulls", ""; asked.View == "pulls" {
		other.View = ""
	}
	page.Others = "/audit?" + other.query().Encode()
	var next string
	if asked.View == "pulls" {
		next, err = w.pulls(ctx, p, &page)
	} else {
		next, err = w.entries(ctx, p, &page)
	}
	if err != nil {
		return err
	}
	if next != "" {
		query := asked.query()
		query.Set("after", next)
		page.Older = "/audit?" + query.Encode()
	}
	w.render(c, http.StatusOK, "audit", "Audit", page)
	return nil
}

func (w *Web) entries(ctx context.Context, p artifact.Principal, page *auditPage) (next string, err error) {
	f, err := w.ledgerFilter(ctx, p, page.auditFilter)
	if err != nil {
		return "", err
	}
	f.Limit = auditRows + 1
	if page.Entries, err = w.cfg.Store.FindEntries(ctx, f); err != nil || len(page.Entries) <= auditRows {
		return "", err
	}
	page.Entries = page.Entries[:auditRows]
	last := page.Entries[auditRows-1]
	return w.place(entriesList, artifact.LedgerLine{At: last.At, Index: last.Index}), nil
}

func (w *Web) pulls(ctx context.Context, p artifact.Principal, page *auditPage) (next string, err error) {
	f, err := w.pullFilter(ctx, p, page.auditFilter)
	if err != nil {
		return "", err
	}
	all, last, more, err := artifact.Page(auditRows, f.After, func(after artifact.PullDay, n int) ([]artifact.PullDay, bool, error) {
		f.After, f.Limit = after, n
		rows, err := w.cfg.Store.Pulls(ctx, f)
		return rows, len(rows) == n, err
	}, func(d artifact.PullDay) bool { return p.Can(artifact.ActionAudit, d.Repository) })
	if page.Pulls = all; !more || err != nil {
		return "", err
	}
	page.Looked = len(all) == 0
	return w.place(pullsList, artifact.PullDay{Day: last.Day, Repository: last.Repository, Digest: last.Digest, Principal: last.Principal}), nil
}

// auditTable is all that a filter shows, as comma-separated values.
func (w *Web) auditTable(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	asked, err := auditOf(c, p)
	if err != nil {
		return err
	}
	asked.after = ""
	if asked.View == "pulls" {
		f, err := w.pullFilter(ctx, p, asked)
		if err != nil {
			return err
		}
		f.Limit = tableRows
		return w.table(c, "waybill-pulls.csv", artifact.PullHead, func() (lines []string, more bool, err error) {
			all, err := w.cfg.Store.Pulls(ctx, f)
			for _, d := range all {
				if f.After = d; p.Can(artifact.ActionAudit, d.Repository) {
					lines = append(lines, d.CSV())
				}
			}
			return lines, len(all) == f.Limit, err
		})
	}
	f, err := w.ledgerFilter(ctx, p, asked)
	if err != nil {
		return err
	}
	f.Limit = tableRows
	return w.table(c, "waybill-ledger.csv", artifact.LedgerHead, func() (lines []string, more bool, err error) {
		all, err := w.cfg.Store.FindEntries(ctx, f)
		for _, l := range all {
			f.Before = l
			lines = append(lines, l.CSV())
		}
		return lines, len(all) == f.Limit, err
	})
}

// table sends a file of lines, page by page.
func (w *Web) table(c *gin.Context, name, head string, next func() (lines []string, more bool, err error)) error {
	lines, more, err := next()
	if err != nil {
		return err
	}
	c.Header("Content-Type", "text/csv; charset=utf-8")
	c.Header("Content-Disposition", `attachment; filename="`+name+`"`)
	c.Status(http.StatusOK)
	for lines = append([]string{head}, lines...); ; {
		if _, err := c.Writer.WriteString(strings.Join(lines, "")); err != nil || !more {
			return nil // it is all, or who asked is gone
		}
		if lines, more, err = next(); err != nil {
			w.cfg.Logger.ErrorContext(c.Request.Context(), "table broke off", "table", name, "error", err)
			panic(http.ErrAbortHandler) // a part must not look like the whole
		}
	}
}
