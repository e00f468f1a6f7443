package builder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"

	"waybill/artifact"
)

// StatusLog is a log that takes what BuildKit reports as it is, for a display of its own. A log that is none gets lines.
type StatusLog interface {
	io.Writer
	Status(s *client.SolveStatus)
}

// display shows reports; close ends it.
type display interface {
	Status(s *client.SolveStatus)
	close()
}

func follow(log io.Writer) display {
	if s, ok := log.(StatusLog); ok {
		return structured{s}
	}
	return newPlain(log)
}

type structured struct{ StatusLog }

func (structured) close() {}

// plain writes reports as BuildKit's plain progress does.
type plain struct {
	reports chan *client.SolveStatus
	done    chan struct{}
}

func newPlain(w io.Writer) *plain {
	p := &plain{make(chan *client.SolveStatus), make(chan struct{})}
	go func() {
		defer close(p.done)
		d, err := progressui.NewDisplay(w, progressui.PlainMode)
		if err == nil {
			_, err = d.UpdateFrom(context.Background(), p.reports)
		}
		for range p.reports { //nolint:revive // what a display that failed does not take
		}
		_ = err // a log that cannot be written ends no build
	}()
	return p
}

func (p *plain) Status(s *client.SolveStatus) { p.reports <- s }
func (p *plain) close()                       { close(p.reports); <-p.done }

// keptLines is how many bytes of a step's output are kept, for the error of one that fails.
const keptLines = 4 << 10

// track knows which steps run, how their output ends, and what must not be in it.
type track struct {
	steps   map[digest.Digest]*step
	secrets [][]byte
}

type step struct {
	name      string
	started   time.Time
	ended     bool
	failed    bool
	tail      []byte
	unwritten []byte // a line that has not ended, of which the next piece may complete a secret
	last      *client.VertexLog
}

func newTrack(secrets map[string][]byte) *track {
	t := &track{steps: map[digest.Digest]*step{}}
	for _, value := range secrets {
		for _, line := range bytes.Split(value, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) >= 4 { // shorter ones would hide half of any log
				t.secrets = append(t.secrets, line)
			}
		}
	}
	slices.SortFunc(t.secrets, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) })
	return t
}

func (t *track) step(d digest.Digest) *step {
	s, ok := t.steps[d]
	if !ok {
		s = &step{}
		t.steps[d] = s
	}
	return s
}

// take notes a report, and returns it without the values of secrets.
func (t *track) take(s *client.SolveStatus) *client.SolveStatus {
	logs := s.Logs
	s.Logs = nil
	for _, l := range logs {
		if whole := t.lines(t.step(l.Vertex), l); whole != nil {
			s.Logs = append(s.Logs, whole)
		}
	}
	for _, v := range s.Vertexes {
		st := t.step(v.Digest)
		st.name = v.Name
		if v.Started != nil {
			st.started = *v.Started
		}
		st.ended = v.Completed != nil
		if v.Error != "" && !strings.Contains(v.Error, context.Canceled.Error()) {
			st.failed = true
		}
		v.Error = string(t.hide([]byte(v.Error)))
		if st.ended {
			if rest := t.flush(st); rest != nil {
				s.Logs = append(s.Logs, rest)
			}
		}
	}
	return s
}

// lines returns as much of a piece of output as is in whole lines, when there are secrets to be looked for.
func (t *track) lines(st *step, l *client.VertexLog) *client.VertexLog {
	if len(t.secrets) > 0 {
		st.unwritten = append(st.unwritten, l.Data...)
		end := bytes.LastIndexByte(st.unwritten, '\n') + 1
		if end == 0 && len(st.unwritten) > 64<<10 {
			end = len(st.unwritten)
		}
		if st.last = l; end == 0 {
			return nil
		}
		l.Data = t.hide(st.unwritten[:end])
		st.unwritten = bytes.Clone(st.unwritten[end:])
	}
	st.keep(l.Data)
	return l
}

func (t *track) flush(st *step) *client.VertexLog {
	if len(st.unwritten) == 0 {
		return nil
	}
	l := *st.last
	l.Data = t.hide(st.unwritten)
	st.unwritten = nil
	st.keep(l.Data)
	return &l
}

// rest returns the output that is still held back.
func (t *track) rest() *client.SolveStatus {
	var s client.SolveStatus
	for _, st := range t.steps {
		if l := t.flush(st); l != nil {
			s.Logs = append(s.Logs, l)
		}
	}
	if len(s.Logs) == 0 {
		return nil
	}
	return &s
}

func (t *track) hide(b []byte) []byte {
	for _, secret := range t.secrets {
		b = bytes.ReplaceAll(b, secret, []byte("***"))
	}
	return b
}

func (s *step) keep(b []byte) {
	s.tail = append(s.tail, b...)
	if over := len(s.tail) - keptLines; over > 0 {
		s.tail = s.tail[over:]
		if cut := bytes.IndexByte(s.tail, '\n'); cut >= 0 {
			s.tail = s.tail[cut+1:]
		}
	}
}

// latest returns the step that began last of those that run, or of all.
func (t *track) latest(running bool) *step {
	var found *step
	for _, s := range t.steps {
		if !s.started.IsZero() && (!running || !s.ended) && (found == nil || s.started.After(found.started)) {
			found = s
		}
	}
	return found
}

// where names a step and how its output ends.
func (s *step) where() string {
	if s == nil {
		return ""
	}
	text := s.name
	if tail := strings.TrimSpace(string(s.tail)); tail != "" {
		text += "\n" + indent(tail)
	}
	return text
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

// errCancelled is the cause of a build's context that somebody ended.
type errCancelled struct{ by string }

func (e errCancelled) Error() string { return "cancelled by " + e.by }

// failed says which step failed, at which line, how, and how its output ended.
func (b *BuildKit) failed(ctx context.Context, file string, seen *track, err error) error {
	last := seen.latest(true)
	if last == nil {
		last = seen.latest(false)
	}
	var cancelled errCancelled
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeout):
		return artifact.Errorf(artifact.TimedOut, "the build took more than %s (builder.buildkit.timeout); what ran last: %s", b.cfg.Timeout, last.where())
	case errors.As(cause, &cancelled):
		return artifact.Errorf(artifact.Conflict, "the build was %v; what ran last: %s", cancelled, last.where())
	case cause != nil:
		return cause
	}
	at := file
	for _, source := range errdefs.Sources(err) {
		if len(source.GetRanges()) > 0 {
			at += fmt.Sprintf(":%d", source.GetRanges()[0].GetStart().GetLine())
			break
		}
	}
	var exit *gateway.ExitError
	if errors.As(err, &exit) {
		for _, s := range seen.steps {
			if s.failed {
				return artifact.Errorf(artifact.Invalid, "%s: exit code %d of %s", at, exit.ExitCode, s.where())
			}
		}
		return artifact.Errorf(artifact.Invalid, "%s: exit code %d", at, exit.ExitCode)
	}
	if strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // it comes as text
		return artifact.Errorf(artifact.Full, "%s: the disk that BuildKit works on is full; the operator must make room. The server's own daemon drops what it kept of earlier builds, so build again: %s", at, seen.hide([]byte(err.Error())))
	}
	return artifact.Errorf(artifact.Invalid, "%s: %s", at, seen.hide([]byte(err.Error())))
}
