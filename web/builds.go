package web

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
)

// Builds are the builds of the server, as package builder keeps them.
type Builds interface {
	// Run returns a build, or a NotFound error; Runs some, newest first.
	Run(ctx context.Context, id string) (artifact.Build, error)
	Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error)
	// Said tells what a build has said behind a piece of its log, as lines, and how far it is; until it has ended when it is to be
	// followed.
	Said(ctx context.Context, id string, after int64, follow bool, tell func(b artifact.Build, seq int64, lines []string)) (artifact.Build, error)
	// Cancel ends a build that has not ended; Conflict when it has.
	Cancel(ctx context.Context, id, by string) error
	// Provenance says in a sentence how an image was built, as it was signed; NotFound where nothing signed says so.
	Provenance(ctx context.Context, r artifact.Repository, d artifact.Digest) (string, error)
}

// buildsPage lists builds, newest first.
type buildsPage struct {
	Builds     []artifact.Build
	Repository string
	State      artifact.BuildState
	States     []artifact.BuildState
	Filtered   bool
	Newest     string // query of the first page; empty: this is it
	Older      string // query of the next page; empty: this is the last
}

// Bounds of what pages of builds show.
const (
	buildRows   = 50
	maxLogBytes = 60 << 10 // of a log's lines on a page, as they are escaped
)

func (w *Web) builds(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	page := buildsPage{Repository: strings.TrimSpace(c.Query("repository")), State: artifact.BuildState(c.Query("state")), States: artifact.BuildStates}
	f := artifact.BuildFilter{State: page.State}
	if page.State != "" && !slices.Contains(artifact.BuildStates, page.State) {
		return artifact.Errorf(artifact.Invalid, "state %.40q: want queued, running, done, failed or cancelled", page.State)
	}
	var err error
	if page.Repository != "" {
		if f.Repository, err = artifact.ParseRepository(page.Repository); err != nil {
			return err
		}
		if !p.Can(artifact.ActionLook, f.Repository) {
			return p.Refusal(artifact.ActionLook, f.Repository)
		}
	}
	if err := w.open(buildsList, c.Query("after"), &f.After); err != nil {
		return err
	}
	query := url.Values{}
	for name, value := range map[string]string{"repository": page.Repository, "state": string(page.State)} {
		if value != "" {
			query.Set(name, value)
			page.Filtered = true
		}
	}
	if f.After.ID != "" {
		page.Newest = "/builds?" + query.Encode()
	}
	all, last, more, err := artifact.Page(buildRows, f.After, func(after artifact.Build, n int) ([]artifact.Build, bool, error) {
		f.After, f.Limit = after, n
		rows, err := w.cfg.Builds.Runs(ctx, f)
		return rows, len(rows) == n, err
	}, func(b artifact.Build) bool { return p.Can(artifact.ActionLook, b.Repository) })
	if err != nil {
		return err
	}
	if page.Builds = all; more {
		query.Set("after", w.place(buildsList, artifact.Build{ID: last.ID, AskedAt: last.AskedAt}))
		page.Older = "/builds?" + query.Encode()
	}
	w.render(c, http.StatusOK, "builds", "Builds", page)
	return nil
}

const buildsList = "builds"

// buildPage is one build, with a part of its log.
type buildPage struct {
	form
	artifact.Build
	Cancels    bool
	Provenance string
	Lines      []string
	Seq        int64 // of the log, up to which the lines go
	Live       bool  // more comes, and this is its last part
	Part, Of   int
	Before     int // number of the part before; 0: there is none
	Behind     int
	Took       time.Duration
	Now        time.Time
}

// Ended reports whether nothing more comes of it.
func (b *buildPage) Ended() bool { return b.State.Ended() }

func (w *Web) build(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	b, err := w.buildFor(ctx, p, artifact.ActionLook, c.Param("id"))
	if err != nil {
		return err
	}
	page := &buildPage{Cancels: p.Can(artifact.ActionBuild, b.Repository), Now: w.cfg.Now()}
	part, err := strconv.Atoi(c.DefaultQuery("part", "0"))
	if err != nil || part < 0 {
		return artifact.Errorf(artifact.Invalid, "part %.40q: want the number of a part of the log", c.Query("part"))
	}
	var lines []string
	if page.Build, err = w.cfg.Builds.Said(ctx, b.ID, 0, false, func(_ artifact.Build, seq int64, said []string) {
		lines, page.Seq = append(lines, said...), seq
	}); err != nil {
		return err
	}
	parts := partsOf(lines)
	if page.Of = len(parts); part == 0 || part > page.Of {
		part = page.Of
	}
	page.Part, page.Lines = part, parts[part-1]
	page.Live = !page.Ended() && page.Part == page.Of
	if part > 1 {
		page.Before = part - 1
	}
	if part < page.Of {
		page.Behind = part + 1
	}
	if page.Took = page.Now.Sub(page.StartedAt); page.Ended() {
		page.Took = page.EndedAt.Sub(page.StartedAt)
	}
	if page.StartedAt.IsZero() {
		page.Took = 0
	}
	if !page.Digest.IsZero() {
		page.Provenance, err = w.cfg.Builds.Provenance(ctx, page.Repository, page.Digest)
		if err != nil && artifact.KindOf(err) == "" {
			return err
		}
	}
	w.render(c, http.StatusOK, "build", "Build of "+page.Repository.String(), page)
	return nil
}

// buildFor returns a build to one who may do something with it.
func (w *Web) buildFor(ctx context.Context, p artifact.Principal, action artifact.Action, id string) (artifact.Build, error) {
	if !p.Can(action, artifact.Repository{}) {
		return artifact.Build{}, p.Refusal(action, artifact.Repository{})
	}
	b, err := w.cfg.Builds.Run(ctx, id)
	if err == nil && !p.Can(action, b.Repository) {
		err = p.Refusal(action, b.Repository)
	}
	return b, err
}

// partsOf cuts a log into parts that fit a page; there is one at least.
func partsOf(lines []string) [][]string {
	parts := [][]string{nil}
	size := 0
	for _, line := range lines {
		line = harmlessLine(line)
		n := len(template.HTMLEscapeString(line)) + 1
		if size += n; size > maxLogBytes && size > n {
			parts, size = append(parts, nil), n
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], line)
	}
	return parts
}

// maxLogLine bounds a line that a page shows, in bytes.
const maxLogLine = 8 << 10

// harmlessLine takes out of a line what is for terminals, and what would turn it around.
func harmlessLine(line string) string {
	if len(line) > maxLogLine {
		line = strings.ToValidUTF8(line[:maxLogLine], "") + "…"
	}
	return plainText(escapes.ReplaceAllString(line, ""))
}

// buildLog is all that a build has said so far, as text.
func (w *Web) buildLog(c *gin.Context, p artifact.Principal) error {
	b, err := w.buildFor(c.Request.Context(), p, artifact.ActionLook, c.Param("id"))
	if err != nil {
		return err
	}
	c.Header("Content-Type", "text/plain; charset=utf-8")
	c.Status(http.StatusOK)
	_, err = w.cfg.Builds.Said(c.Request.Context(), b.ID, 0, false, func(_ artifact.Build, _ int64, lines []string) {
		for _, line := range lines {
			_, _ = c.Writer.WriteString(harmlessLine(line) + "\n") // who left has the context end the rest
		}
	})
	if err != nil {
		w.cfg.Logger.ErrorContext(c.Request.Context(), "log broke off", "build", b.ID, "error", err)
		panic(http.ErrAbortHandler) // a part must not look like the whole
	}
	return nil
}

// said is what a page that follows a build is told at a time.
type said struct {
	state artifact.BuildState
	seq   int64
	lines []string
}

// buildEvents tells a page what a build says, as server-sent events: lines as they come, and when the state is another.
func (w *Web) buildEvents(c *gin.Context, p artifact.Principal) error {
	b, err := w.buildFor(c.Request.Context(), p, artifact.ActionLook, c.Param("id"))
	if err != nil {
		return err
	}
	text := c.GetHeader("Last-Event-ID")
	if text == "" {
		text = c.DefaultQuery("after", "0")
	}
	after, err := strconv.ParseInt(text, 10, 64)
	if err != nil || after < 0 {
		return artifact.Errorf(artifact.Invalid, "after %.40q: want the number of a piece of the log", text)
	}
	select {
	case w.streams <- struct{}{}:
		defer func() { <-w.streams }()
	default:
		return artifact.Errorf(artifact.TooMany, "%d pages are told of changes already; load the page again to see what is new", maxStreams)
	}
	c.Header("Content-Type", "text/event-stream")
	c.Header("X-Accel-Buffering", "no")
	c.Status(http.StatusOK)
	cookie, _ := c.Cookie(cookieName) // the request is another's by the time that the last question is answered
	valid, over := auth.While(c.Request.Context(), func(ctx context.Context) error {
		_, err := w.holder(ctx, cookie)
		return err
	})
	defer over()
	ctx, cancel := context.WithTimeout(valid, streamLife)
	news, ended := make(chan said), make(chan error, 1)
	var following sync.WaitGroup
	following.Go(func() {
		_, err := w.cfg.Builds.Said(ctx, b.ID, after, true, func(b artifact.Build, seq int64, lines []string) {
			select {
			case news <- said{b.State, seq, lines}:
			case <-ctx.Done():
			}
		})
		ended <- err
	})
	defer following.Wait()
	defer cancel()
	w.streamBuild(ctx, c, news, ended)
	return nil
}

func (w *Web) streamBuild(ctx context.Context, c *gin.Context, news <-chan said, ended <-chan error) {
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	text := "retry: 1000\n\n"
	var state artifact.BuildState
	for {
		if _, err := c.Writer.WriteString(text); err != nil {
			return // it is gone
		}
		c.Writer.Flush()
		select {
		case s := <-news:
			text = ""
			if len(s.lines) > 0 {
				for i, line := range s.lines {
					s.lines[i] = harmlessLine(line)
				}
				body, _ := json.Marshal(s.lines) // of texts, which always encode
				text = fmt.Sprintf("id: %d\ndata: %s\n\n", s.seq, body)
			}
			if s.state != state {
				state = s.state
				text += fmt.Sprintf("event: state\ndata: %s\n\n", state)
			}
		case <-beat.C:
			text = ": \n\n"
		case err := <-ended:
			if err == nil {
				_, _ = c.Writer.WriteString("event: end\ndata: \n\n")
				c.Writer.Flush()
			}
			return
		case <-ctx.Done():
			return
		case <-w.closing:
			return
		}
	}
}

// cancelBuild ends a build, as its page asks.
func (w *Web) cancelBuild(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	b, err := w.buildFor(ctx, p, artifact.ActionBuild, c.Param("id"))
	if err != nil {
		return err
	}
	err = w.cfg.Builds.Cancel(ctx, b.ID, p.Name)
	if artifact.KindOf(err) == artifact.Conflict {
		return w.done(c, "/builds/"+url.PathEscape(b.ID), "The build had ended before it could be cancelled.")
	} else if err != nil {
		return err
	}
	return w.done(c, "/builds/"+url.PathEscape(b.ID), "Cancelled. What of it runs ends within moments, and nothing of it is published.")
}
