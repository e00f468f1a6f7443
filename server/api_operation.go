package server

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"waybill/artifact"
)

// need is what a route asks of the caller before anything of the request is read.
type need struct {
	public   bool            // anybody, without credentials
	action   artifact.Action // the caller's role includes it, for some repository; the handler checks which
	deployer bool            // a deployer too: the handler asks the gate about each digest
	whole    bool            // for every repository: what is told is of all of them
}

var (
	public = need{public: true}
	looks  = need{action: artifact.ActionLook, deployer: true}
	audits = need{action: artifact.ActionAudit, whole: true}
)

func needs(a artifact.Action) need { return need{action: a} }

// allows reports whether the caller's role may use the route at all.
func (n need) allows(p artifact.Principal) bool {
	if n.whole {
		return p.CanEverywhere(n.action)
	}
	return n.public || p.Can(n.action, artifact.Repository{}) || (n.deployer && p.Is(artifact.Deployer))
}

// refuse says which role would do.
func (n need) refuse(p artifact.Principal) error {
	return artifact.Errorf(artifact.Denied, "%s, %s, may not %s here; that takes role %s, which an admin gives%s", p.Name, artifact.An(p.Roles()), n.action, artifact.RolesWith(n.action), n.bound())
}

// roles are those that may use the route, where they are bound.
func (n need) roles() (names []string) {
	for _, role := range artifact.Roles {
		if n.allows(artifact.Principal{Role: role}) {
			names = append(names, string(role))
		}
	}
	return names
}

// bound says how the role must be bound.
func (n need) bound() string {
	if n.whole {
		return ", bound to no repositories: this is of all of them"
	}
	return ""
}

type principalKey struct{}

// register adds one operation: it authenticates and checks the role before it parses a parameter, so that a
// stranger learns nothing from validation, and it turns whatever error comes back into a problem.
func register[I, O any](a *API, n need, op huma.Operation, handle func(context.Context, artifact.Principal, *I) (*O, error)) {
	op.Path = apiRoot + op.Path
	op.Extensions = map[string]any{}
	if command := commands[op.OperationID]; command != "" {
		op.Extensions["x-waybill-command"] = command
	}
	if !n.public {
		op.Extensions["x-waybill-action"], op.Extensions["x-waybill-roles"] = string(n.action), n.roles()
		if n.whole {
			op.Extensions["x-waybill-scope"] = "every repository"
		}
		op.Security = []map[string][]string{{"token": {}}, {"basic": {}}}
		op.Middlewares = append(huma.Middlewares{a.admit(n)}, op.Middlewares...)
	}
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
		if op.Method == http.MethodGet { // JSON, and no stream
			op.Middlewares = append(op.Middlewares, tagged)
			op.Responses["304"] = &huma.Response{Description: "What If-None-Match names is what there is: see the ETag of an answer"}
		}
	}
	op.Responses["default"] = &huma.Response{
		Description: "A problem (RFC 9457), with every reason of a denial",
		Content:     map[string]*huma.MediaType{problemType: {Schema: a.problemSchema()}},
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		p, _ := ctx.Value(principalKey{}).(artifact.Principal)
		out, err := handle(ctx, p, in)
		if err != nil {
			return nil, newProblem(err)
		}
		return out, nil
	})
}

// admit answers 401 without good credentials and 403 when no grant of the role could ever allow the operation.
func (a *API) admit(n need) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		p, err := a.principal(hc.Context(), hc.Header("Authorization"))
		if err == nil && !n.allows(p) {
			err = n.refuse(p)
		}
		if err != nil {
			a.writeProblem(hc, newProblem(err))
			return
		}
		next(huma.WithValue(hc, principalKey{}, p))
	}
}

func (a *API) principal(ctx context.Context, authorization string) (artifact.Principal, error) {
	if authorization == "" {
		return artifact.Principal{}, artifact.Errorf(artifact.Unauthentic, "no credentials were sent; send a Waybill token as Authorization: Bearer wbt_…")
	}
	id, err := a.cfg.Authenticator.FromRequest(ctx, authorization)
	if err != nil {
		return artifact.Principal{}, err
	}
	if id.Principal.Anonymous() {
		return artifact.Principal{}, artifact.Errorf(artifact.Unauthentic, "the credentials are not a Waybill token")
	}
	if id.Scopes != nil {
		return artifact.Principal{}, artifact.Errorf(artifact.Unauthentic, "an access token of a registry login is for /v2 only; send the Waybill token itself")
	}
	return id.Principal, nil
}

func get(id, path, summary, tag string) huma.Operation {
	return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{tag}}
}

func post(id, path, summary, tag string) huma.Operation {
	op := get(id, path, summary, tag)
	op.Method, op.MaxBodyBytes = http.MethodPost, maxJSON
	return op
}

func remove(id, path, summary, tag string) huma.Operation {
	op := get(id, path, summary, tag)
	op.Method = http.MethodDelete
	return op
}

// takesTime is for what may take as long as it does, and not only as long as the database may take for a statement.
func takesTime(op huma.Operation) huma.Operation {
	op.Middlewares = append(op.Middlewares, func(hc huma.Context, next func(huma.Context)) {
		next(huma.WithContext(hc, artifact.TakesTime(hc.Context())))
	})
	return op
}

// body declares a request body that the handler reads itself, as it streams.
func body(op huma.Operation, contentType string) huma.Operation {
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		contentType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	return op
}

// streams declares an answer of newline-delimited JSON: see BuildEvent and CheckEvent.
func streams(op huma.Operation, event string) huma.Operation {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "One " + event + " per line; the last has a result or a problem",
		Content:     map[string]*huma.MediaType{ndjsonType: {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	return op
}

// archive declares an answer that is a compressed tar.
func archive(op huma.Operation) huma.Operation {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A tar archive, compressed with gzip",
		Content:     map[string]*huma.MediaType{"application/gzip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}}
	return op
}

// table declares an answer of comma-separated values.
func table(op huma.Operation) huma.Operation {
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Comma-separated values (RFC 4180), the first line their names; no cell is a formula to a spreadsheet",
		Content:     map[string]*huma.MediaType{"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	return op
}

// stream is embedded by inputs whose body is read as it arrives.
type stream struct {
	raw huma.Context
}

// Resolve keeps the request's context, whose body nobody has read yet (huma.Resolver).
func (s *stream) Resolve(hc huma.Context) []error {
	s.raw = hc
	return nil
}

// body returns the request's body: at most limit bytes, from a sender that may be slow and may not stall.
func (s *stream) body(limit int64, what string) io.Reader {
	c := humagin.Unwrap(s.raw)
	return &bounded{r: patiently(c), left: limit, what: what, end: s.takeTime}
}

// takeTime is for what takes long after the body was read: the deadline for bytes that have all come would end it.
func (s *stream) takeTime() {
	_ = http.NewResponseController(humagin.Unwrap(s.raw).Writer).SetReadDeadline(time.Time{})
}

// bounded reads at most left bytes and then fails, where io.LimitReader would end as if that were all.
type bounded struct {
	r    io.Reader
	left int64
	what string
	end  func() // called when all was read
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, artifact.Errorf(artifact.TooLarge, "%s: more bytes than are accepted", b.what)
	}
	if err == io.EOF {
		b.end()
	}
	return n, err
}
