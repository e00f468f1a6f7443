package server

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

const (
	problemType = "application/problem+json"
	ndjsonType  = "application/x-ndjson"

	// apiRequestID is the header whose value the access log has too.
	apiRequestID = "X-Request-Id"
)

// Problem is how the API says no: RFC 9457 problem details, with the reasons of a denial and the request's id as
// extension members.
type Problem struct {
	Type      string              `json:"type"` // about:blank: the status says what kind of problem it is
	Title     string              `json:"title"`
	Status    int                 `json:"status"`
	Detail    string              `json:"detail"`
	Kind      artifact.Kind       `json:"kind,omitempty"` // one of package artifact's; none of an internal error
	Reasons   []artifact.Reason   `json:"reasons,omitempty" doc:"Every reason of a denial"`
	Errors    []*huma.ErrorDetail `json:"errors,omitempty" doc:"Where the request does not validate"`
	RequestID string              `json:"requestId,omitempty" doc:"The id that the server's log has for this request"`

	cause error // for the log; never shown
}

func (p *Problem) Error() string { return p.Detail }

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

// failure reports whether it is the server's own; the rest are answers.
func (p *Problem) failure() bool {
	return p.Kind == "" || p.Kind == artifact.Unavailable || p.Kind == artifact.Full
}

// GetStatus makes a Problem a huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes a Problem a huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return problemType }

// GetHeaders makes a Problem a huma.HeadersError: RFC 9110, section 11.6.1, wants a challenge in every 401.
func (p *Problem) GetHeaders() http.Header {
	switch p.Status {
	case http.StatusUnauthorized:
		return http.Header{"Www-Authenticate": {`Bearer realm="waybill"`, `Basic realm="waybill", charset="UTF-8"`}}
	case http.StatusServiceUnavailable:
		return http.Header{"Retry-After": {artifact.RetryAfter}}
	case http.StatusTooManyRequests:
		return http.Header{"Retry-After": {artifact.RetryLater}}
	}
	return nil
}

// apiStatus maps a kind to an HTTP status.
func apiStatus(k artifact.Kind) int {
	switch k {
	case artifact.Invalid:
		return http.StatusBadRequest
	case artifact.NotFound:
		return http.StatusNotFound
	case artifact.Denied:
		return http.StatusForbidden
	case artifact.Unauthentic:
		return http.StatusUnauthorized
	case artifact.Conflict:
		return http.StatusConflict
	case artifact.TooLarge:
		return http.StatusRequestEntityTooLarge
	case artifact.Unavailable:
		return http.StatusServiceUnavailable
	case artifact.Full:
		return http.StatusInsufficientStorage
	case artifact.TimedOut:
		return http.StatusRequestTimeout
	case artifact.Unsupported:
		return http.StatusNotImplemented
	case artifact.TooMany:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

// newProblem renders an error. What has no kind is internal: its text goes to the log only.
func newProblem(err error) *Problem {
	var already *Problem
	if errors.As(err, &already) {
		return already
	}
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		err = artifact.Errorf(artifact.TooLarge, "the request body is larger than the %d bytes that are accepted", tooLong.Limit)
	}
	p := &Problem{Type: "about:blank", Status: http.StatusInternalServerError,
		Detail: "the server failed; its log has the reason under this request id", cause: err}
	var e *artifact.Error
	if errors.As(err, &e) {
		// What wraps the Error was written for the log; the Error itself is what people are meant to read.
		p.Status, p.Detail, p.Kind, p.Reasons = apiStatus(e.Kind), e.Message, e.Kind, e.Reasons
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// finish is huma's last step before an answer is written: it gives problems their request id, logs the internal
// ones, and renders huma's own errors (validation) as ours.
func (a *API) finish(hc huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*Problem)
	if model, isModel := v.(*huma.ErrorModel); isModel {
		if model.Status == http.StatusInternalServerError { // of huma's own only a body that broke off is one
			model = &huma.ErrorModel{Title: http.StatusText(http.StatusBadRequest), Status: http.StatusBadRequest, Detail: "the body broke off; send it again"}
		}
		p, ok = &Problem{Type: "about:blank", Title: model.Title, Status: model.Status, Detail: model.Detail, Kind: artifact.Invalid, Errors: model.Errors}, true
	}
	if !ok {
		return v, nil
	}
	p.RequestID = a.requestID(hc)
	if p.failure() {
		a.cfg.Logger.ErrorContext(hc.Context(), "request failed", "operation", hc.Operation().OperationID, "request", p.RequestID, "status", p.Status, "error", p.cause)
	}
	return p, nil
}

// writeProblem answers from a middleware, where huma does not render errors.
func (a *API) writeProblem(hc huma.Context, p *Problem) {
	for name, values := range p.GetHeaders() {
		for _, v := range values {
			hc.AppendHeader(name, v)
		}
	}
	hc.SetHeader("Content-Type", problemType)
	if _, err := a.finish(hc, "", p); err != nil {
		return
	}
	hc.SetStatus(p.Status)
	// The client may be gone; there is nobody left to tell.
	_ = json.NewEncoder(hc.BodyWriter()).Encode(p)
}

func (a *API) problemSchema() *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
}

// requestID returns the id that a middleware gave the request, which the access log has; an API mounted without one
// makes its own.
func (a *API) requestID(hc huma.Context) string { return requestID(humagin.Unwrap(hc)) }

func requestID(c *gin.Context) string {
	header := c.Writer.Header()
	if header.Get(apiRequestID) == "" {
		header.Set(apiRequestID, rand.Text())
	}
	return header.Get(apiRequestID)
}
