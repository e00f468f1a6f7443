package web_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/web"
)

// TestEveryRouteAndRole: each route of the pages, for nobody and for each role. One that has no row fails. What a form does is asked of
// the use case that the API asks too; here it is that nobody gets so far without a session and a form of ours.
func TestEveryRouteAndRole(t *testing.T) {
	t.Parallel()
	const (
		lookers  = "reader pusher promoter approver auditor admin"
		everyone = lookers + " deployer"
		form     = "a form"
	)
	image := "shop/returns@" + digest.String()
	rows := []struct{ method, route, path, allowed string }{
		{"GET", "/login", "/login", "anybody"},
		{"POST", "/login", "/login", "anybody"},
		{"POST", "/logout", "/logout", "anybody"},
		{"GET", "/", "/", everyone},
		{"GET", "/r/*repository", "/r/shop/returns", everyone},
		{"GET", "/d/*reference", "/d/" + image, everyone},
		{"GET", "/repositories", "/repositories", everyone},
		{"GET", "/compare", "/compare?from=" + image + "&to=" + image, everyone},
		{"GET", "/cves", "/cves?id=CVE-2024-24790", everyone},
		{"GET", "/approvals", "/approvals", lookers},
		{"POST", "/approvals", "/approvals", form},
		{"GET", "/pipelines", "/pipelines", lookers},
		{"GET", "/promote", "/promote?service=shop/returns&environment=dev&version=v456", lookers},
		{"POST", "/promote", "/promote", form},
		{"GET", "/rollback", "/rollback?service=shop/returns&environment=dev", lookers},
		{"POST", "/rollback", "/rollback", form},
		{"GET", "/recall", "/recall?ref=" + image, lookers},
		{"POST", "/recall", "/recall", form},
		{"GET", "/ledger", "/ledger", "auditor admin"},
		{"GET", "/ledger/proofs", "/ledger/proofs?from=0&to=0", "auditor admin"},
		{"GET", "/events", "/events?since=0", everyone},
		{"GET", "/policies", "/policies", lookers},
		{"GET", "/policies/:name", "/policies/shop", lookers},
		{"POST", "/policies", "/policies", form},
		{"GET", "/builds", "/builds", lookers},
		{"GET", "/builds/:id", "/builds/DONE", lookers},
		{"GET", "/builds/:id/log", "/builds/DONE/log", lookers},
		{"GET", "/builds/:id/events", "/builds/DONE/events", lookers},
		{"POST", "/builds/:id/cancel", "/builds/RUNS/cancel", form},
		{"GET", "/audit", "/audit", "auditor admin"},
		{"GET", "/audit.csv", "/audit.csv", "auditor admin"},
		{"GET", "/tokens", "/tokens", "admin"},
		{"POST", "/tokens", "/tokens", form},
		{"GET", "/tokens/revoke", "/tokens/revoke", "admin"},
		{"POST", "/tokens/revoke", "/tokens/revoke", form},
		{"GET", "/storage", "/storage", "admin"},
		{"GET", "/storage/gc", "/storage/gc", "admin"},
		{"POST", "/storage/gc", "/storage/gc", form},
		{"GET", "/storage/retention", "/storage/retention", "admin"},
		{"POST", "/storage/retention", "/storage/retention", form},
		{"GET", "/advisories", "/advisories", lookers},
		{"GET", "/advisories/pulls", "/advisories/pulls", lookers},
		{"POST", "/advisories/pulls", "/advisories/pulls", form},
		{"GET", "/api/docs", "/api/docs", "anybody"},
		{"GET", "/api/docs/:tag", "/api/docs/tokens", "anybody"},
	}
	desk, o := newDesk(t), &office{}
	w, err := web.New(web.Config{Store: store{}, Gate: gate{}, Promotions: desk, Policies: &rulebook{}, Builds: &yard{}, Tokens: o, Accounts: o, Upkeep: o, Advisories: shelf{o}, Description: func() ([]byte, error) { return []byte(described), nil }, Facts: facts{}, Ledger: book{}, SessionKey: make([]byte, 32), Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return noon.Add(time.Hour) },
		Authenticate: func(_ context.Context, token string) (artifact.Principal, error) {
			p := artifact.Principal{Name: "token:" + token, Role: artifact.Role(token)}
			if p.Role == artifact.Deployer {
				p.Environments = []artifact.Environment{dev}
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
	t.Cleanup(w.Close) // first: it ends what would go on
	browser := func(token string) *reader {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		r := &reader{t: t, client: &http.Client{Jar: jar}, url: server.URL, desk: desk, stop: server.Close}
		if token != "" {
			r.signIn(token)
		}
		r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return r
	}
	ask := func(r *reader, method, path string) (status int, page, location string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel() // events go on
		request, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(url.Values{"csrf": {"guessed"}}.Encode()))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := r.client.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		b := make([]byte, 1<<20)
		n := 0
		for answer.Header.Get("Content-Type") != "text/event-stream" {
			more, err := answer.Body.Read(b[n:])
			if n += more; err != nil {
				break
			}
		}
		return answer.StatusCode, string(b[:n]), answer.Header.Get("Location")
	}
	covered := map[string]bool{}
	nobody, readers := browser(""), map[artifact.Role]*reader{}
	for _, role := range artifact.Roles {
		readers[role] = browser(string(role))
	}
	for _, row := range rows {
		covered[row.method+" "+row.route] = true
		if row.allowed == "anybody" {
			continue
		}
		status, page, location := ask(nobody, row.method, row.path)
		require.Equal(t, http.StatusSeeOther, status, "nobody, %s %s: %s", row.method, row.path, page)
		require.Equal(t, "/login", location)
		for _, role := range artifact.Roles {
			status, page, _ := ask(readers[role], row.method, row.path)
			switch {
			case row.allowed == form:
				require.Equal(t, http.StatusForbidden, status, "%s, %s %s without a form of ours: %s", role, row.method, row.path, page)
			case slices.Contains(strings.Fields(row.allowed), string(role)):
				require.Equal(t, http.StatusOK, status, "%s, %s %s: %s", role, row.method, row.path, page)
			default:
				require.Equal(t, http.StatusForbidden, status, "%s, %s %s: %s", role, row.method, row.path, page)
				require.Contains(t, page, "role ", "%s, %s %s: what would do", role, row.method, row.path)
			}
		}
	}
	require.Empty(t, desk.did)
	require.Empty(t, o.did)
	for _, r := range engine.Routes() {
		if !strings.HasPrefix(r.Path, "/assets/") {
			require.True(t, covered[r.Method+" "+r.Path], "%s %s is in no row of the table", r.Method, r.Path)
		}
	}
}
