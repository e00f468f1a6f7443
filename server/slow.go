package server

import (
	"cmp"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// Limits bound what a client can hold by being slow, or by being gone without a word. Zero fields are the defaults.
type Limits struct {
	Header time.Duration // until the header of a request has come. Default 10s
	Idle   time.Duration // between requests. Default 2m
	// In each Stall (default 1m), at least Rate (default 4096) bytes for each second of it must come of a body that was
	// announced, and be taken of an answer. The time that the server itself takes does not count.
	Stall time.Duration
	Rate  int64
}

func (l Limits) orDefaults() Limits {
	return Limits{Header: cmp.Or(l.Header, 10*time.Second), Idle: cmp.Or(l.Idle, 2*time.Minute), Stall: cmp.Or(l.Stall, time.Minute), Rate: cmp.Or(l.Rate, 4<<10)}
}

// quota is how many bytes must come in each Stall.
func (l Limits) quota() int64 { return int64(l.Stall.Seconds() * float64(l.Rate)) }

// given is how long n bytes may take.
func (l Limits) given(n int64) time.Duration {
	return max(l.Stall, time.Duration(float64(n)/float64(l.Rate)*float64(time.Second)))
}

// bounded gives every request a body, and every answer a writer, that a slow client cannot hold for ever.
func (l Limits) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		out := &patientWriter{ResponseWriter: w, control: control, limits: l}
		if r.ContentLength != 0 {
			out.grace = l.Stall
			// The answer before this one on the connection may have left a deadline.
			_ = control.SetWriteDeadline(time.Time{})
			body := &patient{ReadCloser: r.Body, control: control, limits: l, length: r.ContentLength}
			body.last.Store(time.Now().UnixNano())
			// A handler that answers without having read the body leaves it to net/http, which would wait for it.
			body.set(time.Now().Add(l.Stall))
			other := *r
			r, other.Body = &other, body
		}
		next.ServeHTTP(out, r)
		out.extend(0) // for what is still in buffers
	})
}

// patient is a body that has to come at a least rate.
type patient struct {
	io.ReadCloser
	control *http.ResponseController
	limits  Limits
	length  int64

	due    time.Time     // the deadline that is set
	waited time.Duration // in the current span
	got    int64         // bytes in the current span

	last     atomic.Int64 // when something came, in Unix nanoseconds
	overtook atomic.Bool  // by another request
}

// patiently returns a request's body as bounded made it.
func patiently(c *gin.Context) io.Reader {
	if p, ok := c.Request.Body.(*patient); ok {
		return p
	}
	return &patient{ReadCloser: c.Request.Body, length: c.Request.ContentLength, limits: Limits{}.orDefaults(), control: http.NewResponseController(c.Writer)}
}

// Announced is the body's Content-Length, in bytes; -1 where the request has none.
func (p *patient) Announced() int64 { return p.length }

// Yield ends the body for another request: in any case, or if nothing has come for a while, as from a client that vanished.
func (p *patient) Yield(always bool) bool {
	silent := time.Since(time.Unix(0, p.last.Load()))
	if !always && silent < p.limits.Stall/10 {
		return false
	}
	p.overtook.Store(true)
	_ = p.control.SetReadDeadline(time.Unix(1, 0))
	return true
}

func (p *patient) set(due time.Time) {
	p.due = due
	_ = p.control.SetReadDeadline(due) // a writer that has no deadlines is one of a test's
	if p.overtook.Load() {
		_ = p.control.SetReadDeadline(time.Unix(1, 0))
	}
}

func (p *patient) Read(b []byte) (int, error) {
	begun := time.Now()
	if due := begun.Add(p.limits.Stall - p.waited); due.Sub(p.due) > p.limits.Stall/10 {
		p.set(due)
	}
	n, err := p.ReadCloser.Read(b)
	now := time.Now()
	p.got += int64(n)
	if p.waited += now.Sub(begun); p.got >= p.limits.quota() {
		p.waited, p.got = 0, 0
	}
	if n > 0 {
		p.last.Store(now.UnixNano())
	}
	switch {
	case err == nil:
	case !errors.Is(err, os.ErrDeadlineExceeded):
		// The body is over; a deadline left behind would cancel the request while it is worked on.
		_ = p.control.SetReadDeadline(time.Time{})
	case p.overtook.Load():
		err = artifact.Coded(artifact.Conflict, "BLOB_UPLOAD_INVALID", "another request took the upload over")
	default:
		// The deadline stays: net/http shall not wait for the rest of the body either.
		err = &artifact.Error{Kind: artifact.TimedOut, Err: err, Message: "the body stalled, or came too slowly; go on from what has come, or send it again"}
	}
	return n, err
}

// patientWriter is an answer that has to be taken at a least rate.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limits  Limits
	grace   time.Duration // before it writes, net/http waits for what is left of a body, until its deadline
	due     time.Time     // the deadline that is set
	begun   bool          // the answer's status was sent
}

// WriteHeader passes over a second status: gin, which does not see what is sent past it, ends with one.
func (w *patientWriter) WriteHeader(status int) {
	if w.begun {
		return
	}
	w.begun = status >= http.StatusOK
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// SetReadDeadline keeps others, such as huma, from the deadlines that patient sets.
func (w *patientWriter) SetReadDeadline(time.Time) error { return nil }

func (w *patientWriter) extend(n int64) {
	if due := time.Now().Add(w.limits.given(n) + w.grace); due.Sub(w.due) > w.limits.Stall/10 {
		w.due = due
		_ = w.control.SetWriteDeadline(due)
	}
}

func (w *patientWriter) Write(b []byte) (int, error) {
	w.extend(int64(len(b)))
	return w.ResponseWriter.Write(b)
}

// Flush is for gin, which asks for an http.Flusher.
func (w *patientWriter) Flush() {
	w.extend(0)
	_ = w.control.Flush()
}

// piece is how much of a file is sent before the client has to have taken it, in bytes.
const piece = 1 << 20

// ReadFrom sends pieces of r, each in its time. It keeps the shape that net's sendfile knows: a limited file.
func (w *patientWriter) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	for whole.N > 0 {
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, piece)}
		asked := part.N
		w.extend(asked)
		n, err := w.send(part)
		total += n
		whole.N -= n
		if err != nil || n < asked {
			return total, err
		}
	}
	return total, nil
}

// Answers up to carried bytes pass through memory, a piece at a time, while there is a hand free to carry them. sendfile gives the
// socket a few pages at a time, and wakes who reads for each; a reader on the same machine, a proxy above all, has what
// comes by the megabyte in two thirds of the time or less. Large files go by sendfile, and so does all that finds no hand free.
const carried = 16 << 20

var (
	hands  = make(chan struct{}, 4*runtime.GOMAXPROCS(0))
	pieces = sync.Pool{New: func() any { return new([piece]byte) }}
)

// send sends a piece of a file.
func (w *patientWriter) send(part *io.LimitedReader) (int64, error) {
	if length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil && length <= carried {
		select {
		case hands <- struct{}{}:
			defer func() { <-hands }()
			buffer := pieces.Get().(*[piece]byte)
			defer pieces.Put(buffer)
			return io.CopyBuffer(struct{ io.Writer }{w.ResponseWriter}, struct{ io.Reader }{part}, buffer[:])
		default:
		}
	}
	if from, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return from.ReadFrom(part)
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, part)
}
