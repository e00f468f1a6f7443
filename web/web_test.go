package web_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/web"
)

var (
	noon       = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	repo, _    = artifact.ParseRepository("shop/returns")
	v456, _    = artifact.ParseTag("v456")
	dev, _     = artifact.ParseEnvironment("dev")
	digest     = artifact.DigestOf([]byte("image"))
	hidden     = artifact.DigestOf([]byte("hidden"))
	configBody = []byte(`{"config":{"User":"1000","Labels":{"<b>":"<script>alert(1)</script>"},"Entrypoint":["/app"]},"rootfs":{"type":"layers","diff_ids":["` + digest.String() + `"]},"history":[{"created_by":"COPY <i>"}]}`)
	bad        = artifact.TurnedBad{Repository: repo, Digest: digest, Response: artifact.RespondAlert, Reasons: []artifact.Reason{{Rule: "max-severity", Message: hostile}}, LedgerIndex: 42, Since: noon}
	hostile    = "<script>alert(2)</script>"
)

// store is the rows of one image; empty has none.
type store struct{ empty bool }

func (s store) Status(context.Context) ([]artifact.Status, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.Status{{Deployment: artifact.Deployment{Repository: repo, Environment: dev, Digest: digest, Version: "v456", Since: noon, Actor: "ada", Reason: hostile},
		Verdict: artifact.Allow, Scan: artifact.Scanned, Counts: map[artifact.Severity]int{artifact.Critical: 2}, Signed: true, Bad: &bad}}, nil
}

func (s store) RecentPushes(_ context.Context, o artifact.Outcome, _ int) ([]artifact.PushRecord, error) {
	if s.empty {
		return nil, nil
	}
	return []artifact.PushRecord{{Repository: repo, Digest: digest, Reference: "v456", Outcome: o, Actor: "ci", At: noon, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile}}}}, nil
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

func (s store) Manifest(context.Context, artifact.Repository, artifact.Digest) (artifact.StoredManifest, error) {
	return artifact.StoredManifest{Repository: repo, Digest: digest, IsImage: true, Platform: "linux/amd64", PushedBy: "ci", PushedAt: noon, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest,
		Config: &artifact.Descriptor{Digest: artifact.DigestOf(configBody)}, Layers: []artifact.Descriptor{{Digest: digest, Size: 3 << 20}}}}, nil
}

func (s store) TagsOf(context.Context, artifact.Repository, artifact.Digest) ([]artifact.Tag, error) {
	return []artifact.Tag{v456}, nil
}

func (store) Recalled(context.Context, artifact.Repository, artifact.Digest) (actor, reason string, ok bool, err error) {
	return "", "", false, nil
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

func (s store) History(context.Context, artifact.Repository) ([]artifact.Promotion, error) {
	return []artifact.Promotion{{Action: "promote", Repository: repo, Environment: dev, Digest: digest, Version: "v456", Actor: "ada", Reason: "release 47", LedgerIndex: 12, At: noon}}, nil
}

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
	"admin":    {Name: "admin", Role: artifact.Admin},
	"deployer": {Name: "node", Role: artifact.Deployer, Environments: []artifact.Environment{dev}},
	"stranger": {Name: "stranger", Role: artifact.Reader, Repositories: []string{"bank/**"}},
}

// reader is a browser without scripts.
type reader struct {
	t      *testing.T
	client *http.Client
	url    string
}

func open(t *testing.T, s store) *reader {
	t.Helper()
	w, err := web.New(web.Config{Store: s, Gate: gate{}, SessionKey: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return noon.Add(time.Hour) },
		Authenticate: func(_ context.Context, token string) (artifact.Principal, error) {
			p, ok := principals[token]
			if !ok {
				return p, artifact.Errorf(artifact.Unauthentic, "unknown")
			}
			return p, nil
		},
		Environments: func(context.Context) ([]artifact.Environment, error) { return []artifact.Environment{dev}, nil },
		Blob:         func(context.Context, artifact.Repository, artifact.Digest) ([]byte, error) { return configBody, nil }})
	require.NoError(t, err)
	gin.SetMode(gin.TestMode)
	engine := gin.New()
	w.Mount(engine)
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	jar, _ := cookiejar.New(nil)
	return &reader{t, &http.Client{Jar: jar}, server.URL}
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
	_, tags, _ := r.get("/r/shop/returns")
	require.Contains(t, tags, "unpromoted")
	for _, page := range []string{board, story, tags} {
		require.NotContains(t, page, "<script", "what users wrote is text")
		require.NotRegexp(t, `(src|href)="(https?:)?//`, page, "nothing comes from elsewhere")
	}
	for _, path := range []string{"/r/Bad", "/d/shop/returns", "/d/shop/returns@sha256:1"} {
		status, page, _ := r.get(path)
		require.Equal(t, 400, status, path)
		require.NotContains(t, page, "<script")
	}
}

func TestSeesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	board := r.signIn("deployer")
	require.Contains(t, board, "v456")
	require.NotContains(t, board, "no-sshd", "who was denied is not a deployer's business")
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
