// Package server speaks HTTP: the OCI distribution API on /v2, Docker's token flow, the REST API on /api/v1, and what
// an operator asks. The rules are in the packages it calls; here is how they are asked for and how they answer.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"waybill/artifact"
	"waybill/auth"
	"waybill/registry"
)

// Authenticator says who a request comes from.
type Authenticator interface {
	FromRequest(ctx context.Context, authorization string) (auth.Identity, error)
}

// AccessTokens issues the tokens of Docker's flow.
type AccessTokens interface {
	Issue(id auth.Identity, asked []auth.Scope, now time.Time) (token string, life time.Duration, err error)
	// IssuePublic returns one of nobody's, for what of the scopes is public.
	IssuePublic(asked []auth.Scope, public func(artifact.Repository) bool, now time.Time) (token string, life time.Duration, err error)
	Service() string
}

// Config names everything a server needs.
type Config struct {
	Registry      *registry.Registry
	Authenticator Authenticator
	AccessTokens  AccessTokens
	ExternalURL   string   // how clients reach it; empty: as each request says
	Public        []string // patterns of repositories that anybody may pull from; none: nothing
	Proxies       []string // addresses and networks of proxies whose X-Forwarded-For is believed; none: nobody's
	Ready         func(ctx context.Context) error
	Writable      func() error                                                                   // why nothing can be stored, where pulls go on; nil: it is not known
	Pulled        func(principal string, repository artifact.Repository, digest artifact.Digest) // told of each manifest that is pulled; nil: nobody is
	Stopping      func()                                                                         // ends answers that would go on, when the server stops; nil: there are none
	Missing       func(*gin.Context)                                                             // answers a browser that asks for a page that is not there; nil: as anybody else
	Mount         []func(*gin.Engine)                                                            // more routes: the REST API, the pages
	Metrics       *prometheus.Registry
	Logger        *slog.Logger
	Limits        Limits // what slow clients may hold
	Secret        []byte // of all replicas: where pages of lists end is sealed with what is derived from it; nil: one of this process
	Now           func() time.Time
}

// Server is the HTTP server.
type Server struct {
	cfg     Config
	engine  *gin.Engine
	metrics *metrics
	cursors cursors
}

// New returns a server; Run or Handler puts it to work.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, metrics: newMetrics(cfg.Metrics), cursors: newCursors(cfg.Secret)}
	gin.SetMode(gin.ReleaseMode)
	s.engine = gin.New()
	s.engine.HandleMethodNotAllowed = true
	// An error is of an address that the configuration was checked for; nobody is trusted then.
	_ = s.engine.SetTrustedProxies(cfg.Proxies)
	s.routes()
	return s
}

// routes is the whole table but for what Mount adds.
func (s *Server) routes() {
	s.engine.Use(s.identify, s.observe, s.recover)
	s.engine.GET("/healthz", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	s.engine.GET("/readyz", s.ready)
	s.engine.GET("/metrics", s.admin(gin.WrapH(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{}))))
	s.engine.GET("/token", s.answer(s.token))
	s.engine.POST("/token", s.answer(s.token))
	s.engine.Any("/v2", s.answer(s.v2))
	s.engine.Any("/v2/*path", s.answer(s.v2))
	for _, mount := range s.cfg.Mount {
		mount(s.engine)
	}
	s.engine.NoRoute(s.answer(func(c *gin.Context) error {
		if area(c.Request.URL.Path) == "page" && s.cfg.Missing != nil && strings.Contains(c.GetHeader("Accept"), "text/html") {
			s.cfg.Missing(c)
			return nil
		}
		return artifact.Errorf(artifact.NotFound, "there is nothing at %.200s", c.Request.URL.Path)
	}))
	s.engine.NoMethod(s.answer(func(c *gin.Context) error {
		return artifact.Coded(artifact.Unsupported, notOffered, "%s is not offered at %.200s", known(c.Request.Method), c.Request.URL.Path)
	}))
}

// Handler returns the server without its listener.
func (s *Server) Handler() http.Handler {
	return s.cfg.Limits.orDefaults().bounded(headAsGet(s.engine))
}

// headAsGet answers HEAD as GET, whose body net/http leaves out (RFC 9110, section 9.3.2); below /v2 each is a route.
func headAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead && r.URL.Path != "/v2" && !strings.HasPrefix(r.URL.Path, "/v2/") {
			get := *r
			get.Method = http.MethodGet
			r = &get
		}
		next.ServeHTTP(w, r)
	})
}

// drain is how long requests that run at a stop may go on.
const drain = 20 * time.Second

// Run serves until ctx is done, then lets running requests end.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	limits := s.cfg.Limits.orDefaults()
	h := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: limits.Header,
		IdleTimeout:       limits.Idle,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	if s.cfg.Stopping != nil {
		h.RegisterOnShutdown(s.cfg.Stopping)
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := h.Shutdown(stopping); err != nil {
		_ = h.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) ready(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), 2*time.Second)
	defer cancel()
	if err := s.cfg.Ready(ctx); err != nil {
		s.cfg.Logger.WarnContext(ctx, "not ready", "error", err)
		c.String(http.StatusServiceUnavailable, "not ready: the database does not answer\n")
		return
	}
	var known *artifact.Error
	if s.cfg.Writable != nil && errors.As(s.cfg.Writable(), &known) {
		// It stays ready: who would take it out of service for this would end the pulls too.
		c.String(http.StatusOK, "ready, but pushes are refused: %s\n", known.Message)
		return
	}
	c.String(http.StatusOK, "ready\n")
}

// admin lets only those through who may manage the server.
func (s *Server) admin(next gin.HandlerFunc) gin.HandlerFunc {
	return s.answer(func(c *gin.Context) error {
		id, err := s.cfg.Authenticator.FromRequest(c.Request.Context(), c.GetHeader("Authorization"))
		switch {
		case err != nil:
			return err
		case id.Principal.Anonymous():
			return artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "metrics are for a token of role admin or auditor")
		case !id.Principal.CanEverywhere(artifact.ActionAudit):
			return artifact.Coded(artifact.Denied, "DENIED", "metrics are for a token of role admin or auditor")
		}
		next(c)
		return nil
	})
}
