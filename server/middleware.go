package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"waybill/artifact"
	"waybill/auth"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	found    sync.Map // labels: observed
}

type labels struct {
	area, method string
	status       int
}

type observed struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_http_requests_total", Help: "Requests by area, method and status."}, []string{"area", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "waybill_http_request_seconds", Help: "Time to answer, by area and method.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"area", "method"}),
	}
	r.MustRegister(m.requests, m.seconds)
	return m
}

// identify gives each request an id, which errors show and the log has, and the address that failed logins are counted by,
// and says that somebody waits for it.
func (s *Server) identify(c *gin.Context) {
	c.Header(apiRequestID, rand.Text())
	c.Request = c.Request.WithContext(artifact.Answering(auth.WithAddress(c.Request.Context(), c.ClientIP())))
	c.Next()
}

// observe logs and counts each request when it is done. Nothing of a header or a body is logged.
func (s *Server) observe(c *gin.Context) {
	begun := s.cfg.Now()
	c.Next()
	took, status := s.cfg.Now().Sub(begun), c.Writer.Status()
	area, method := area(c.Request.URL.Path), known(c.Request.Method)
	s.metrics.count(area, method, status, took)
	if area == "health" || !s.cfg.Logger.Enabled(c.Request.Context(), slog.LevelDebug) {
		return
	}
	s.cfg.Logger.DebugContext(c.Request.Context(), "request", "method", method, "path", c.Request.URL.Path, "status", status,
		"ms", took.Milliseconds(), "from", c.ClientIP(), "request", c.Writer.Header().Get(apiRequestID))
}

// count looks a metric up by its labels once: prometheus hashes them each time.
func (m *metrics) count(area, method string, status int, took time.Duration) {
	key := labels{area, method, status}
	found, ok := m.found.Load(key)
	if !ok {
		found, _ = m.found.LoadOrStore(key, observed{m.requests.WithLabelValues(area, method, strconv.Itoa(status)), m.seconds.WithLabelValues(area, method)})
	}
	o := found.(observed)
	o.requests.Inc()
	o.seconds.Observe(took.Seconds())
}

// area is a label of few values, whatever paths are asked for.
func area(path string) string {
	switch {
	case strings.HasPrefix(path, "/v2"):
		return "registry"
	case strings.HasPrefix(path, "/api/"), strings.HasPrefix(path, tileRoot+"/"):
		return "api"
	case strings.HasPrefix(path, "/token"):
		return "token"
	case strings.HasPrefix(path, "/healthz"), strings.HasPrefix(path, "/readyz"), strings.HasPrefix(path, "/metrics"):
		return "health"
	}
	return "page"
}

func known(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return method
	}
	return "other"
}

// recover answers for a handler that panicked; the others go on.
func (s *Server) recover(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.cfg.Logger.ErrorContext(c.Request.Context(), "handler panicked", "value", fmt.Sprint(v), "stack", string(debug.Stack()),
			"request", c.Writer.Header().Get(apiRequestID))
		if !c.Writer.Written() {
			s.fail(c, fmt.Errorf("panic: %v", v))
		}
		c.Abort()
	}()
	c.Next()
}
