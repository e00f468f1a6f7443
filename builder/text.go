package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"waybill/artifact"
)

// Text makes lines of what a build says, for who has no display for what BuildKit reports. The same events make the same
// lines, wherever one begins to show them. It is not safe for concurrent use.
type Text struct {
	steps   map[digest.Digest]textStep
	partial map[digest.Digest]string // a line of a step's output that has not ended
}

type textStep struct{ begun, ended bool }

// Lines returns what an event adds.
func (t *Text) Lines(e Event) []string {
	if e.Status == nil {
		return []string{e.Log}
	}
	if t.steps == nil {
		t.steps, t.partial = map[digest.Digest]textStep{}, map[digest.Digest]string{}
	}
	var all []string
	for _, v := range e.Status.Vertexes {
		step := t.steps[v.Digest]
		if v.Started != nil && !step.begun {
			step.begun = true
			all = append(all, "→ "+v.Name)
		}
		if v.Completed == nil {
			step.ended = false // it began anew
		}
		t.steps[v.Digest] = step
	}
	for _, l := range e.Status.Logs {
		text := t.partial[l.Vertex] + strings.ReplaceAll(string(l.Data), "\r\n", "\n")
		lines := strings.Split(text, "\n")
		t.partial[l.Vertex] = lines[len(lines)-1]
		for _, line := range lines[:len(lines)-1] {
			all = append(all, "  "+overwritten(line))
		}
	}
	for _, v := range e.Status.Vertexes {
		step := t.steps[v.Digest]
		if v.Completed == nil || step.ended {
			continue
		}
		if rest := t.partial[v.Digest]; rest != "" {
			all = append(all, "  "+overwritten(rest))
		}
		delete(t.partial, v.Digest)
		step.ended = true
		t.steps[v.Digest] = step
		switch {
		case v.Error != "":
			all = append(all, "✕ "+v.Name+": "+v.Error)
		case v.Cached:
			all = append(all, "✓ "+v.Name+" (from the cache)")
		case v.Started != nil:
			all = append(all, fmt.Sprintf("✓ %s (%s)", v.Name, v.Completed.Sub(*v.Started).Round(100*time.Millisecond)))
		}
	}
	return all
}

// overwritten is what stays of a line in which carriage returns begin again, as bars of progress do.
func overwritten(line string) string {
	line = strings.TrimRight(line, "\r")
	return line[strings.LastIndexByte(line, '\r')+1:]
}

// Said tells what a run has said behind a piece of its log, as lines, piece by piece, and how far the run is; again and again until
// it has ended when it is to be followed.
func (r *Runs) Said(ctx context.Context, id string, after int64, follow bool, tell func(b artifact.Build, seq int64, lines []string)) (artifact.Build, error) {
	var (
		text Text
		seq  int64 // from the first piece on, since lines depend on what came before them
		was  artifact.BuildState
	)
	for {
		b, err := r.cfg.Store.Run(ctx, id) // first, so that nothing said before its end is missed
		if err != nil {
			return b, err
		}
		for {
			pieces, last, err := r.cfg.Store.Log(ctx, id, seq, 16)
			if err != nil {
				return b, err
			}
			for i, piece := range pieces {
				if lines := text.piece(piece); last-int64(len(pieces)-1-i) > after {
					tell(b, last-int64(len(pieces)-1-i), lines)
				}
			}
			if seq = last; len(pieces) == 0 {
				break
			}
		}
		if b.State != was {
			was = b.State
			tell(b, max(seq, after), nil)
		}
		if !follow || b.State.Ended() {
			return b, nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			return b, err
		}
	}
}

// piece returns the lines of a stored piece: events, one after the other.
func (t *Text) piece(body []byte) (lines []string) {
	for events := json.NewDecoder(bytes.NewReader(body)); ; {
		var e Event
		if events.Decode(&e) != nil {
			return lines
		}
		lines = append(lines, t.Lines(e)...)
	}
}
