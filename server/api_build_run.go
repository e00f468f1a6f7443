package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"waybill/artifact"
	"waybill/auth"
)

// BuildList is the answer to GET /builds, newest first. Next is to be asked for with after, where there may be more.
type BuildList struct {
	Builds []artifact.Build `json:"builds"`
	Next   string           `json:"next,omitempty"`
}

// BaseList is the answer to GET /bases. Next is to be asked for with after, where there are more.
type BaseList struct {
	Bases []artifact.BuiltOn `json:"bases"`
	Next  string             `json:"next,omitempty"`
}

type (
	buildsInput struct {
		Repository string `query:"repository" maxLength:"255"`
		State      string `query:"state" enum:"queued,running,done,failed,cancelled"`
		After      string `query:"after" maxLength:"2000" doc:"Next of the page before"`
		Limit      int    `query:"limit" minimum:"1" maximum:"1000" default:"50"`
	}
	buildsOutput  struct{ Body BuildList }
	buildRunInput struct {
		ID string `path:"build" maxLength:"64"`
	}
	buildRunOutput struct{ Body artifact.Build }
	buildLogInput  struct {
		ID    string `path:"build" maxLength:"64"`
		After string `header:"Last-Event-ID" maxLength:"20" doc:"Go on behind this event"`
	}
	basesInput struct {
		Ref   string `query:"ref" maxLength:"500" doc:"One image; without it, all that were built here"`
		Stale bool   `query:"stale" doc:"Only those whose base was recalled, is denied by now, was deleted or has been replaced"`
		After string `query:"after" maxLength:"4000" doc:"Next of the page before"`
	}
	basesOutput struct{ Body BaseList }
)

var secretID = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// parseSecrets reads ID=BASE64, with commas between. Its errors hold no value.
func parseSecrets(text string) (map[string][]byte, error) {
	if text == "" {
		return nil, nil
	}
	secrets := map[string][]byte{}
	for one := range strings.SplitSeq(text, ",") {
		id, encoded, ok := strings.Cut(strings.TrimSpace(one), "=")
		value, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || !secretID.MatchString(id) {
			return nil, artifact.Errorf(artifact.Invalid, "secret %d: want ID=BASE64, the id of letters, digits, '_', '.' and '-'", len(secrets)+1)
		}
		secrets[id] = value
	}
	return secrets, nil
}

// eventStream declares an answer of server-sent events.
func eventStream(op huma.Operation) huma.Operation {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Server-sent events (HTML standard, section 9.2), each with a BuildEvent; one named end has the Build, and is the last",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	return op
}

const buildsList = "builds"

func (a *API) builds(ctx context.Context, p artifact.Principal, in *buildsInput) (*buildsOutput, error) {
	f := artifact.BuildFilter{State: artifact.BuildState(in.State), Limit: in.Limit}
	var err error
	if in.Repository != "" {
		if f.Repository, err = artifact.ParseRepository(in.Repository); err != nil {
			return nil, err
		}
		if err := may(p, artifact.ActionLook, f.Repository); err != nil {
			return nil, err
		}
	}
	if err := a.cursors.open(buildsList, in.After, &f.After); err != nil {
		return nil, err
	}
	all, last, more, err := artifact.Page(in.Limit, f.After, func(after artifact.Build, n int) ([]artifact.Build, bool, error) {
		f.After, f.Limit = after, n
		rows, err := a.cfg.Builder.Runs(ctx, f)
		return rows, len(rows) == n, err
	}, func(b artifact.Build) bool { return p.Can(artifact.ActionLook, b.Repository) })
	if err != nil {
		return nil, err
	}
	out := &buildsOutput{Body: BuildList{Builds: orEmpty(all)}}
	if more {
		out.Body.Next = a.cursors.seal(buildsList, artifact.Build{ID: last.ID, AskedAt: last.AskedAt})
	}
	return out, nil
}

// mayDo returns a build to one who may do something with it.
func (a *API) mayDo(ctx context.Context, p artifact.Principal, action artifact.Action, id string) (artifact.Build, error) {
	b, err := a.cfg.Builder.Run(ctx, id)
	if err == nil {
		err = may(p, action, b.Repository)
	}
	return b, err
}

func (a *API) buildRun(ctx context.Context, p artifact.Principal, in *buildRunInput) (*buildRunOutput, error) {
	b, err := a.mayDo(ctx, p, artifact.ActionLook, in.ID)
	return &buildRunOutput{b}, err
}

func (a *API) cancelBuild(ctx context.Context, p artifact.Principal, in *buildRunInput) (*buildRunOutput, error) {
	if _, err := a.mayDo(ctx, p, artifact.ActionBuild, in.ID); err != nil {
		return nil, err
	}
	if err := a.cfg.Builder.Cancel(ctx, in.ID, p.Name); err != nil {
		return nil, err
	}
	b, err := a.cfg.Builder.Run(ctx, in.ID)
	return &buildRunOutput{b}, err
}

// quietFor is how long a stream says nothing before it sends a comment, so that proxies keep the connection.
const quietFor = 15 * time.Second

func (a *API) buildLog(ctx context.Context, p artifact.Principal, in *buildLogInput) (*buildOutput, error) {
	if _, err := a.mayDo(ctx, p, artifact.ActionLook, in.ID); err != nil {
		return nil, err
	}
	after, err := strconv.ParseInt("0"+in.After, 10, 64)
	if err != nil {
		return nil, artifact.Errorf(artifact.Invalid, "Last-Event-ID is %.20q; want a number", in.After)
	}
	return &buildOutput{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "text/event-stream")
		hc.SetHeader("Cache-Control", "no-store")
		hc.SetHeader("X-Accel-Buffering", "no")
		hc.SetStatus(http.StatusOK)
		var mu sync.Mutex // guards the body
		write := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			_, _ = fmt.Fprintf(hc.BodyWriter(), format, args...) // a client that left has its context end the rest
			humagin.Unwrap(hc).Writer.Flush()
		}
		write(": build %s\n\n", in.ID)
		ended := make(chan struct{})
		var quiet sync.WaitGroup
		quiet.Go(func() { still(ended, write) })
		defer func() { close(ended); quiet.Wait() }()
		authorization := hc.Header("Authorization")
		ctx, cancel := auth.While(hc.Context(), func(ctx context.Context) error {
			_, err := a.principal(ctx, authorization)
			return err
		})
		defer cancel()
		b, err := a.cfg.Builder.Follow(ctx, in.ID, after, func(seq int64, e BuildEvent) {
			if body, err := json.Marshal(e); err == nil {
				write("id: %d\ndata: %s\n\n", seq, body)
			}
		})
		if err != nil {
			return // a stream that ends without its last event is asked for again
		}
		if body, err := json.Marshal(b); err == nil {
			write("event: end\ndata: %s\n\n", body)
		}
	}}, nil
}

// still writes a comment every now and then, until the stream ends.
func still(ended <-chan struct{}, write func(string, ...any)) {
	for tick := time.NewTicker(quietFor); ; {
		select {
		case <-ended:
			tick.Stop()
			return
		case <-tick.C:
			write(": still here\n\n")
		}
	}
}

// basesAtOnce is how many bases an answer has.
const basesAtOnce = 1000

func (a *API) bases(ctx context.Context, p artifact.Principal, in *basesInput) (*basesOutput, error) {
	out := &basesOutput{Body: BaseList{Bases: []artifact.BuiltOn{}}}
	shown := func(b artifact.BuiltOn) bool {
		return p.Can(artifact.ActionLook, b.Repository) && (!in.Stale || b.Stale())
	}
	var all []artifact.BuiltOn
	if in.Ref != "" {
		s, err := a.look(ctx, p, in.Ref)
		if err != nil {
			return nil, err
		}
		if all, err = a.cfg.Builder.BasesOf(ctx, s.Repository, s.Digest); err != nil {
			return nil, err
		}
	} else {
		return a.allBases(ctx, shown, in.After)
	}
	out.Body.Bases = append(out.Body.Bases, slices.DeleteFunc(all, func(b artifact.BuiltOn) bool { return !shown(b) })...)
	return out, nil
}

const basesList = "bases"

func (a *API) allBases(ctx context.Context, shown func(artifact.BuiltOn) bool, from string) (*basesOutput, error) {
	var after artifact.BuiltOn
	if err := a.cursors.open(basesList, from, &after); err != nil {
		return nil, err
	}
	all, last, more, err := artifact.Page(basesAtOnce, after, func(after artifact.BuiltOn, n int) ([]artifact.BuiltOn, bool, error) {
		rows, err := a.cfg.Builder.BuiltOn(ctx, after, n)
		return rows, len(rows) == n, err
	}, shown)
	if err != nil {
		return nil, err
	}
	out := &basesOutput{Body: BaseList{Bases: orEmpty(all)}}
	if more {
		out.Body.Next = a.cursors.seal(basesList, artifact.BuiltOn{Repository: last.Repository, Digest: last.Digest, BaseRepository: last.BaseRepository, BaseDigest: last.BaseDigest})
	}
	return out, nil
}
