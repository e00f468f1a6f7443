package web_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/web"
)

// TestCookiesAndHeaders: what a browser is told about our cookies and pages, with TLS in front and without, signed in or not, and of
// pages that are not there too.
func TestCookiesAndHeaders(t *testing.T) {
	t.Parallel()
	gin.SetMode(gin.TestMode)
	for external, secure := range map[string]bool{"": false, "http://waybill.example": false, "https://waybill.example": true} {
		desk := newDesk(t)
		w, err := web.New(web.Config{Store: store{}, Gate: gate{}, Promotions: desk, Facts: facts{}, Blob: func(context.Context, artifact.Repository, artifact.Digest) ([]byte, error) { return configBody, nil }, Description: func() ([]byte, error) { return []byte(described), nil }, SessionKey: make([]byte, 32), ExternalURL: external, Logger: slog.New(slog.DiscardHandler),
			Now:          func() time.Time { return noon.Add(time.Hour) },
			Authenticate: func(context.Context, string) (artifact.Principal, error) { return principals["admin"], nil },
			Environments: func(context.Context) ([]artifact.Environment, error) {
				return []artifact.Environment{dev, production}, nil
			}})
		require.NoError(t, err)
		engine := gin.New()
		w.Mount(engine)
		engine.NoRoute(w.Missing)
		s := httptest.NewServer(engine)
		t.Cleanup(s.Close)
		// No jar of Go's: it would keep back what is Secure.
		kept := map[string]string{}
		ask := func(method, path string, form url.Values) (*http.Response, string) {
			request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(form.Encode()))
			require.NoError(t, err)
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for name, value := range kept {
				request.AddCookie(&http.Cookie{Name: name, Value: value})
			}
			answer, err := http.DefaultTransport.RoundTrip(request)
			require.NoError(t, err)
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			for _, c := range answer.Cookies() {
				require.True(t, c.HttpOnly, "%s of %s", c.Name, path)
				require.Equal(t, http.SameSiteStrictMode, c.SameSite, "%s of %s", c.Name, path)
				require.Equal(t, secure, c.Secure, "%s of %s, at %q", c.Name, path, external)
				require.Equal(t, "/", c.Path)
				require.Empty(t, c.Domain)
				kept[c.Name] = c.Value
			}
			require.Equal(t, "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", answer.Header.Get("Content-Security-Policy"), path)
			require.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"), path)
			require.Equal(t, "no-store", answer.Header.Get("Cache-Control"), path)
			require.Equal(t, "same-origin", answer.Header.Get("Referrer-Policy"), path)
			return answer, string(body)
		}
		answer, page := ask("GET", "/nowhere/<script>", nil)
		require.Equal(t, 404, answer.StatusCode)
		require.NotContains(t, page, `href="/tokens"`, "nobody is signed in")
		_, page = ask("GET", "/login", nil)
		answer, _ = ask("POST", "/login", url.Values{"csrf": {csrf.FindStringSubmatch(page)[1]}, "token": {"admin"}})
		require.Equal(t, 303, answer.StatusCode)
		require.Len(t, kept, 2, "the form's and the session's")
		_, page = ask("GET", "/promote?service=shop/returns&environment=dev&version=v456", nil)
		answer, _ = ask("POST", "/promote", url.Values{"csrf": {csrf.FindStringSubmatch(page)[1]}, "service": {"shop/returns"}, "environment": {"dev"}, "digest": {digest.String()}})
		require.Equal(t, 303, answer.StatusCode)
		require.Len(t, kept, 3, "and what was done")
		answer, page = ask("GET", "/nowhere/<script>", nil)
		require.Equal(t, 404, answer.StatusCode)
		require.Contains(t, page, `href="/tokens"`, "the parts of the site stay where they were")
		harmless(t, page)
	}
}

// TestGoesOn: who had to sign in first goes on where it was going, which is a page of ours, and only who asked for a page.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	for asked, want := range map[string]struct{ accept, to string }{
		"/repositories?n=5": {"text/html,application/xhtml+xml", "/repositories?n=5"},
		"/":                 {"text/html", "/"},
		"/events":           {"text/event-stream", "/"},
		"/repositories":     {"*/*", "/"},
		"//evil.example/":   {"text/html", "/"},
		`/\evil.example/`:   {"text/html", "/"},
		"/audit?actor=" + strings.Repeat("x", 4000): {"text/html", "/"},
	} {
		r := open(t, store{})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url, nil)
		require.NoError(t, err)
		request.URL.Opaque = strings.TrimPrefix(r.url, "http:") + asked
		request.Header.Set("Accept", want.accept)
		answer, err := r.client.Do(request)
		require.NoError(t, err)
		answer.Body.Close()
		_, page, _ := r.get("/login")
		r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		signIn := func() string {
			answer, err := r.client.PostForm(r.url+"/login", url.Values{"token": {"admin"}, "csrf": {csrf.FindStringSubmatch(page)[1]}})
			require.NoError(t, err)
			answer.Body.Close()
			return answer.Header.Get("Location")
		}
		require.Equal(t, want.to, signIn(), asked)
		require.Equal(t, "/", signIn(), "once")
	}
}
