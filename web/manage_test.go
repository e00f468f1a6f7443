package web_test

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/registry"
	"waybill/storage"
)

// office is what admins manage; did is what it was asked to do.
type office struct {
	did     []string
	busy    bool
	revoked atomic.Bool // every token was
}

func (o *office) Create(_ context.Context, p artifact.Principal, g auth.Grant) (string, auth.Token, error) {
	if !p.Can(artifact.ActionManage, artifact.Repository{}) {
		return "", auth.Token{}, artifact.Errorf(artifact.Denied, "no admin")
	}
	if g.Role == artifact.Deployer && len(g.Environments) == 0 {
		return "", auth.Token{}, artifact.Errorf(artifact.Invalid, "a deployer is one of an environment, not of %s", hostile)
	}
	o.did = append(o.did, "create "+g.Name+" "+string(g.Role)+" "+strings.Join(g.Repositories, " ")+" until "+g.Expires.Format(time.DateOnly))
	return "wbt_secret", auth.Token{ID: "1", Name: g.Name, Role: g.Role, Repositories: g.Repositories, Environments: g.Environments, ExpiresAt: g.Expires}, nil
}

func (o *office) List(context.Context) ([]auth.Token, error) {
	return []auth.Token{
		{ID: "aa11", Name: hostile, Role: artifact.Deployer, Environments: []artifact.Environment{production}, Repositories: []string{"shop/**"}, CreatedBy: hostile, CreatedAt: noon, ExpiresAt: noon.Add(48 * time.Hour)},
		{ID: "bb22", Name: "job", Session: "workload:https://ci.example#" + hostile, Role: artifact.Pusher, More: []artifact.Binding{{Role: artifact.Promoter}}, CreatedAt: noon, ExpiresAt: noon.Add(2 * time.Hour), LastUsedAt: noon},
		{ID: "cc33", Name: "gone", Role: artifact.Reader, CreatedAt: noon, ExpiresAt: noon.Add(time.Hour * 900), RevokedAt: noon},
	}, nil
}

func (o *office) Revoke(_ context.Context, p artifact.Principal, id string) error {
	switch {
	case !p.Can(artifact.ActionManage, artifact.Repository{}):
		return artifact.Errorf(artifact.Denied, "no admin")
	case id == "last":
		return artifact.Errorf(artifact.Conflict, "it is the last of an admin")
	}
	o.did = append(o.did, "revoke "+id)
	return nil
}

func (o *office) Account(context.Context) (storage.Account, error) {
	other, _ := artifact.ParseRepository("bank/money")
	return storage.Account{CountedAt: noon, Blobs: 9, Bytes: 30 << 20, Shared: 10 << 20, Loose: 1 << 20, Quota: 100 << 20, Repositories: []storage.Holding{
		{Repository: repo, Blobs: 4, Bytes: 20 << 20, Own: 12 << 20, Quota: 21 << 20, Document: "shop"}, {Repository: other, Blobs: 5, Bytes: 17 << 20, Own: 7 << 20}}}, nil
}

func (o *office) Collect(_ context.Context, p artifact.Principal, dryRun bool) (registry.Collected, error) {
	if o.busy {
		return registry.Collected{}, artifact.Errorf(artifact.Conflict, "garbage collection is under way already")
	}
	if !dryRun {
		o.did = append(o.did, "collect by "+p.Name)
	}
	c := registry.Collected{DryRun: dryRun, Blobs: registry.Tally{Count: 70, Bytes: 70 << 20}, Freed: 70 << 20}
	for range 70 {
		c.Items = append(c.Items, registry.Item{Kind: "blob", Name: hidden.String(), Bytes: 1 << 20})
	}
	return c, nil
}

func (o *office) Run(_ context.Context, actor string, dryRun bool) (storage.Report, error) {
	if !dryRun {
		o.did = append(o.did, "retention by "+actor)
	}
	many := make([]storage.Removed, 40)
	for i := range many {
		many[i] = storage.Removed{Digest: hidden, Tags: []artifact.Tag{v456}, Bytes: 1 << 20, PushedAt: noon}
	}
	return storage.Report{DryRun: dryRun, Repositories: []storage.RepositoryReport{{Repository: repo, Document: "shop@1", Removed: many, Freed: 5 << 20}, {Repository: repo, Document: "shop@1", Removed: many, Freed: 5 << 20}}}, nil
}

func (o *office) Runs(_ context.Context, kind string, _ int) ([]storage.Run, error) {
	return []storage.Run{{Kind: kind, Actor: hostile, BeganAt: noon, EndedAt: noon, Problem: hostile, Outcome: storage.Outcome{Removed: 3, Freed: 4 << 20, Blobs: 8, Findings: 1,
		Found: []storage.Damage{{Kind: "bytes", Digest: hidden, Detail: hostile, Repositories: []artifact.Repository{repo}}}}}}, nil
}

// shelf holds the databases of an office.
type shelf struct{ *office }

func (shelf) AdvisoryDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return artifact.AdvisoryDatabase{Digest: digest, Schema: 2, UpdatedAt: noon.Add(-100 * time.Hour), ImportedAt: noon, ImportedBy: hostile}, true, nil
}

func (shelf) JavaDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return artifact.AdvisoryDatabase{}, false, nil
}

func (s shelf) AdvisoryDatabases(ctx context.Context, _ int) ([]artifact.AdvisoryDatabase, error) {
	d, _, err := s.AdvisoryDatabase(ctx)
	return []artifact.AdvisoryDatabase{d, {Digest: hidden, Schema: 2, UpdatedAt: noon.Add(-200 * time.Hour), ImportedAt: noon, ImportedBy: "system"}}, err
}

func (shelf) JavaDatabases(context.Context, int) ([]artifact.AdvisoryDatabase, error) {
	return nil, nil
}

func (shelf) LastPull(context.Context) (artifact.AdvisoryPull, bool, error) {
	return artifact.AdvisoryPull{Source: hostile, At: noon, Problem: hostile, Actor: "system"}, true, nil
}

func (shelf) LastJavaPull(context.Context) (artifact.AdvisoryPull, bool, error) {
	return artifact.AdvisoryPull{}, false, nil
}

func (shelf) NextPull(context.Context) (time.Time, error) { return noon.Add(3 * time.Hour), nil }
func (shelf) Source() string                              { return "ghcr.io/aquasecurity/trivy-db:2" }
func (shelf) JavaSource() string                          { return "" }
func (shelf) Key() string                                 { return "k9" }
func (shelf) MaxAge() time.Duration                       { return 72 * time.Hour }
func (shelf) Interval() time.Duration                     { return 6 * time.Hour }

func (shelf) Matched(context.Context) (artifact.ScanCoverage, error) {
	return artifact.ScanCoverage{Matched: 40, Outdated: 3, Failed: 1}, nil
}

func (s shelf) Pull(_ context.Context, p artifact.Principal, source string) (artifact.AdvisoryDatabase, error) {
	if s.busy {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Unavailable, "the registry is away: %s", hostile)
	}
	s.did = append(s.did, "pull "+source+" by "+p.Name)
	return artifact.AdvisoryDatabase{}, nil
}

// described is an OpenAPI document with what ours has, and what it should not.
const described = `{"openapi": "3.1.0", "paths": {
	"/api/v1/tokens": {
		"get": {"operationId": "list-tokens", "summary": "Tokens", "tags": ["Tokens"], "x-waybill-roles": ["admin"], "x-waybill-scope": "every repository",
			"parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 5, "default": 2}}, {"name": "ref", "in": "query", "required": true, "example": "shop/returns:v456", "description": "<script>", "schema": {"type": "string"}}],
			"responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TokenList"}}}}, "default": {"description": "A problem"}}},
		"post": {"operationId": "create-token", "summary": "Make one", "tags": ["Tokens"], "x-waybill-roles": ["admin"], "x-waybill-command": "waybill token create",
			"requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TokenRequest"}}}}, "responses": {}}},
	"/api/v1/things/{thing}": {"delete": {"operationId": "drop", "summary": "Drop", "tags": ["Things"], "parameters": [{"name": "thing", "in": "path", "required": true, "schema": {"type": "string"}}], "responses": {"204": {"description": "No Content"}}}}},
	"components": {"schemas": {
		"TokenList": {"type": "object", "required": ["tokens"], "properties": {"tokens": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Tree"}}, "by": {"type": "object", "additionalProperties": {"type": "integer"}}}},
		"Tree": {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}},
		"TokenRequest": {"type": "object", "required": ["role", "name", "when", "tree", "list"], "additionalProperties": false, "properties": {"role": {"type": "string", "enum": ["reader", "pusher"]}, "name": {"type": "string", "maxLength": 10, "examples": ["it's"]}, "when": {"type": "string", "format": "date-time"},
			"tree": {"$ref": "#/components/schemas/Tree"}, "list": {"type": "array", "items": {"type": "string"}}}}}}}`

func TestTokensPage(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("admin"))[1]
	_, page, _ := r.get("/tokens")
	for _, want := range []string{"deployer for production, in shop/**", "wbt_aa11_", "in 47 h", "expires soon", "never"} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "bb22")
	_, sessions, _ := r.get("/tokens?show=sessions")
	require.Contains(t, sessions, "pusher, in every repository<br>promoter, in every repository")
	_, ended, _ := r.get("/tokens?show=ended")
	require.Contains(t, ended, "cc33")
	require.NotContains(t, ended, "/tokens/revoke", "what has ended cannot end")
	_, none, _ := r.get("/tokens?q=NOTHING")
	require.Contains(t, none, "None like that")

	form := func(more ...string) url.Values {
		f := url.Values{"csrf": {value}, "name": {"ci <b>"}, "role": {"pusher"}, "repositories": {"shop/**\r\nbank/*"}, "days": {"30"}}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	status, made := r.post("/tokens", form())
	require.Equal(t, 200, status)
	require.Contains(t, made, "wbt_secret")
	harmless(t, made)
	_, page, _ = r.get("/tokens")
	require.NotContains(t, page, "wbt_secret", "it is shown once")
	for _, wrong := range [][]string{{"days", "x"}, {"days", "0"}, {"role", "deployer"}} {
		status, page := r.post("/tokens", form(wrong...))
		require.Equal(t, 400, status, wrong)
		require.Contains(t, page, "Nothing was done")
		require.Contains(t, page, "ci &lt;b&gt;", "what was typed is not lost")
		harmless(t, page)
	}
	_, page = r.post("/tokens/revoke", url.Values{"csrf": {value}, "id": {"aa11"}})
	require.Contains(t, page, "Revoked token aa11")
	status, page = r.post("/tokens/revoke", url.Values{"csrf": {value}, "id": {"last"}})
	require.Equal(t, 409, status)
	require.Contains(t, page, "the last of an admin")
	require.Equal(t, []string{"create ci <b> pusher shop/** bank/* until 2026-12-21", "revoke aa11"}, r.office.did)
}

func TestStoragePage(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("admin"))[1]
	_, page, _ := r.get("/storage?sort=own&q=SHOP")
	for _, want := range []string{"30 MiB</b> of 100 MiB, 30 %", "Sharing saves another 8 MiB", "95 %", "12 MiB", "removed 3, freed 4 MiB"} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "bank/money")
	_, page = r.post("/storage/gc", url.Values{"csrf": {value}, "do": {"dry"}})
	require.Contains(t, page, "It would free 70 MiB")
	require.Contains(t, page, "and 20 more")
	harmless(t, page)
	status, page, _ := r.get("/storage/gc")
	require.Equal(t, 200, status, "who asks for an answer again gets the page")
	require.NotContains(t, page, "It would free")
	_, page = r.post("/storage/retention", url.Values{"csrf": {value}, "do": {"dry"}})
	require.Contains(t, page, "It would remove 80 and keep 0; 10 MiB")
	require.Contains(t, page, "and 30 more")
	harmless(t, page)
	_, page = r.post("/storage/gc", url.Values{"csrf": {value}})
	require.Contains(t, page, "It would free", "nothing goes that nobody asked for in so many words")
	require.Empty(t, r.office.did)
	_, page = r.post("/storage/gc", url.Values{"csrf": {value}, "do": {"run"}})
	require.Contains(t, page, "removed 70 things, and freed 70 MiB")
	_, page = r.post("/storage/retention", url.Values{"csrf": {value}, "do": {"run"}})
	require.Contains(t, page, "Retention removed 80 manifests and tags of 2 repositories")
	require.Equal(t, []string{"collect by admin", "retention by admin"}, r.office.did)
	r.office.busy = true
	status, page = r.post("/storage/gc", url.Values{"csrf": {value}, "do": {"run"}})
	require.Equal(t, 409, status)
	require.Contains(t, page, "under way already")
}

// TestRepositoriesSayWhatTheyHold: that others hold the same is for who sees the others.
func TestRepositoriesSayWhatTheyHold(t *testing.T) {
	t.Parallel()
	for token, want := range map[string][]bool{"admin": {true, true}, "reader": {true, true}, "deployer": {false, false}, "shopper": {true, false}} {
		r := open(t, store{})
		r.signIn(token)
		_, page, _ := r.get("/repositories")
		require.Equal(t, want[0], strings.Contains(page, "20 MiB"), token)
		require.Equal(t, want[1], strings.Contains(page, ">Shared<"), token)
	}
}

func TestAdvisoriesPage(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("admin"))[1]
	_, page, _ := r.get("/advisories")
	for _, want := range []string{"too old", "older than 3 days", "in 2 h</time> at the latest", "k9", "40</b> of 44", "<b>4</b> are behind", "/advisories/pulls"} {
		require.Contains(t, page, want)
	}
	_, page = r.post("/advisories/pulls", url.Values{"csrf": {value}})
	require.Contains(t, page, "is in use here")
	require.Equal(t, []string{"pull  by admin"}, r.office.did)
	r.office.busy = true
	status, page := r.post("/advisories/pulls", url.Values{"csrf": {value}})
	require.Equal(t, 503, status)
	require.Contains(t, page, "the registry is away")
	harmless(t, page)

	r = open(t, store{})
	r.signIn("shopper")
	_, page, _ = r.get("/advisories")
	require.NotContains(t, page, "are behind", "how many images there are is for who sees them all")
	require.NotContains(t, page, "/advisories/pulls")
}

// TestManagersOnly: what an admin does, nobody else does by the same form.
func TestManagersOnly(t *testing.T) {
	t.Parallel()
	for token := range principals {
		r := open(t, store{})
		value := csrf.FindStringSubmatch(r.signIn(token))[1]
		for _, path := range []string{"/tokens", "/tokens/revoke", "/storage/gc", "/storage/retention", "/advisories/pulls"} {
			form := url.Values{"csrf": {"forged"}, "role": {"reader"}, "days": {"3"}, "id": {"aa11"}, "do": {"run"}}
			status, _ := r.post(path, form)
			require.Equal(t, 403, status, "%s %s: a form of another site's", token, path)
			require.Empty(t, r.office.did)
			form.Set("csrf", value)
			status, _ = r.post(path, form)
			if token == "admin" {
				require.Equal(t, 200, status, path)
				require.NotEmpty(t, r.office.did, path)
				r.office.did = nil
			} else {
				require.Equal(t, 403, status, "%s %s", token, path)
			}
		}
		require.Empty(t, r.office.did)
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	status, page, _ := r.get("/api/docs")
	require.Equal(t, 200, status, "the document is everybody's, and so is this")
	require.Contains(t, page, "3 of 3")
	require.Contains(t, page, `href="/api/docs/tokens#create-token"`)
	harmless(t, page)
	_, page, _ = r.get("/api/docs?q=ADMIN+create")
	require.Contains(t, page, "1 of 3")
	require.NotContains(t, page, "/api/v1/things")
	_, page, _ = r.get("/api/docs?q=%3Cscript%3E")
	require.Contains(t, page, "Nothing is like that")
	harmless(t, page)
	_, page, _ = r.get("/api/docs/tokens")
	harmless(t, page)
	for _, want := range []string{"For <b>admin</b>, whose token is for every repository", "at least 1, at most 5, 2 without it", `ref=shop%2Freturns%3Av456&#34;`, "list of <a href=\"#schema-Tree\">", "by name, integer", "waybill token create",
		`{&#34;list&#34;:[&#34;LIST&#34;],&#34;name&#34;:&#34;it&#39;\&#39;&#39;s&#34;,&#34;role&#34;:&#34;reader&#34;,&#34;tree&#34;:{},&#34;when&#34;:&#34;2030-01-31T12:00:00Z&#34;}`} {
		require.Contains(t, page, want)
	}
	_, page, _ = r.get("/api/docs/things")
	require.Contains(t, page, "For anybody, without a token")
	require.Contains(t, page, `curl -X DELETE &#34;$WAYBILL_URL/api/v1/things/THING&#34;`)
	status, page, _ = r.get("/api/docs/%3Cscript%3E")
	require.Equal(t, 404, status)
	harmless(t, page)
}
