package web

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

const (
	maxStreams  = 1000                   // pages that are told of changes at a time
	streamLife  = 10 * time.Minute       // then the browser asks again, and is asked who it is
	streamBeat  = 20 * time.Second       // of a comment, so that nothing between here and the browser thinks it is over
	streamQuiet = 500 * time.Millisecond // after a change, for those that come with it
)

// events tells a page when something has changed: not what, for the page asks again as its reader and sees what that one
// may. The stream is that of server-sent events.
func (w *Web) events(c *gin.Context, _ artifact.Principal) error {
	since, err := strconv.ParseInt(c.Query("since"), 10, 64)
	if err != nil {
		return artifact.Errorf(artifact.Invalid, "since %.40q: want milliseconds since 1970", c.Query("since"))
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
	if _, err := c.Writer.WriteString("retry: 3000\n\n"); err != nil {
		return nil // it is gone
	}
	c.Writer.Flush()
	over, beat := time.NewTimer(streamLife), time.NewTicker(streamBeat)
	defer over.Stop()
	defer beat.Stop()
	changed := w.cfg.Store.Changed(time.UnixMilli(since))
	for {
		text := ": \n\n"
		select {
		case <-changed:
			select {
			case <-time.After(streamQuiet):
			case <-c.Request.Context().Done():
				return nil
			}
			text, changed = "event: changed\ndata: \n\n", w.cfg.Store.Changed(w.cfg.Now())
		case <-beat.C:
		case <-over.C:
			return nil
		case <-w.closing:
			return nil
		case <-c.Request.Context().Done():
			return nil
		}
		if _, err := c.Writer.WriteString(text); err != nil {
			return nil
		}
		c.Writer.Flush()
	}
}

// Close ends what pages are told by, for a server that stops.
func (w *Web) Close() { w.closed.Do(func() { close(w.closing) }) }
