// Package web serves the pages: what runs where, since when, and why. They are rendered here, load nothing from
// elsewhere, work without scripts, and show no more than their reader may see, by the same gate as the registry.
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
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

//go:embed layout board digest repository login signedin failure assets
var files embed.FS

// Store is what the pages read; *postgres.DB is one.
type Store interface {
	Status(ctx context.Context) ([]artifact.Status, error)
	RecentPushes(ctx context.Context, outcome artifact.Outcome, limit int) ([]artifact.PushRecord, error)
	Repositories(ctx context.Context) ([]artifact.Repository, error)
	Tags(ctx context.Context, repository artifact.Repository) ([]struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	TagsOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Tag, error)
	RefusedVerdict(ctx context.Context, repository artifact.Repository, reference string) (artifact.VerdictRecord, error)
	Recalled(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (actor, reason string, ok bool, err error)
	TurnedBad(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.TurnedBad, bool, error)
	Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error)
	Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.SignatureRecord, error)
	Referrers(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Descriptor, error)
	History(ctx context.Context, repository artifact.Repository) ([]artifact.Promotion, error)
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
	// Blob returns a small blob, such as an image config.
	Blob        func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
	SessionKey  []byte // 32 bytes, for AES-256-GCM
	ExternalURL string
	Logger      *slog.Logger
	Now         func() time.Time
}

// Web is the pages.
type Web struct {
	cfg     Config
	pages   map[string]*template.Template
	styles  []byte
	stylesN string // the style sheet's name, which changes with its content
	session sealer
	flow    sealer
}

// pageNames are the folders of pages; each has one template of its name.
var pageNames = []string{"board", "digest", "repository", "login", "signedin", "failure"}

// New parses every template.
func New(cfg Config) (*Web, error) {
	w := &Web{cfg: cfg, pages: map[string]*template.Template{}}
	if w.cfg.Now == nil {
		w.cfg.Now = time.Now
	}
	var err error
	if w.session, err = newSealer(cfg.SessionKey, cookieName); err != nil {
		return nil, err
	}
	if w.flow, err = newSealer(cfg.SessionKey, flowCookie); err != nil {
		return nil, err
	}
	if w.styles, err = fs.ReadFile(files, "assets/style.css"); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(w.styles)
	w.stylesN = "/assets/" + hex.EncodeToString(sum[:8]) + ".css"
	for _, name := range pageNames {
		t, err := template.New("layout.html").Funcs(w.functions()).ParseFS(files, "layout/layout.html", name+"/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		w.pages[name] = t
	}
	return w, nil
}

// Mount adds the pages' routes.
func (w *Web) Mount(engine *gin.Engine) {
	engine.GET(w.stylesN, func(c *gin.Context) {
		c.Header("Cache-Control", "public, max-age=31536000, immutable")
		c.Data(http.StatusOK, "text/css; charset=utf-8", w.styles)
	})
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
}

// Missing answers for a page that is not there.
func (w *Web) Missing(c *gin.Context) {
	secure(c)
	w.fail(c, artifact.Errorf(artifact.NotFound, "There is no page at %.200s.", c.Request.URL.Path))
}

// secure sets what every page is served with: nothing is loaded but our style sheet, no script runs, and nobody frames us.
func secure(c *gin.Context) {
	c.Header("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Referrer-Policy", "same-origin")
	c.Header("Cache-Control", "no-store")
}

// frame is what the layout shows around every page.
type frame struct {
	Title  string
	Styles string
	Reader string // who is signed in; empty when nobody is
	CSRF   string
	Page   any
}

// render writes a page whole or not at all.
func (w *Web) render(c *gin.Context, status int, name, title string, page any) {
	f := frame{Title: title, Styles: w.stylesN, Page: page}
	if s, ok := c.Get(sessionKey); ok {
		f.Reader, f.CSRF = s.(session).principal.Name, w.csrf(s.(session).cookie)
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
	Message string
	Request string
}

var statuses = map[artifact.Kind]int{artifact.Invalid: 400, artifact.NotFound: 404, artifact.Denied: 403, artifact.Unauthentic: 401, artifact.Conflict: 409,
	artifact.Unavailable: 503, artifact.Full: 507, artifact.TimedOut: 408, artifact.TooLarge: 413, artifact.Unsupported: 501, artifact.TooMany: 429}

func (w *Web) fail(c *gin.Context, err error) {
	p := failurePage{Status: http.StatusInternalServerError, Message: "The server failed; its log has the reason under the id below.", Request: c.Writer.Header().Get("X-Request-Id")}
	var known *artifact.Error
	if errors.As(err, &known) {
		p.Status, p.Message = statuses[known.Kind], known.Message
	} else {
		w.cfg.Logger.ErrorContext(c.Request.Context(), "page failed", "path", c.Request.URL.Path, "request", p.Request, "error", err)
	}
	if p.Status == http.StatusServiceUnavailable {
		c.Header("Retry-After", artifact.RetryAfter)
	}
	w.render(c, p.Status, "failure", http.StatusText(p.Status), p)
}
