package web_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
	"waybill/web"
)

var (
	noon    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	repo, _ = artifact.ParseRepository("shop/returns")
	v456, _ = artifact.ParseTag("v456")
	dev, _  = artifact.ParseEnvironment("dev")

	production, _ = artifact.ParseEnvironment("production")

	digest     = artifact.DigestOf([]byte("image"))
	hidden     = artifact.DigestOf([]byte("hidden"))
	refused    = artifact.DigestOf([]byte("refused"))
	forgotten  = artifact.DigestOf([]byte("refused, and nothing kept"))
	configBody = []byte(`{"config":{"User":"1000","Labels":{"<b>":"<script>alert(1)</script>"},"Entrypoint":["/app"]},"rootfs":{"type":"layers","diff_ids":["` + digest.String() + `"]},"history":[{"created_by":"COPY <i>"}]}`)
	bad        = artifact.TurnedBad{Repository: repo, Digest: digest, Response: artifact.RespondAlert, Reasons: []artifact.Reason{{Rule: "max-severity", Message: hostile}}, LedgerIndex: 42, Since: noon}
	hostile    = "<script>alert(2)</script>"
)

// store is the rows of one image; empty has none.
type store struct {
	web.Store // of what no test here asks for
	empty     bool
	recalled  bool
	fresh     bool // nothing was ever promoted
}

func (s store) StatusOf(context.Context, []artifact.Repository) ([]artifact.Status, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.Status{{Deployment: artifact.Deployment{Repository: repo, Environment: dev, Digest: digest, Version: "v456", Since: noon, Actor: "ada", Reason: hostile},
		Verdict: artifact.Allow, Scan: artifact.Scanned, Counts: map[artifact.Severity]int{artifact.Critical: 2}, Signed: true, Bad: &bad}}, nil
}

func (s store) Cells(context.Context) ([]artifact.Cell, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.Cell{{Repository: repo, Environment: dev, Digest: digest, Version: "v456", Since: noon, Denied: true, Severe: true}}, nil
}

func (s store) Deployments(context.Context, artifact.Repository) ([]artifact.Deployment, error) {
	return []artifact.Deployment{{Repository: repo, Environment: dev, Digest: digest, Version: "v456", Since: noon}}, nil
}

func (s store) TagPage(context.Context, artifact.Repository, string, int, int) ([]artifact.TagAt, int, error) {
	other, _ := artifact.ParseTag("unpromoted")
	return []artifact.TagAt{{Name: v456, Digest: digest}, {Name: other, Digest: hidden}}, 2, nil
}

func (s store) RecentPushes(_ context.Context, o artifact.Outcome, _ int) ([]artifact.PushRecord, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.PushRecord{{Repository: repo, Digest: digest, Reference: "v456", Outcome: o, Actor: "ci", At: noon, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile}}}}, nil
}

func (s store) RecentPushesTo(context.Context, []artifact.Repository, artifact.Outcome, int) ([]artifact.PushRecord, error) {
	return nil, nil
}

func (s store) Repositories(context.Context) ([]artifact.Repository, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.Repository{repo}, nil
}

func (s store) Tags(context.Context, artifact.Repository) ([]struct {
	Name   artifact.Tag
	Digest artifact.Digest
}, error) {
	other, _ := artifact.ParseTag("unpromoted")
	return []struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}{{v456, digest}, {other, hidden}}, nil
}

func (s store) Manifest(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	if d == refused || d == forgotten {
		return artifact.StoredManifest{}, artifact.Errorf(artifact.NotFound, "no such manifest")
	}
	return artifact.StoredManifest{Repository: repo, Digest: digest, Body: []byte("{}"), IsImage: true, Platform: "linux/amd64", PushedBy: "ci", PushedAt: noon, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest,
		Config: &artifact.Descriptor{Digest: artifact.DigestOf(configBody)}, Layers: []artifact.Descriptor{{Digest: digest, Size: 3 << 20}}}}, nil
}

func (s store) TagsOf(context.Context, artifact.Repository, artifact.Digest) ([]artifact.Tag, error) {
	return []artifact.Tag{v456}, nil
}

func (store) DeniedPush(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.DeniedPush, error) {
	denied := artifact.DeniedPush{Verdict: artifact.VerdictRecord{Repository: repo, Digest: d, Outcome: artifact.Deny, Policies: []string{"baseline@1"}, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile}}},
		Reference: "bad", Actor: hostile, At: noon, LedgerIndex: 77, Manifest: artifact.StoredManifest{Repository: repo, Digest: d}}
	if d == refused {
		denied.Config = configBody
		denied.Manifest = artifact.StoredManifest{Repository: repo, Digest: d, IsImage: true, Platform: "linux/amd64", Body: []byte(`{"schemaVersion":2}`),
			Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest, Config: &artifact.Descriptor{Digest: artifact.DigestOf(configBody)}, Layers: []artifact.Descriptor{{Digest: digest, Size: 3 << 20}}}}
	}
	return denied, nil
}

func (store) DeniedByPrefix(_ context.Context, _ artifact.Repository, hex string) ([]artifact.Digest, error) {
	if !strings.HasPrefix(refused.Hex(), hex) {
		return nil, nil
	}
	return []artifact.Digest{refused}, nil
}

func (store) DeniedTag(_ context.Context, _ artifact.Repository, tag artifact.Tag) (artifact.Digest, bool, error) {
	return refused, tag.String() == "bad", nil
}

func (store) DeniedPushes(context.Context, artifact.Repository, int) ([]artifact.PushRecord, error) {
	return []artifact.PushRecord{{Repository: repo, Digest: refused, Reference: "bad", Outcome: artifact.Deny, Actor: hostile, At: noon, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile}}}}, nil
}

func (s store) RecallOf(context.Context, artifact.Repository, artifact.Digest) (artifact.Recall, bool, error) {
	return artifact.Recall{Actor: "token:grace/1", Reason: hostile, At: noon, Advisory: "https://status.example/7"}, s.recalled, nil
}

func (store) TurnedBad(context.Context, artifact.Repository, artifact.Digest) (artifact.TurnedBad, bool, error) {
	return bad, true, nil
}

func (s store) RefusedVerdict(context.Context, artifact.Repository, string) (artifact.VerdictRecord, error) {
	return artifact.VerdictRecord{Outcome: artifact.Allow, Policies: []string{"baseline@1"}, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile, Warning: true}}}, nil
}

func (s store) Scan(context.Context, artifact.Digest) (artifact.Scan, error) {
	return artifact.Scan{State: artifact.Scanned, ScannedAt: noon, DatabaseUpdatedAt: noon, Packages: []artifact.Package{{Name: "libssl3"}, {Name: "perl"}},
		Findings: []artifact.Finding{{ID: "CVE-2024-24790", Severity: artifact.Critical, Title: hostile}}, Counts: map[artifact.Severity]int{artifact.Critical: 1}}, nil
}

func (s store) Signatures(context.Context, artifact.Repository, artifact.Digest) ([]artifact.SignatureRecord, error) {
	return []artifact.SignatureRecord{{KeyID: strings.Repeat("a", 64), SignedAt: noon}}, nil
}

func (s store) Referrers(context.Context, artifact.Repository, artifact.Digest) ([]artifact.Descriptor, error) {
	return []artifact.Descriptor{{ArtifactType: hostile, Digest: hidden, Size: 100}}, nil
}

func (s store) HistoryPage(ctx context.Context, r artifact.Repository, _, _ int) ([]artifact.Promotion, int, error) {
	all, err := s.History(ctx, r)
	return all, len(all), err
}

func (s store) History(context.Context, artifact.Repository) ([]artifact.Promotion, error) {
	if s.fresh {
		return nil, nil
	}
	return []artifact.Promotion{{Action: "promote", Repository: repo, Environment: dev, Digest: digest, Version: "v456", Actor: "ada", Reason: "release 47", LedgerIndex: 12, At: noon}}, nil
}

func (s store) PromotionsAfter(context.Context, time.Time, int) ([]artifact.Promotion, error) {
	return nil, nil
}

func (s store) PromotionsUntil(context.Context, time.Time, int) ([]artifact.Promotion, error) {
	return []artifact.Promotion{{Action: "promote", Repository: repo, Environment: dev, Digest: digest, Version: "v456", Actor: "token:ada/1", Reason: hostile, At: noon}}, nil
}

func (s store) FirstPromotion(context.Context) (time.Time, bool, error) { return noon, !s.empty, nil }

func (s store) DeploymentsAt(_ context.Context, _ []artifact.Repository, at time.Time) ([]artifact.Deployment, error) {
	if at.Before(noon) {
		return nil, nil
	}
	return []artifact.Deployment{{Repository: repo, Environment: dev, Digest: hidden, Version: "v455", Since: noon, Actor: "ada", Reason: hostile}}, nil
}

func (s store) Leads(_ context.Context, _ []artifact.Repository, pairs [][2]artifact.Environment) ([]artifact.Lead, error) {
	return []artifact.Lead{{Repository: repo, Ahead: dev, Behind: production, By: 3}}, nil
}

func (s store) ApprovalsOf(context.Context, []artifact.Deployment) ([]artifact.Approval, error) {
	return nil, nil
}

func (s store) DigestsByPrefix(_ context.Context, _ artifact.Repository, hex string) (all []artifact.Digest, err error) {
	for _, d := range []artifact.Digest{digest, hidden} {
		if strings.HasPrefix(d.Hex(), hex) {
			all = append(all, d)
		}
	}
	return all, nil
}

func (s store) ResolveTag(_ context.Context, _ artifact.Repository, tag artifact.Tag) (artifact.Digest, error) {
	if tag.String() == "bad" || tag.String() == "never" {
		return artifact.Digest{}, artifact.Errorf(artifact.NotFound, "there is no tag %s", tag)
	}
	return digest, nil
}

func (s store) Pulls(context.Context, artifact.PullFilter) ([]artifact.PullDay, error) {
	return []artifact.PullDay{{Day: noon, Repository: repo, Digest: digest, Principal: hostile, Pulls: 7, Last: noon}}, nil
}

func (s store) TagHistory(context.Context, artifact.Repository, artifact.Tag) ([]artifact.TagChange, error) {
	return []artifact.TagChange{{Digest: digest, Actor: hostile, At: noon}}, nil
}

func (s store) Affected(context.Context, string, artifact.Digest, int) ([]artifact.Affected, artifact.Digest, error) {
	return []artifact.Affected{{Repository: repo, Digest: digest, Tags: []artifact.Tag{v456}, Findings: []artifact.Finding{{ID: "CVE-2024-24790", Title: hostile, Severity: artifact.High}}, FoundAt: noon,
		RunsIn: []artifact.Affecting{{Environment: dev, Digest: digest, Version: "v456", Since: noon}}}}, artifact.Digest{}, nil
}

func (s store) Changed(time.Time) <-chan struct{} {
	changed := make(chan struct{})
	close(changed)
	return changed
}

// desk is the use cases of promotion, with one pipeline; did is what it was asked to do.
type desk struct {
	pipeline promotion.Pipeline
	did      []string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	all, err := promotion.Parse("test", []byte(`{apiVersion: waybill/v1, kind: Pipeline, metadata: {name: test}, spec: {match: {repositories: ["**"]}, environments: [{name: dev},
		{name: production, requires: {after: [dev], soak: 1h, approvals: {count: 2, role: approver}}}]}}`))
	require.NoError(t, err)
	return &desk{pipeline: all[0]}
}

func (d *desk) All(context.Context) ([]promotion.Versioned, error) {
	return []promotion.Versioned{{Pipeline: d.pipeline, Version: 3}}, nil
}

func (d *desk) Pipeline(context.Context, artifact.Repository) (promotion.Pipeline, error) {
	return d.pipeline, nil
}

func (d *desk) Preview(_ context.Context, p artifact.Principal, r promotion.Request) (promotion.Preview, error) {
	if !p.Can(artifact.ActionLook, r.Repository) {
		return promotion.Preview{}, p.Refusal(artifact.ActionLook, r.Repository)
	}
	stage, _ := d.pipeline.Stage(r.Environment)
	v := promotion.Preview{Pipeline: "test", Repository: r.Repository, Environment: r.Environment, Digest: digest, Version: "v456", Approvals: stage.Requires.Approvals,
		Current: artifact.Deployment{Repository: repo, Environment: r.Environment, Digest: hidden, Version: "v455", Since: noon, Actor: hostile}}
	for _, asks := range stage.Asks() {
		v.Gates = append(v.Gates, promotion.GateState{Rule: "rule", Asks: asks})
	}
	v.Gates[0].Unmet = []artifact.Reason{{Rule: "no-sshd", Message: hostile}}
	return v, nil
}

func (d *desk) Promote(_ context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error) {
	if !p.CanPromote(r.Repository, r.Environment) {
		return promotion.Result{}, artifact.Errorf(artifact.Denied, "no promoter")
	}
	if r.Reason == "refuse" {
		return promotion.Result{}, &artifact.Error{Kind: artifact.Denied, Message: "gates " + hostile, Reasons: []artifact.Reason{{Rule: "after", Message: hostile}}}
	}
	d.did = append(d.did, "promote "+r.Version)
	return promotion.Result{Promotion: artifact.Promotion{Digest: digest, Version: hostile, LedgerIndex: 9}}, nil
}

func (d *desk) Trail(_ context.Context, p artifact.Principal, r artifact.Repository, _ artifact.Environment) ([]artifact.Promotion, error) {
	if !p.Can(artifact.ActionLook, r) {
		return nil, p.Refusal(artifact.ActionLook, r)
	}
	return []artifact.Promotion{{Repository: repo, Environment: dev, Digest: hidden, Version: "v455", Actor: hostile, At: noon}}, nil
}

func (d *desk) RollbackTo(_ context.Context, _ artifact.Principal, r promotion.Request) (promotion.Result, error) {
	d.did = append(d.did, "rollback "+r.Version)
	return promotion.Result{Promotion: artifact.Promotion{Digest: hidden, Version: "v455", LedgerIndex: 10}}, nil
}

func (d *desk) Recall(_ context.Context, _ artifact.Principal, _ artifact.Repository, one artifact.Digest, reason, _ string) error {
	if reason == "" {
		return artifact.Errorf(artifact.Invalid, "a recall needs a reason")
	}
	d.did = append(d.did, "recall "+one.String())
	return nil
}

func (d *desk) Approve(_ context.Context, p artifact.Principal, r promotion.Request) (artifact.Approval, error) {
	d.did = append(d.did, "approve "+r.Version+" by "+p.Name)
	return artifact.Approval{ID: 3, Digest: digest, Version: "v456"}, nil
}

func (d *desk) Waiting(_ context.Context, sees func(artifact.Repository) bool) ([]promotion.Waiting, error) {
	if !sees(repo) {
		return nil, nil
	}
	return []promotion.Waiting{{Repository: repo, Environment: production, Digest: digest, Version: hostile, Gate: promotion.ApprovalGate{Count: 2, Role: artifact.Approver}}}, nil
}

// facts are of a layer that holds more than another hides.
type facts struct{}

func (facts) Layer(_ context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	return artifact.LayerFacts{Format: artifact.FactsFormat, Digest: d.Digest, DiffID: digest, Compressed: d.Size, Uncompressed: 9 << 20, Files: []artifact.File{
		{Path: "usr", Type: artifact.Dir}, {Path: "usr/lib", Type: artifact.Dir}, {Path: "usr/lib/<script>", Type: artifact.Regular, Size: 6 << 20}, {Path: "app", Type: artifact.Regular, Size: 2 << 20}}}, nil
}

// book is a ledger of one entry.
type book struct{}

func (book) Entries(context.Context, int64, int) ([]web.LedgerEntry, error) {
	return []web.LedgerEntry{{Index: 0, Body: []byte(`{"actor":"<script>","at":"2026-11-21T12:00:00Z","kind":"promotion","reason":"<script>"}`)}}, nil
}

func (book) Checkpoint(context.Context) (web.LedgerCheckpoint, error) {
	return web.LedgerCheckpoint{Size: 1, Root: "cm9vdA==", Note: "note"}, nil
}

func (book) Proof(context.Context, int64, int64) ([][]byte, error) { return [][]byte{}, nil }

func (book) Consistency(context.Context, int64, int64) ([][]byte, error) { return nil, nil }

func (book) Verifier() string { return "waybill+00000000+AQ==" }

// gate grants a deployer the one digest.
type gate struct{}

func (gate) Filter(_ context.Context, p artifact.Principal, r artifact.Repository, all []artifact.Digest) (map[artifact.Digest]bool, error) {
	allowed := map[artifact.Digest]bool{}
	for _, d := range all {
		allowed[d] = p.Can(artifact.ActionPull, r) || d == digest && p.Role == artifact.Deployer
	}
	return allowed, nil
}

func (gate) Repositories(_ context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error) {
	var known []artifact.Repository
	for _, r := range all {
		if p.Sees(r) {
			known = append(known, r)
		}
	}
	return known, nil
}

var principals = map[string]artifact.Principal{
	"admin":        {Name: "admin", Role: artifact.Admin},
	"deployer":     {Name: "node", Role: artifact.Deployer, Environments: []artifact.Environment{dev}},
	"approver":     {Name: "grace", Role: artifact.Approver},
	"reader":       {Name: "rita", Role: artifact.Reader},
	"auditor":      {Name: "otto", Role: artifact.Auditor},
	"pusher":       {Name: "ci", Role: artifact.Pusher},
	"bank-auditor": {Name: "bea", Role: artifact.Auditor, Repositories: []string{"bank/**"}},
	"stranger":     {Name: "stranger", Role: artifact.Reader, Repositories: []string{"bank/**"}},
	"shopper":      {Name: "shopper", Role: artifact.Reader, Repositories: []string{"shop/**"}},
}

// reader is a browser without scripts.
type reader struct {
	t      *testing.T
	client *http.Client
	url    string
	desk   *desk
	office *office
	stop   func() // waits for what is under way
	rules  *rulebook
	yard   *yard
}

func open(t *testing.T, s web.Store) *reader {
	t.Helper()
	return openLogging(t, s, slog.New(slog.DiscardHandler))
}

func openLogging(t *testing.T, s web.Store, logger *slog.Logger) *reader {
	t.Helper()
	d, o, rules, builds := newDesk(t), &office{}, &rulebook{}, &yard{}
	w, err := web.New(web.Config{Store: s, Gate: gate{}, Promotions: d, Tokens: o, Accounts: o, Upkeep: o, Advisories: shelf{o}, Description: func() ([]byte, error) { return []byte(described), nil }, Policies: rules, Builds: builds, Facts: facts{}, Ledger: book{}, SessionKey: make([]byte, 32), Logger: logger, Now: func() time.Time { return noon.Add(time.Hour) },
		Authenticate: func(_ context.Context, token string) (artifact.Principal, error) {
			p, ok := principals[token]
			if !ok || o.revoked.Load() {
				return p, artifact.Errorf(artifact.Unauthentic, "unknown")
			}
			return p, nil
		},
		Environments: func(context.Context) ([]artifact.Environment, error) {
			return []artifact.Environment{dev, production}, nil
		},
		Blob: func(context.Context, artifact.Repository, artifact.Digest) ([]byte, error) { return configBody, nil }})
	require.NoError(t, err)
	gin.SetMode(gin.TestMode)
	engine := gin.New()
	w.Mount(engine)
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	jar, _ := cookiejar.New(nil)
	return &reader{t, &http.Client{Jar: jar}, server.URL, d, o, server.Close, rules, builds}
}

func (r *reader) get(path string) (int, string, http.Header) {
	r.t.Helper()
	resp, err := r.client.Get(r.url + path)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(b), resp.Header
}

func (r *reader) post(path string, form url.Values) (int, string) {
	r.t.Helper()
	resp, err := r.client.PostForm(r.url+path, form)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

var csrf = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (r *reader) signIn(token string) string {
	r.t.Helper()
	_, page, _ := r.get("/login")
	_, page = r.post("/login", url.Values{"token": {token}, "csrf": {csrf.FindStringSubmatch(page)[1]}})
	return page
}

func TestPages(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	_, page, header := r.get("/")
	require.Contains(t, page, "Sign in", "nobody sees a page without a session")
	require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, r.signIn("wrong"), "not valid")
	board := r.signIn("admin")
	for _, want := range []string{"turned bad: alert", "shop/returns", "v456", "2 critical", "signed", "1 h ago", "no-sshd"} {
		require.Contains(t, board, want)
	}
	status, story, _ := r.get("/d/shop/returns@" + digest.String() + "?q=SSL")
	require.Equal(t, 200, status)
	for _, want := range []string{"Turned bad", "ledger entry 42", digest.String(), "CVE-2024-24790", "ledger entry 12", "release 47", "cosign verify --key waybill.pub", "libssl3", "1 of 2", "3 MiB", "COPY &lt;i&gt;"} {
		require.Contains(t, story, want)
	}
	require.NotContains(t, story, "perl")
	status, short, _ := r.get("/d/shop/returns@" + digest.Short())
	require.Equal(t, 200, status)
	require.Contains(t, short, digest.String(), "the first digits are enough")
	status, _, _ = r.get("/d/shop/returns@" + strings.Repeat("0", 12))
	require.Equal(t, 404, status)
	_, tags, _ := r.get("/r/shop/returns")
	require.Contains(t, tags, "unpromoted")
	for _, page := range []string{board, story, tags} {
		harmless(t, page)
	}
	for _, path := range []string{"/r/Bad", "/d/shop/returns@sha256:1"} {
		status, page, _ := r.get(path)
		require.Equal(t, 400, status, path)
		harmless(t, page)
	}
}

// harmless: what users wrote is text, and nothing comes from elsewhere.
func harmless(t *testing.T, page string) {
	t.Helper()
	require.Equal(t, 1, strings.Count(page, "<script"), "ours alone")
	require.Contains(t, page, `<script type="module" src="/assets/`)
	require.NotRegexp(t, `(src|href|action)="(https?:)?//`, page)
	require.NotRegexp(t, `\son[a-z]+=|style=`, page, "a strict Content-Security-Policy forbids them")
}

// TestEveryPage: every page renders what is hostile as text, for whoever may see it, and says no to the others.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	at := "/?at=" + noon.Format(time.RFC3339)
	promote := "/promote?service=shop/returns&environment=production&version=v456"
	recall := "/recall?ref=shop/returns@" + digest.String()
	for path, want := range map[string]struct {
		says   string
		denied []string
	}{
		"/":                                     {"dev has", nil},
		"/?show=behind":                         {"3 ahead", nil},
		"/?show=bad&q=RETURNS":                  {"turned bad", nil},
		"/?q=nothing-like-it":                   {"Show all 1", nil},
		at:                                      {"v455", nil},
		"/?at=0":                                {"What ran where", nil},
		"/d/shop/returns:v456":                  {"Its journey", []string{"stranger"}},
		"/d/shop/returns@" + refused.String():   {"It is not stored", []string{"deployer", "stranger"}},
		"/d/shop/returns@" + forgotten.String(): {"nothing but the verdict", []string{"deployer", "stranger"}},
		"/repositories":                         {"shop/returns", nil},
		"/r/shop/returns?tag=v456":              {"What tag v456 stood at", []string{"stranger"}},
		promote:                                 {"1 of 6 gates is not met", []string{"deployer", "stranger"}},
		"/approvals":                            {"Waiting for others", []string{"deployer"}},
		"/rollback?service=shop/returns&environment=dev": {"ran from", []string{"deployer", "stranger"}},
		recall:                    {"for ever", []string{"deployer", "stranger"}},
		"/pipelines":              {"It has been in dev for 1h", []string{"deployer"}},
		"/cves":                   {"Where does it run?", nil},
		"/cves?id=CVE-2024-24790": {"1 environment runs it", nil},
		"/compare":                {"Compare", nil},
		"/compare?from=shop/returns:v1&to=shop/returns:v2": {"The same", []string{"stranger"}},
		"/ledger":               {"Do not believe it", []string{"deployer", "stranger", "shopper", "reader", "approver", "pusher"}},
		"/tokens":               {"New token", []string{"deployer", "stranger", "shopper", "reader", "approver", "auditor", "pusher"}},
		"/tokens?show=sessions": {"wbt_bb22_", []string{"deployer", "stranger", "shopper", "reader", "approver", "auditor", "pusher"}},
		"/storage":              {"Garbage collection", []string{"deployer", "stranger", "shopper", "reader", "approver", "auditor", "pusher"}},
		"/advisories":           {"Bring a newer one", []string{"deployer"}},
		"/api/docs":             {"How to ask", nil},
		"/api/docs/tokens":      {"What is sent and answered", nil},

		"/policies":                         {"There is no ssh daemon in the image", []string{"deployer"}},
		"/policies?new=yes":                 {"New policy", []string{"deployer", "stranger", "shopper", "reader", "approver", "pusher"}},
		"/policies/shop?version=1":          {"not in force", []string{"deployer"}},
		"/policies/shop?from=1&to=2":        {"From version 1 to version 2", []string{"deployer"}},
		"/builds":                           {"shop/returns:v456", []string{"deployer"}},
		"/builds/DONE":                      {"It came to nothing", []string{"deployer", "stranger"}},
		"/builds/RUNS":                      {"Cancel this build", []string{"deployer", "stranger"}},
		"/audit":                            {"Everything in the ledger", []string{"deployer", "stranger", "shopper", "reader", "approver", "pusher"}},
		"/audit?view=pulls&from=2026-11-01": {"Every pull from 2026-11-01", []string{"deployer", "stranger", "shopper", "reader", "approver", "pusher"}},
	} {
		for token := range principals {
			if token == "bank-auditor" {
				continue // see TestAudit
			}
			r := open(t, store{})
			r.signIn(token)
			status, page, header := r.get(path)
			harmless(t, page)
			require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'; script-src 'self'")
			require.Less(t, len(page), 150<<10)
			if slices.Contains(want.denied, token) {
				require.Equal(t, 403, status, "%s %s: %s", token, path, page)
			} else {
				require.Equal(t, 200, status, "%s %s: %s", token, path, page)
			}
			if token == "admin" {
				require.Contains(t, page, want.says, path)
			}
		}
	}
	r := open(t, store{})
	r.signIn("admin")
	for _, path := range []string{"/?at=tomorrow", "/?at=2999-01-01", "/cves?id=<script>", "/cves?id=A&after=x", "/compare?from=x&to=<script>", "/promote?service=A&environment=dev", "/recall?ref=shop/returns:v1", "/ledger?before=x", "/ledger/proofs?from=0&to=1000", "/events?since=x", "/policies/shop?version=x", "/policies/shop?from=-1"} {
		status, page, _ := r.get(path)
		require.Equal(t, 400, status, path)
		harmless(t, page)
	}
}

// TestActs: what is done by a form is done with the session's value only, to the digest that was shown, and told once.
func TestActs(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("admin"))[1]
	form := func(more ...string) url.Values {
		f := url.Values{"csrf": {value}, "service": {"shop/returns"}, "environment": {"dev"}, "digest": {digest.String()}, "ref": {"shop/returns@" + digest.String()}}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	for _, path := range []string{"/promote", "/approvals", "/rollback", "/recall"} {
		for _, forged := range []string{"", "forged", value + "x"} {
			status, page := r.post(path, form("csrf", forged, "reason", "because"))
			require.Equal(t, 403, status, "%s: %s", path, page)
		}
		status, _ := r.post(path, form("reason", strings.Repeat("a", 20<<10)))
		require.Equal(t, 403, status, "%s with too much", path)
	}
	require.Empty(t, r.desk.did)

	status, page := r.post("/promote", form("reason", "because", "version", "v999"))
	require.Equal(t, 200, status)
	require.Contains(t, page, "It is entry 9 of the ledger")
	harmless(t, page)
	_, page, _ = r.get("/")
	require.NotContains(t, page, "entry 9", "it is told once")
	status, page = r.post("/promote", form("reason", "refuse"))
	require.Equal(t, 403, status)
	require.Contains(t, page, "It was not promoted")
	require.Contains(t, page, ">refuse</textarea>", "what was written is not lost")
	harmless(t, page)

	status, page = r.post("/rollback", form("digest", hidden.String()))
	require.Equal(t, 400, status)
	require.Contains(t, page, "Say why")
	_, page = r.post("/rollback", form("digest", hidden.String(), "reason", "slow"))
	require.Contains(t, page, "back to v455")
	status, page = r.post("/recall", form())
	require.Equal(t, 400, status)
	require.Contains(t, page, "a recall needs a reason")
	_, page = r.post("/recall", form("reason", "leaks"))
	require.Contains(t, page, "no environment may pull it any more")
	_, page = r.post("/approvals", form("reason", "fine"))
	require.Contains(t, page, "The approval has number 3")
	require.Equal(t, []string{"promote " + digest.String(), "rollback " + hidden.String(), "recall " + digest.String(), "approve " + digest.String() + " by admin"}, r.desk.did)

	r = open(t, store{})
	value = csrf.FindStringSubmatch(r.signIn("reader"))[1]
	status, _ = r.post("/promote", form("csrf", value))
	require.Equal(t, 403, status)
	require.Empty(t, r.desk.did)
}

// TestEvents: a page is told that something changed, and nothing of what.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	r.signIn("deployer")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/events?since=0", nil)
	require.NoError(t, err)
	resp, err := r.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "event: changed" {
		require.NotContains(t, lines.Text(), "shop")
	}
	require.NoError(t, lines.Err())
}

func TestSeesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	board := r.signIn("deployer")
	require.Contains(t, board, "v456")
	require.NotContains(t, board, "no-sshd", "who was denied is not a deployer's business")
	for _, untrue := range []string{"Lately", "Denied", "Nothing was denied", `<th scope="col">production</th>`, "on its way", "your approval"} {
		require.NotContains(t, board, untrue, "what is not told is not said to be none")
	}
	for path, status := range map[string]int{"/d/shop/returns:v456": 200, "/d/shop/returns:bad": 403, "/d/shop/returns:never": 403} {
		got, page, _ := r.get(path)
		require.Equal(t, status, got, path)
		require.NotContains(t, page, "no tag")
	}
	_, tags, _ := r.get("/r/shop/returns")
	require.Contains(t, tags, "v456")
	require.NotContains(t, tags, "unpromoted")
	status, _, _ := r.get("/d/shop/returns@" + hidden.String())
	require.Equal(t, 403, status)

	r = open(t, store{})
	require.NotContains(t, r.signIn("stranger"), `"/r/shop/returns"`)
	status, _, _ = r.get("/r/shop/returns")
	require.Equal(t, 403, status)
	status, _, _ = r.get("/d/shop/returns@" + digest.String())
	require.Equal(t, 403, status)
}

func TestSession(t *testing.T) {
	t.Parallel()
	r := open(t, store{empty: true})
	require.Contains(t, r.signIn("admin"), "Nothing is here yet")
	status, page := r.post("/login", url.Values{"token": {"admin"}})
	require.Equal(t, 403, status, "a form of another site's: %s", page)
	r.post("/logout", url.Values{"csrf": {"forged"}})
	_, page, _ = r.get("/")
	require.Contains(t, page, "What runs where", "a forged logout does nothing")
	_, page = r.post("/logout", url.Values{"csrf": {csrf.FindStringSubmatch(page)[1]}})
	require.Contains(t, page, "Sign in")
	address, _ := url.Parse(r.url)
	r.client.Jar.SetCookies(address, []*http.Cookie{{Name: "waybill_session", Value: strings.Repeat("A", 80)}})
	_, page, _ = r.get("/")
	require.Contains(t, page, "Sign in", "a made-up cookie is none")
}
