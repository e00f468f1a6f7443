package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"waybill/artifact"
)

// BuildEvent is one line of a build's answer. The first has ID, unless the same inputs were built before; another with ID comes when
// who asked for that build first left it, and it is begun anew. The last has Result or Problem, and no other does.
type BuildEvent struct {
	ID      string   `json:"id,omitempty"`
	Joined  bool     `json:"joined,omitempty"` // others asked for the build first; to cancel it is theirs
	Status  any      `json:"status,omitempty"` // what BuildKit reports: SolveStatus of its Go client
	Log     string   `json:"log,omitempty"`
	Result  *Built   `json:"result,omitempty"`
	Problem *Problem `json:"problem,omitempty"`
}

// Built is what a build came to. New is false when the same inputs were built before: Digest is then that build's.
type Built struct {
	Repository artifact.Repository `json:"repository"`
	Tags       []artifact.Tag      `json:"tags,omitempty"`
	Digest     artifact.Digest     `json:"digest"`
	Key        artifact.Digest     `json:"key"` // of the inputs
	New        bool                `json:"new"`
	BuiltBy    string              `json:"builtBy,omitempty"`
	BuiltAt    time.Time           `json:"builtAt,omitzero"`
	Check      *BuildCheck         `json:"check,omitempty"` // when it was asked for; nothing was published then
}

// BuildCheck is what a build that was made again came to, beside Built's digest.
type BuildCheck struct {
	Reproducible bool              `json:"reproducible"`
	Before       bool              `json:"before"` // it was compared with a build of before, else with one that was made for this
	Again        artifact.Digest   `json:"again"`
	Differences  []BuildDifference `json:"differences,omitempty"` // the first hundred
}

// BuildDifference is a file, or a part of the config, that differs.
type BuildDifference struct {
	Platform string `json:"platform,omitempty"`
	Path     string `json:"path"`
	How      string `json:"how"`
}

type (
	buildInput struct {
		stream
		Repository string   `query:"repository" required:"true" maxLength:"255"`
		Tags       []string `query:"tag,explode" maxItems:"20"`
		Dockerfile string   `query:"dockerfile" maxLength:"1000" doc:"Path in the context; without it, Dockerfile"`
		Args       []string `query:"arg,explode" maxItems:"200" doc:"Build arguments: NAME=VALUE"`
		Target     string   `query:"target" maxLength:"200" doc:"The stage to build; without it, the last"`
		Platform   string   `query:"platform" maxLength:"400" example:"linux/amd64,linux/arm64" doc:"Several make an index; without it, linux/amd64"`
		Labels     []string `query:"label,explode" maxItems:"200" doc:"Labels of the image: NAME=VALUE"`
		Git        string   `query:"context" maxLength:"2000" example:"https://git.shop.internal/returns.git#v456" doc:"Repository to fetch the context from; the body is empty then"`
		Check      bool     `query:"check" doc:"Build again, compare the digests, publish nothing"`
		Source     string   `query:"source" maxLength:"2000" doc:"Where the context comes from, for the provenance"`
		Secrets    string   `header:"Waybill-Build-Secrets" maxLength:"262144" doc:"Secrets for RUN --mount=type=secret: ID=BASE64, with commas between"`
		Commit     string   `query:"commit" maxLength:"200" doc:"The source's commit, for the provenance"`
		Tree       string   `query:"tree" maxLength:"200" doc:"The hash of that commit's tree, for the provenance"`
	}
	buildOutput struct {
		Body func(huma.Context)
	}
)

// build answers 200 with the first log line, so what fails later is told in the last line.
func (a *API) build(ctx context.Context, p artifact.Principal, in *buildInput) (*buildOutput, error) {
	r, err := in.request()
	if err != nil {
		return nil, err
	}
	if err := may(p, artifact.ActionBuild, r.Repository); err != nil {
		return nil, err
	}
	return &buildOutput{Body: func(hc huma.Context) {
		// The client may still send its context while it reads the log.
		_ = http.NewResponseController(humagin.Unwrap(hc).Writer).EnableFullDuplex()
		r.Context = in.body(a.maxContext(), "the build context")
		events := &eventWriter{hc: hc}
		done, err := a.cfg.Builder.Build(hc.Context(), p, r, events)
		if err != nil {
			a.endStream(hc, events, err, func(p *Problem) any { return BuildEvent{Problem: p} })
			linger(humagin.Unwrap(hc).Writer, humagin.Unwrap(hc).Request)
			return
		}
		events.send(BuildEvent{Result: &done})
	}}, nil
}

// lingerFor is how long what a client still sends is read after it was refused.
const lingerFor = 2 * time.Second

// linger reads on for a moment: to one who still sends, a connection that is closed is reset, and the answer with it.
func linger(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
}

// endStream answers with the status itself when nothing was sent yet, and else in the last line.
func (a *API) endStream(hc huma.Context, events *eventWriter, err error, last func(*Problem) any) {
	problem := newProblem(err)
	if !events.begun {
		a.writeProblem(hc, problem)
		return
	}
	_, _ = a.finish(hc, "", problem)
	events.send(last(problem))
}

func (in *buildInput) request() (BuildRequest, error) {
	r := BuildRequest{Dockerfile: in.Dockerfile, Target: in.Target, Platform: in.Platform, SourceURI: in.Source, Commit: in.Commit, Tree: in.Tree, Git: in.Git, Check: in.Check}
	var err error
	if r.Repository, err = artifact.ParseRepository(in.Repository); err != nil {
		return r, err
	}
	for _, s := range in.Tags {
		tag, err := artifact.ParseTag(s)
		if err != nil {
			return r, err
		}
		r.Tags = append(r.Tags, tag)
	}
	if r.Args, err = pairs(in.Args, "build argument"); err != nil {
		return r, err
	}
	if r.Labels, err = pairs(in.Labels, "label"); err != nil {
		return r, err
	}
	r.Secrets, err = parseSecrets(in.Secrets)
	return r, err
}

func pairs(words []string, what string) (map[string]string, error) {
	all := map[string]string{}
	for _, s := range words {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, artifact.Errorf(artifact.Invalid, "%s %.60q: want NAME=VALUE", what, name)
		}
		all[name] = value
	}
	return all, nil
}

// maxContext is how many bytes of a tar a context may take: the files', and what the archive adds to each.
func (a *API) maxContext() int64 {
	n := a.cfg.MaxContext
	if n == 0 {
		n = 4 << 30
	}
	return n + n/4 + 256<<20
}

// eventWriter sends events as they come; each line that is written to it becomes one of a build's log. It is safe for
// concurrent use.
type eventWriter struct {
	hc huma.Context

	mu    sync.Mutex // guards all below, and that events do not mix
	begun bool
	line  bytes.Buffer
}

// maxLogLine bounds a line of a build's log, in bytes; what is longer comes in pieces.
const maxLogLine = 8 << 10

func (w *eventWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range p {
		if b != '\n' {
			w.line.WriteByte(b)
		}
		if b == '\n' || w.line.Len() >= maxLogLine {
			w.flush()
		}
	}
	return len(p), nil
}

// send writes what is left of the log and then an event.
func (w *eventWriter) send(e any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.line.Len() > 0 {
		w.flush()
	}
	w.write(e)
}

// Begun tells a build's id.
func (w *eventWriter) Begun(id string, joined bool) { w.send(BuildEvent{ID: id, Joined: joined}) }

// Report tells what BuildKit says.
func (w *eventWriter) Report(status any) { w.send(BuildEvent{Status: status}) }

func (w *eventWriter) flush() {
	w.write(BuildEvent{Log: w.line.String()})
	w.line.Reset()
}

// write ignores errors: a client that left does not end a build that others may wait for; its context ends the rest.
func (w *eventWriter) write(e any) {
	if !w.begun {
		w.begun = true
		w.hc.SetHeader("Content-Type", ndjsonType)
		w.hc.SetHeader("X-Accel-Buffering", "no")
		w.hc.SetStatus(http.StatusOK)
	}
	_ = json.NewEncoder(w.hc.BodyWriter()).Encode(e)
	humagin.Unwrap(w.hc).Writer.Flush()
}

func decodeBase64(s string) ([]byte, error) { return base64.StdEncoding.DecodeString(s) }
