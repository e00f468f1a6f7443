package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// answer wraps a handler that returns its error.
func (s *Server) answer(handle func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := handle(c); err != nil {
			s.fail(c, err)
			c.Abort()
		}
	}
}

// ociCode is the OCI error code of a kind (distribution-spec 1.1, "Error Codes") where the error names none.
var ociCode = map[artifact.Kind]string{
	artifact.Invalid:     "MANIFEST_INVALID",
	artifact.NotFound:    "NAME_UNKNOWN",
	artifact.Denied:      "DENIED",
	artifact.Unauthentic: "UNAUTHORIZED",
	artifact.Conflict:    "DENIED",
	artifact.TooLarge:    "SIZE_INVALID",
	artifact.Unavailable: "UNAVAILABLE", // distribution's; clients try again
	artifact.Full:        "DENIED",      // clients show it at once: to try again helps nobody until there is room
	artifact.TimedOut:    "SIZE_INVALID",
	artifact.Unsupported: "UNSUPPORTED",
	artifact.TooMany:     "TOOMANYREQUESTS",
}

// notOffered is the code of a method that what a path names does not have.
const notOffered = "UNSUPPORTED"

// ociStatus is where a code's status differs from its kind's.
var ociStatus = map[string]int{
	"RANGE_INVALID": http.StatusRequestedRangeNotSatisfiable,
	notOffered:      http.StatusMethodNotAllowed,
}

// allow says which methods a path has, as RFC 9110, section 15.5.6, wants of a 405: below /v2 those of its table, but for one
// that was refused for what it would have done; else what the router found.
func allow(c *gin.Context) {
	var methods []string
	if path, err := parseOCIPath(strings.TrimPrefix(c.Request.URL.Path, "/v2")); strings.HasPrefix(c.Request.URL.Path, "/v2") && err == nil {
		for of := range endpoints {
			if of.resource == path.resource && of.method != c.Request.Method {
				methods = append(methods, of.method)
			}
		}
	} else {
		methods = strings.Split(c.Writer.Header().Get("Allow"), ", ")
	}
	if slices.Contains(methods, http.MethodGet) && !slices.Contains(methods, http.MethodHead) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	c.Header("Allow", strings.Join(methods, ", "))
}

// statusClientGone is nginx's for a client that has gone away: nobody reads it but the metrics.
const statusClientGone = 499

type ociError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// fail renders an error: OCI error JSON under /v2 and /token, problem details elsewhere. An error without a kind is
// logged, and shown as an id only.
func (s *Server) fail(c *gin.Context, err error) {
	if errors.Is(err, context.Canceled) && c.Request.Context().Err() != nil {
		c.Status(statusClientGone)
		return
	}
	p := newProblem(err)
	switch p.Status {
	case http.StatusServiceUnavailable:
		c.Header("Retry-After", artifact.RetryAfter)
	case http.StatusTooManyRequests:
		c.Header("Retry-After", artifact.RetryLater)
	}
	p.RequestID = c.Writer.Header().Get(apiRequestID)
	if p.failure() {
		s.cfg.Logger.ErrorContext(c.Request.Context(), "request failed", "method", c.Request.Method, "path", c.Request.URL.Path, "request", p.RequestID, "error", err)
	}
	var e *artifact.Error
	if errors.As(err, &e) && e.Code == notOffered {
		p.Status, p.Title = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)
		allow(c)
	}
	if !strings.HasPrefix(c.Request.URL.Path, "/v2") && c.Request.URL.Path != "/token" {
		c.Header("Content-Type", problemType)
		c.JSON(p.Status, p)
		return
	}
	one := ociError{Code: "UNKNOWN", Message: p.Detail + " (request " + p.RequestID + ")"}
	status := p.Status
	if e != nil {
		one = ociError{Code: ociCode[e.Kind], Message: e.Message}
		if e.Code != "" {
			one.Code = e.Code
		}
		if other, ok := ociStatus[one.Code]; ok {
			status = other
		}
	} else if p.Kind == artifact.TooLarge {
		one = ociError{Code: ociCode[p.Kind], Message: p.Detail}
	}
	c.JSON(status, gin.H{"errors": []ociError{one}})
}
