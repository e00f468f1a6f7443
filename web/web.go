// Package web serves the pages: what runs where, since when, and why. They are rendered here, load nothing from
// elsewhere, work without scripts (ours makes them live), and show no more than their reader may see, by the same gate
// as the registry and the same use cases as the API.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/policy"
	"waybill/promotion"
)

//go:embed layout board digest repository repositories compare promote rollback recall approvals pipelines policies policy draft builds build audit cve ledger tokens storage advisories reference operations login signedin failure assets
var files embed.FS

// Store is what the pages read; *postgres.DB is one.
type Store interface {
	// StatusOf returns what each environment of some repositories runs, with all that is known of it now.
	StatusOf(ctx context.Context, repositories []artifact.Repository) ([]artifact.Status, error)
	// Cells returns what each environment of every repository runs, with what a board counts.
	Cells(ctx context.Context) ([]artifact.Cell, error)
	// Deployments returns what each environment of a repository (the zero one: of all) runs.
	Deployments(ctx context.Context, repository artifact.Repository) ([]artifact.Deployment, error)
	RecentPushes(ctx context.Context, outcome artifact.Outcome, limit int) ([]artifact.PushRecord, error)
	// RecentPushesTo is RecentPushes to some repositories, each of which it looks into.
	RecentPushesTo(ctx context.Context, repositories []artifact.Repository, outcome artifact.Outcome, limit int) ([]artifact.PushRecord, error)
	Repositories(ctx context.Context) ([]artifact.Repository, error)
	Tags(ctx context.Context, repository artifact.Repository) ([]struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}, error)
	// TagPage returns the tags whose names hold words, at most n behind the first ones, and how many there are.
	TagPage(ctx context.Context, repository artifact.Repository, words string, behind, n int) (page []artifact.TagAt, all int, err error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	// DeniedPush, DeniedTag and DeniedPushes tell of pushes that policy denied, and that left no manifest.
	DeniedPush(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.DeniedPush, error)
	DeniedTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (digest artifact.Digest, ok bool, err error)
	// DeniedByPrefix returns those of which hexadecimal digits begin so, the first few.
	DeniedByPrefix(ctx context.Context, repository artifact.Repository, hex string) ([]artifact.Digest, error)
	DeniedPushes(ctx context.Context, repository artifact.Repository, limit int) ([]artifact.PushRecord, error)
	TagsOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Tag, error)
	RefusedVerdict(ctx context.Context, repository artifact.Repository, reference string) (artifact.VerdictRecord, error)
	RecallOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (recall artifact.Recall, ok bool, err error)
	TurnedBad(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.TurnedBad, bool, error)
	Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error)
	Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.SignatureRecord, error)
	Referrers(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Descriptor, error)
	History(ctx context.Context, repository artifact.Repository) ([]artifact.Promotion, error)
	// HistoryPage returns the promotions of a repository, newest first, at most n behind the first ones, and how many there are.
	HistoryPage(ctx context.Context, repository artifact.Repository, behind, n int) (page []artifact.Promotion, all int, err error)
	TagHistory(ctx context.Context, repository artifact.Repository, tag artifact.Tag) ([]artifact.TagChange, error)
	// DigestsByPrefix returns the manifests of a repository whose hexadecimal digits begin so, the first few.
	DigestsByPrefix(ctx context.Context, repository artifact.Repository, hex string) ([]artifact.Digest, error)
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	Pulls(ctx context.Context, f artifact.PullFilter) ([]artifact.PullDay, error)
	Affected(ctx context.Context, id string, after artifact.Digest, n int) (all []artifact.Affected, last artifact.Digest, err error)
	// FindEntries returns entries of the ledger, newest first.
	FindEntries(ctx context.Context, f artifact.LedgerFilter) ([]artifact.LedgerLine, error)
	// DeploymentsAt returns what each environment of some repositories ran at an instant.
	DeploymentsAt(ctx context.Context, repositories []artifact.Repository, at time.Time) ([]artifact.Deployment, error)
	// PromotionsUntil returns the last promotions until an instant, newest first; PromotionsAfter the first ones after it.
	PromotionsUntil(ctx context.Context, at time.Time, limit int) ([]artifact.Promotion, error)
	PromotionsAfter(ctx context.Context, at time.Time, limit int) ([]artifact.Promotion, error)
	FirstPromotion(ctx context.Context) (at time.Time, ok bool, err error)
	// Leads says by how many promotions the first environment of each pair is ahead of the second, in some repositories.
	Leads(ctx context.Context, repositories []artifact.Repository, pairs [][2]artifact.Environment) ([]artifact.Lead, error)
	// ApprovalsOf returns the approvals in force of digests for environments.
	ApprovalsOf(ctx context.Context, candidates []artifact.Deployment) ([]artifact.Approval, error)
	// Changed returns a channel that is closed when something which pages show has changed since a time.
	Changed(since time.Time) <-chan struct{}
}

// Promotions are the use cases of package promotion.
type Promotions interface {
	All(ctx context.Context) ([]promotion.Versioned, error)
	Pipeline(ctx context.Context, r artifact.Repository) (promotion.Pipeline, error)
	Preview(ctx context.Context, p artifact.Principal, r promotion.Request) (promotion.Preview, error)
	Promote(ctx context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error)
	Trail(ctx context.Context, p artifact.Principal, r artifact.Repository, e artifact.Environment) ([]artifact.Promotion, error)
	RollbackTo(ctx context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error)
	Recall(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest, reason, advisory string) error
	Approve(ctx context.Context, p artifact.Principal, r promotion.Request) (artifact.Approval, error)
	Waiting(ctx context.Context, sees func(artifact.Repository) bool) ([]promotion.Waiting, error)
}

// Gate says what a reader may see; promotion.Gate is one.
type Gate interface {
	Filter(ctx context.Context, p artifact.Principal, repository artifact.Repository, digests []artifact.Digest) (map[artifact.Digest]bool, error)
	Repositories(ctx context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error)
}

// Config names everything the pages need.
type Config struct {
	Store        Store
	Gate         Gate
	Authenticate func(ctx context.Context, token string) (artifact.Principal, error)
	SignIn       SignIn                                                    // where people sign in; nil: with a token only
	End          func(ctx context.Context, token string) error             // ends a session, at sign-out; nil: it ends by itself
	Environments func(ctx context.Context) ([]artifact.Environment, error) // in the pipelines' order
	Promotions   Promotions
	Tokens       Tokens
	Accounts     Accounts
	Upkeep       Upkeep
	Advisories   Advisories
	Policies     Policies
	Builds       Builds
	Facts        policy.Facts
	Ledger       Ledger
	// Blob returns a small blob, such as an image config.
	Blob func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
	// Description is the API's OpenAPI document, in JSON, as it is served.
	Description func() ([]byte, error)
	SessionKey  []byte // 32 bytes, for AES-256-GCM
	ExternalURL string
	Logger      *slog.Logger
	Now         func() time.Time
}

// Web is the pages.
type Web struct {
	cfg     Config
	pages   map[string]*template.Template
	assets  map[string]asset
	session sealer
	flow    sealer
	told    sealer
	next    sealer
	places  sealer
	streams chan struct{} // one for each page that is told of changes

	reference func() (*reference, error) // made when first asked for

	closing chan struct{}
	closed  sync.Once
}

// asset is a file that pages load; its path changes with its content.
type asset struct {
	path, contentType string
	content           []byte
}

// assetTypes are the files in assets/.
var assetTypes = map[string]string{"style.css": "text/css; charset=utf-8", "waybill.js": "text/javascript; charset=utf-8", "mark.svg": "image/svg+xml"}

// pageNames are the folders of pages; each has one template of its name.
var pageNames = []string{"board", "digest", "repository", "repositories", "compare", "promote", "rollback", "recall", "approvals", "pipelines", "policies", "policy", "draft", "builds", "build", "audit", "cve", "ledger", "tokens", "storage", "advisories", "reference", "operations", "login", "signedin", "failure"}

// New parses every template.
func New(cfg Config) (*Web, error) {
	w := &Web{cfg: cfg, pages: map[string]*template.Template{}, assets: map[string]asset{}, streams: make(chan struct{}, maxStreams), closing: make(chan struct{})}
	if w.cfg.Now == nil {
		w.cfg.Now = time.Now
	}
	w.reference = sync.OnceValues(w.readReference)
	for purpose, s := range map[string]*sealer{cookieName: &w.session, flowCookie: &w.flow, toldCookie: &w.told, placeCookie: &w.places, nextCookie: &w.next} {
		var err error
		if *s, err = newSealer(cfg.SessionKey, purpose); err != nil {
			return nil, err
		}
	}
	for name, contentType := range assetTypes {
		content, err := fs.ReadFile(files, "assets/"+name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content)
		w.assets[name] = asset{"/assets/" + hex.EncodeToString(sum[:8]) + path.Ext(name), contentType, content}
	}
	for _, name := range pageNames {
		t := template.New("layout.html").Funcs(w.functions())
		for _, file := range []string{"layout/layout.html", name + "/" + name + ".html"} {
			source, err := fs.ReadFile(files, file)
			if err != nil {
				return nil, err
			}
			if _, err := t.Parse(dense(string(source))); err != nil {
				return nil, fmt.Errorf("page %s: %w", name, err)
			}
		}
		w.pages[name] = t
	}
	return w, nil
}

// preformatted is where white space is shown as it is.
var (
	preformatted = regexp.MustCompile(`(?s)<(pre|textarea)\b.*?</(pre|textarea)>`)
	indentation  = regexp.MustCompile(`\s*\n\s*`)
)

// dense takes from a template the indentation, which the rows of a table would repeat.
func dense(source string) string {
	var b strings.Builder
	for {
		at := preformatted.FindStringIndex(source)
		if at == nil {
			b.WriteString(indentation.ReplaceAllString(source, "\n"))
			return b.String()
		}
		b.WriteString(indentation.ReplaceAllString(source[:at[0]], "\n"))
		b.WriteString(source[at[0]:at[1]])
		source = source[at[1]:]
	}
}

// Mount adds the pages' routes.
func (w *Web) Mount(engine *gin.Engine) {
	for _, a := range w.assets {
		engine.GET(a.path, func(c *gin.Context) {
			c.Header("Cache-Control", "public, max-age=31536000, immutable")
			c.Header("X-Content-Type-Options", "nosniff")
			c.Data(http.StatusOK, a.contentType, a.content)
		})
	}
	pages := engine.Group("/", secure)
	pages.GET("/login", w.loginForm)
	pages.POST("/login", w.login)
	pages.POST("/logout", w.logout)
	if w.cfg.SignIn != nil {
		pages.POST("/login/provider", w.beginSignIn)
		pages.GET("/login/callback", w.finishSignIn)
	}
	pages.GET("/", w.signedIn(w.board))
	pages.GET("/r/*repository", w.signedIn(w.repository))
	pages.GET("/d/*reference", w.signedIn(w.digest))
	pages.GET("/repositories", w.signedIn(w.repositories))
	pages.GET("/compare", w.signedIn(w.compare))
	pages.GET("/cves", w.signedIn(w.cve))
	pages.GET("/approvals", w.signedIn(w.approvals))
	pages.POST("/approvals", w.acts(w.approve))
	pages.GET("/pipelines", w.signedIn(w.pipelines))
	pages.GET("/policies", w.signedIn(w.policies))
	pages.GET("/policies/:name", w.signedIn(w.policy))
	pages.POST("/policies", w.actsWith(maxDraft, w.draft))
	pages.GET("/builds", w.signedIn(w.builds))
	pages.GET("/builds/:id", w.signedIn(w.build))
	pages.GET("/builds/:id/log", w.signedIn(w.buildLog))
	pages.GET("/builds/:id/events", w.signedIn(w.buildEvents))
	pages.POST("/builds/:id/cancel", w.acts(w.cancelBuild))
	pages.GET("/audit", w.signedIn(w.audit))
	pages.GET("/audit.csv", w.signedIn(w.auditTable))
	pages.GET("/promote", w.signedIn(w.promoteForm))
	pages.POST("/promote", w.acts(w.promote))
	pages.GET("/rollback", w.signedIn(w.rollbackForm))
	pages.POST("/rollback", w.acts(w.rollback))
	pages.GET("/recall", w.signedIn(w.recallForm))
	pages.POST("/recall", w.acts(w.recall))
	pages.GET("/ledger", w.signedIn(w.ledger))
	pages.GET("/ledger/proofs", w.signedIn(w.ledgerProofs))
	pages.GET("/events", w.signedIn(w.events))
	pages.GET("/tokens", w.signedIn(w.tokens))
	pages.POST("/tokens", w.acts(w.createToken))
	pages.GET("/tokens/revoke", w.signedIn(w.tokens)) // where the answer to a form was, which somebody asks for again; and so below
	pages.POST("/tokens/revoke", w.acts(w.revokeToken))
	pages.GET("/storage", w.signedIn(w.storage))
	pages.GET("/storage/gc", w.signedIn(w.storage))
	pages.POST("/storage/gc", w.acts(w.collect))
	pages.GET("/storage/retention", w.signedIn(w.storage))
	pages.POST("/storage/retention", w.acts(w.retain))
	pages.GET("/advisories", w.signedIn(w.advisories))
	pages.GET("/advisories/pulls", w.signedIn(w.advisories))
	pages.POST("/advisories/pulls", w.acts(w.pullAdvisories))
	pages.GET("/api/docs", w.forAll(w.apiReference))
	pages.GET("/api/docs/:tag", w.forAll(w.apiOperations))
}

// Missing answers for a page that is not there.
func (w *Web) Missing(c *gin.Context) {
	secure(c)
	if s, err := w.reader(c.Request.Context(), c); err == nil {
		c.Set(sessionKey, s) // the parts of the site stay where they were
	}
	w.fail(c, artifact.Errorf(artifact.NotFound, "There is no page at %.200s.", c.Request.URL.Path))
}

// secure sets what every page is served with: nothing is loaded, run or asked for but our own files, and nobody frames us.
func secure(c *gin.Context) {
	c.Header("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Referrer-Policy", "same-origin")
	c.Header("Cache-Control", "no-store")
}

// frame is what the layout shows around every page.
type frame struct {
	Title                string
	Styles, Script, Mark string // paths
	Reader               string // who is signed in; empty when nobody is
	Role                 artifact.Role
	CSRF                 string
	Links                []link
	Told                 string // what the reader just did, once
	Page                 any
}

// link is a part of the site; Here is the one that is shown, and the page which is shown is Within one.
type link struct {
	Path, Name   string
	Here, Within bool
}

// within are the pages that belong to a part of the site, by how their paths begin.
var within = map[string]string{"r": "/repositories", "d": "/repositories", "compare": "/repositories", "promote": "/", "rollback": "/", "recall": "/"}

// links are the parts of the site that a reader may see.
func links(p artifact.Principal, at string) []link {
	all := []link{{Path: "/", Name: "Board"}}
	if p.Can(artifact.ActionLook, artifact.Repository{}) {
		all = append(all, link{Path: "/approvals", Name: "Approvals"})
	}
	all = append(all, link{Path: "/repositories", Name: "Repositories"}, link{Path: "/cves", Name: "Vulnerabilities"})
	if p.Can(artifact.ActionLook, artifact.Repository{}) {
		all = append(all, link{Path: "/pipelines", Name: "Pipelines"}, link{Path: "/policies", Name: "Policies"}, link{Path: "/builds", Name: "Builds"})
	}
	if p.Can(artifact.ActionAudit, artifact.Repository{}) {
		all = append(all, link{Path: "/audit", Name: "Audit"})
	}
	if p.CanEverywhere(artifact.ActionAudit) {
		all = append(all, link{Path: "/ledger", Name: "Ledger"})
	}
	if p.Can(artifact.ActionLook, artifact.Repository{}) {
		all = append(all, link{Path: "/advisories", Name: "Advisories"})
	}
	if p.Can(artifact.ActionManage, artifact.Repository{}) {
		all = append(all, link{Path: "/storage", Name: "Storage"}, link{Path: "/tokens", Name: "Tokens"})
	}
	all = append(all, link{Path: "/api/docs", Name: "API"})
	first, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
	for i := range all {
		all[i].Here = all[i].Path == at
		all[i].Within = within[first] == all[i].Path || all[i].Path != "/" && strings.HasPrefix(at, all[i].Path+"/")
	}
	return all
}

// render writes a page whole or not at all.
func (w *Web) render(c *gin.Context, status int, name, title string, page any) {
	f := frame{Title: title, Styles: w.assets["style.css"].path, Script: w.assets["waybill.js"].path, Mark: w.assets["mark.svg"].path, Page: page}
	if s, ok := c.Get(sessionKey); ok {
		reader := s.(session).principal
		f.Reader, f.Role, f.CSRF, f.Links = reader.Name, reader.Role, w.csrf(s.(session).cookie), links(reader, c.Request.URL.Path)
		f.Told = w.tellOnce(c)
	}
	if signed, ok := page.(interface{ sign(csrf string) }); ok {
		signed.sign(f.CSRF)
	}
	var b bytes.Buffer
	if err := w.pages[name].Execute(&b, f); err != nil {
		w.cfg.Logger.ErrorContext(c.Request.Context(), "page not rendered", "page", name, "error", err)
		c.String(http.StatusInternalServerError, "the page could not be rendered; the server's log says why")
		return
	}
	c.Data(status, "text/html; charset=utf-8", b.Bytes())
}

// failurePage says what happened, why, and under what id the log has it.
type failurePage struct {
	Status  int
	Title   string
	Message string
	See     string // a page that says more; empty: none
	Request string
}

var statuses = map[artifact.Kind]int{artifact.Invalid: 400, artifact.NotFound: 404, artifact.Denied: 403, artifact.Unauthentic: 401, artifact.Conflict: 409,
	artifact.Unavailable: 503, artifact.Full: 507, artifact.TimedOut: 408, artifact.TooLarge: 413, artifact.Unsupported: 501, artifact.TooMany: 429}

// statusClientGone is what nginx calls it; nobody is there to read it, but the log counts it apart from failures.
const statusClientGone = 499

func (w *Web) fail(c *gin.Context, err error) {
	if errors.Is(err, context.Canceled) && c.Request.Context().Err() != nil {
		c.Status(statusClientGone) // who asked has left, and has the page loaded again, or another one
		return
	}
	p := failurePage{Status: http.StatusInternalServerError, Message: "The server failed; its log has the reason under the id below.", Request: c.Writer.Header().Get("X-Request-Id")}
	var known *artifact.Error
	var absent notStored
	if errors.As(err, &absent) {
		p.See = "/d/" + absent.See.String()
	}
	if errors.As(err, &known) {
		p.Status, p.Message = statuses[known.Kind], known.Message
	} else {
		w.cfg.Logger.ErrorContext(c.Request.Context(), "page failed", "path", c.Request.URL.Path, "request", p.Request, "error", err)
	}
	if p.Status == http.StatusServiceUnavailable {
		c.Header("Retry-After", artifact.RetryAfter)
	}
	p.Title = http.StatusText(p.Status)
	w.render(c, p.Status, "failure", p.Title, p)
}
