package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/promotion"
)

// form is embedded by pages that have forms: its value ties them to the reader's session.
type form struct{ CSRF string }

func (f *form) sign(csrf string) { f.CSRF = csrf }

// promotePage is a promotion with every gate, met or not, before it is made.
type promotePage struct {
	form
	promotion.Preview
	Now       time.Time
	Asked     string // the version, as it was asked for
	Reason    string
	Problem   string // why it was not made just now
	Promotes  bool
	Approves  bool // the reader's approval is missing
	Overrides bool // the reader may override what is not met
	Same      bool // it runs there already
	Changes   *difference
}

// place is the service and environment that a form or a link names.
func place(get func(string) string) (r artifact.Repository, e artifact.Environment, err error) {
	if r, err = artifact.ParseRepository(get("service")); err != nil {
		return r, e, err
	}
	e, err = artifact.ParseEnvironment(get("environment"))
	return r, e, err
}

func (w *Web) promoteForm(c *gin.Context, p artifact.Principal) error {
	r, e, err := place(c.Query)
	if err != nil {
		return err
	}
	return w.showPromotion(c, p, http.StatusOK, promotion.Request{Repository: r, Environment: e, Version: c.Query("version")}, "")
}

func (w *Web) showPromotion(c *gin.Context, p artifact.Principal, status int, r promotion.Request, problem string) error {
	ctx := c.Request.Context()
	preview, err := w.cfg.Promotions.Preview(ctx, p, r)
	if err != nil {
		return err
	}
	page := &promotePage{Preview: preview, Now: w.cfg.Now(), Asked: r.Version, Reason: r.Reason, Problem: problem, Promotes: p.CanPromote(r.Repository, r.Environment)}
	page.Same = preview.Current.Digest == preview.Digest
	page.Overrides = p.Is(artifact.Admin) && preview.Overridable()
	if gate := preview.Approvals; gate != nil && p.As(gate.Role, r.Repository, r.Environment) {
		page.Approves = true
		for _, a := range preview.Given {
			page.Approves = page.Approves && a.Actor != p.Name
		}
	}
	if !preview.Current.Digest.IsZero() && !page.Same {
		d, err := w.difference(ctx, side{Repository: r.Repository, Digest: preview.Current.Digest}, side{Repository: r.Repository, Digest: preview.Digest})
		if err == nil {
			page.Changes = &d
		} else if artifact.KindOf(err) == "" {
			return err
		}
	}
	w.render(c, status, "promote", "Promote "+r.Repository.String()+" to "+r.Environment.String(), page)
	return nil
}

func (w *Web) promote(c *gin.Context, p artifact.Principal) error {
	r, e, err := place(c.PostForm)
	if err != nil {
		return err
	}
	request := promotion.Request{Repository: r, Environment: e, Version: c.PostForm("version"), Reason: strings.TrimSpace(c.PostForm("reason")), Override: c.PostForm("override") == "yes"}
	// The digest that the page showed is what is promoted, whatever the tag means by now.
	shown := request
	shown.Version = c.PostForm("digest")
	done, err := w.cfg.Promotions.Promote(c.Request.Context(), p, shown)
	var refused *artifact.Error
	switch {
	case errors.As(err, &refused) && (len(refused.Reasons) > 0 || refused.Kind == artifact.Conflict || refused.Kind == artifact.Invalid):
		return w.showPromotion(c, p, statuses[refused.Kind], shown, refused.Message)
	case err != nil:
		return err
	case done.Unchanged:
		return w.done(c, "/", "%s of %s runs it already; nothing was changed.", e, r)
	}
	return w.done(c, "/", "Promoted %s %s to %s. It is entry %d of the ledger.", r, versionOr(done.Version, done.Digest), e, done.LedgerIndex)
}

func versionOr(version string, d artifact.Digest) string {
	if version != "" {
		return version
	}
	return d.Short()
}

// approve records the reader's approval of what a page showed.
func (w *Web) approve(c *gin.Context, p artifact.Principal) error {
	r, e, err := place(c.PostForm)
	if err != nil {
		return err
	}
	a, err := w.cfg.Promotions.Approve(c.Request.Context(), p, promotion.Request{Repository: r, Environment: e, Version: c.PostForm("digest"), Reason: strings.TrimSpace(c.PostForm("reason"))})
	if err != nil {
		return err
	}
	return w.done(c, "/approvals", "Approved that %s %s goes to %s. The approval has number %d.", r, versionOr(a.Version, a.Digest), e, a.ID)
}

// approvalsPage is what waits for approvals.
type approvalsPage struct {
	form
	Mine, Others           []waiting
	MinePages, OthersPages pages
}

// waitingRows is how many of each a page lists.
const waitingRows = 50

// waiting is a digest that waits for approvals, with whether the reader's is one.
type waiting struct{ promotion.Waiting }

// Left is how many approvals are missing.
func (w waiting) Left() int { return w.Gate.Count - len(w.Approvals) }

func (w *Web) approvals(c *gin.Context, p artifact.Principal) error {
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	all, err := w.cfg.Promotions.Waiting(c.Request.Context(), func(r artifact.Repository) bool { return p.Can(artifact.ActionLook, r) })
	if err != nil {
		return err
	}
	page := &approvalsPage{}
	for _, one := range all {
		mine := p.As(one.Gate.Role, one.Repository, one.Environment)
		for _, a := range one.Approvals {
			mine = mine && a.Actor != p.Name
		}
		if mine {
			page.Mine = append(page.Mine, waiting{one})
		} else {
			page.Others = append(page.Others, waiting{one})
		}
	}
	page.Mine, page.MinePages = pagedBy("mine", page.Mine, waitingRows, c.Request.URL.Query())
	page.Others, page.OthersPages = pagedBy("others", page.Others, waitingRows, c.Request.URL.Query())
	w.render(c, http.StatusOK, "approvals", "Approvals", page)
	return nil
}

// rollbackPage is what an environment ran before, to choose from.
type rollbackPage struct {
	form
	Repository  artifact.Repository
	Environment artifact.Environment
	Current     *artifact.Status
	Trail       []artifact.Promotion // newest first
	More        int                  // that are not shown
	Problem     string
	Reason      string
	Chosen      string
	Promotes    bool
}

// maxTrail is how many earlier digests a rollback offers.
const maxTrail = 20

func (w *Web) rollbackForm(c *gin.Context, p artifact.Principal) error {
	r, e, err := place(c.Query)
	if err != nil {
		return err
	}
	return w.showRollback(c, p, http.StatusOK, promotion.Request{Repository: r, Environment: e}, "")
}

func (w *Web) showRollback(c *gin.Context, p artifact.Principal, status int, r promotion.Request, problem string) error {
	ctx := c.Request.Context()
	trail, err := w.cfg.Promotions.Trail(ctx, p, r.Repository, r.Environment)
	if err != nil {
		return err
	}
	page := &rollbackPage{Repository: r.Repository, Environment: r.Environment, Trail: trail, Problem: problem, Reason: r.Reason, Chosen: r.Version, Promotes: p.CanPromote(r.Repository, r.Environment)}
	if len(trail) > maxTrail {
		page.Trail, page.More = trail[:maxTrail], len(trail)-maxTrail
	}
	if page.Chosen == "" && len(trail) > 0 {
		page.Chosen = trail[0].Digest.String()
	}
	all, err := w.cfg.Store.StatusOf(ctx, []artifact.Repository{r.Repository})
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Environment == r.Environment {
			page.Current = &all[i]
		}
	}
	w.render(c, status, "rollback", "Roll back "+r.Environment.String()+" of "+r.Repository.String(), page)
	return nil
}

func (w *Web) rollback(c *gin.Context, p artifact.Principal) error {
	r, e, err := place(c.PostForm)
	if err != nil {
		return err
	}
	request := promotion.Request{Repository: r, Environment: e, Version: c.PostForm("digest"), Reason: strings.TrimSpace(c.PostForm("reason"))}
	if request.Reason == "" {
		return w.showRollback(c, p, http.StatusBadRequest, request, "Say why: whoever looks at the ledger will ask.")
	}
	done, err := w.cfg.Promotions.RollbackTo(c.Request.Context(), p, request)
	var refused *artifact.Error
	if errors.As(err, &refused) && refused.Kind != artifact.Unauthentic {
		return w.showRollback(c, p, statuses[refused.Kind], request, refused.Message)
	} else if err != nil {
		return err
	}
	return w.done(c, "/", "Rolled %s of %s back to %s. It is entry %d of the ledger.", e, r, versionOr(done.Version, done.Digest), done.LedgerIndex)
}

// recallPage asks whether a digest shall be taken out of every environment, for ever.
type recallPage struct {
	form
	Repository       artifact.Repository
	Digest           artifact.Digest
	Tags             []artifact.Tag
	Runs             []artifact.Status // where it is current
	Problem          string
	Reason, Advisory string
	Recalls          bool
}

func (w *Web) recallForm(c *gin.Context, p artifact.Principal) error {
	return w.showRecall(c, p, http.StatusOK, c.Query("ref"), recallPage{})
}

func (w *Web) showRecall(c *gin.Context, p artifact.Principal, status int, text string, page recallPage) error {
	ctx := c.Request.Context()
	ref, err := artifact.ParseReference(text)
	if err != nil {
		return err
	}
	if ref.Digest.IsZero() {
		return artifact.Errorf(artifact.Invalid, "want REPOSITORY@DIGEST: a recall is of a digest, whatever its tags are")
	}
	if !p.Can(artifact.ActionLook, ref.Repository) {
		return p.Refusal(artifact.ActionLook, ref.Repository)
	}
	if _, err := w.cfg.Store.Manifest(ctx, ref.Repository, ref.Digest); err != nil {
		return err
	}
	page.Repository, page.Digest, page.Recalls = ref.Repository, ref.Digest, p.CanTo(artifact.ActionPromote, ref.Repository, artifact.Environment{})
	if page.Tags, err = w.cfg.Store.TagsOf(ctx, ref.Repository, ref.Digest); err != nil {
		return err
	}
	all, err := w.cfg.Store.StatusOf(ctx, []artifact.Repository{ref.Repository})
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Digest == ref.Digest {
			page.Runs = append(page.Runs, s)
		}
	}
	w.render(c, status, "recall", "Recall "+ref.Repository.String()+" "+ref.Digest.Short(), &page)
	return nil
}

func (w *Web) recall(c *gin.Context, p artifact.Principal) error {
	text, reason, advisory := c.PostForm("ref"), strings.TrimSpace(c.PostForm("reason")), strings.TrimSpace(c.PostForm("advisory"))
	ref, err := artifact.ParseReference(text)
	if err != nil {
		return err
	}
	err = w.cfg.Promotions.Recall(c.Request.Context(), p, ref.Repository, ref.Digest, reason, advisory)
	if artifact.KindOf(err) == artifact.Invalid {
		return w.showRecall(c, p, http.StatusBadRequest, text, recallPage{Reason: reason, Advisory: advisory, Problem: messageOf(err)})
	} else if err != nil {
		return err
	}
	return w.done(c, "/d/"+ref.Repository.String()+"@"+url.PathEscape(ref.Digest.String()), "Recalled %s %s: no environment may pull it any more.", ref.Repository, ref.Digest.Short())
}
