package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// maxTagged bounds what is held of an answer for its entity tag, in bytes; a longer one has none.
const maxTagged = 4 << 20

// tagged gives an answer an entity tag, and one that the client has already no body (RFC 9110, section 13.1.2). Who asks again and
// again what has changed is answered with a line.
func tagged(hc huma.Context, next func(huma.Context)) {
	held := &heldAnswer{humaContext: hc, status: http.StatusOK}
	next(held)
	if held.passed {
		return
	}
	if held.status == http.StatusOK {
		sum := sha256.Sum256(held.body.Bytes())
		tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
		hc.SetHeader("ETag", tag)
		hc.SetHeader("Cache-Control", "private, no-cache") // to be asked for each time: what one may see can be withdrawn
		if matches(hc.Header("If-None-Match"), tag) {
			hc.SetStatus(http.StatusNotModified)
			return
		}
	}
	held.pass()
}

// matches compares as If-None-Match does: weakly, with any of a list.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}

// humaContext has a method Context, which a field of that name would hide.
type humaContext = huma.Context

// heldAnswer holds an answer back until it is whole, or too long for that.
type heldAnswer struct {
	humaContext
	status int
	body   bytes.Buffer
	passed bool
}

// Unwrap is for humagin.
func (h *heldAnswer) Unwrap() huma.Context { return h.humaContext }

func (h *heldAnswer) SetStatus(code int)    { h.status = code }
func (h *heldAnswer) Status() int           { return h.status }
func (h *heldAnswer) BodyWriter() io.Writer { return h }

func (h *heldAnswer) Write(b []byte) (int, error) {
	if !h.passed && h.body.Len()+len(b) > maxTagged {
		h.pass()
	}
	if h.passed {
		return h.humaContext.BodyWriter().Write(b)
	}
	return h.body.Write(b)
}

func (h *heldAnswer) pass() {
	h.passed = true
	h.humaContext.SetStatus(h.status)
	_, _ = h.humaContext.BodyWriter().Write(h.body.Bytes()) // to one who is gone
	h.body = bytes.Buffer{}
}
