package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
)

// runLog keeps what a build says: in pieces, so that followers see it soon and rows are few.
type runLog struct {
	runs *Runs
	ctx  context.Context //nolint:containedctx // Write has no place for one
	id   string
	also StatusLog

	mu      sync.Mutex // guards all below
	line    bytes.Buffer
	pending bytes.Buffer // events to be stored
	left    int64        // bytes that may still be stored
	full    bool
	timer   *time.Timer
	stored  time.Time // when the last piece was
}

func (r *Runs) newRunLog(ctx context.Context, id string, also StatusLog) *runLog {
	return &runLog{runs: r, ctx: context.WithoutCancel(ctx), id: id, also: also, left: r.cfg.MaxLog}
}

// Write takes text; each line of it is an event.
func (l *runLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range p {
		if b != '\n' {
			l.line.WriteByte(b)
		}
		if b == '\n' || l.line.Len() >= 8<<10 {
			l.add(Event{Log: l.line.String()})
			l.line.Reset()
		}
	}
	return l.also.Write(p)
}

// Status takes what BuildKit reports.
func (l *runLog) Status(s *client.SolveStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(Event{Status: s})
	l.also.Status(s)
}

func (l *runLog) add(e Event) {
	if l.full {
		return
	}
	if e.Status != nil && l.left < l.runs.cfg.MaxLog/2 {
		e.Status.Statuses = nil // bars of progress, which nobody needs later
	}
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	if l.left -= int64(len(b)); l.left < 0 {
		l.full = true
		b, _ = json.Marshal(Event{Log: fmt.Sprintf("… the log is longer than %s (builder.buildkit.log); the rest is not kept", size(l.runs.cfg.MaxLog))})
	}
	l.pending.Write(append(b, '\n'))
	switch {
	case l.pending.Len() >= 64<<10:
		l.store()
	case l.timer == nil:
		l.timer = time.AfterFunc(time.Until(l.stored.Add(writeEvery)), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.store()
		})
	}
}

// store writes what is pending. A log that cannot be written ends no build.
func (l *runLog) store() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if l.pending.Len() == 0 {
		return
	}
	writing, cancel := context.WithTimeout(l.ctx, 5*time.Second)
	defer cancel()
	if _, err := l.runs.cfg.Store.AppendLog(writing, l.id, l.pending.Bytes()); err != nil {
		l.runs.cfg.Logger.WarnContext(l.ctx, "a piece of a build's log is lost", "build", l.id, "error", err)
	}
	l.pending.Reset()
	l.stored = time.Now()
}

func (l *runLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line.Len() > 0 {
		l.add(Event{Log: l.line.String()})
		l.line.Reset()
	}
	l.store()
}
