package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// provider is a real OpenID provider of another maker's, on this machine.
func provider(t *testing.T) (issuer string) {
	t.Helper()
	cmd := exec.Command("node", "testdata/provider.mjs", filepath.Join(root, "internal/tools/bin/oidc-provider"))
	in, err := cmd.StdinPipe() // it ends when this does, however we end
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	log := &logBuffer{}
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the provider's log:\n%s", log)
		}
	})
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the provider did not start: %s", log)
	return lines.Text()
}

// person is a browser of somebody whom the provider knows.
type person struct {
	t     *testing.T
	login string
	http  *http.Client
}

func newPerson(t *testing.T, login string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &person{t, login, &http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

var (
	formTag  = regexp.MustCompile(`(?s)<form[^>]*>.*?</form>`)
	attrOf   = regexp.MustCompile(`(\w+)="([^"]*)"`)
	inputTag = regexp.MustCompile(`<input[^>]*>`)
)

func attributes(tag string) map[string]string {
	all := map[string]string{}
	for _, m := range attrOf.FindAllStringSubmatch(tag, -1) {
		all[m[1]] = strings.ReplaceAll(m[2], "&amp;", "&")
	}
	return all
}

// visit opens a page, fills in the provider's forms until there is none, and returns where it ended and what is there.
func (p *person) visit(address, code string) (*url.URL, string) {
	p.t.Helper()
	answer, err := p.http.Get(address)
	for range 8 {
		require.NoError(p.t, err)
		text, err2 := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		require.NoError(p.t, err2)
		form := formTag.FindString(string(text))
		if form == "" || !strings.HasPrefix(answer.Request.URL.Path, "/interaction") && !strings.HasPrefix(answer.Request.URL.Path, "/device") {
			return answer.Request.URL, string(text)
		}
		fields := url.Values{}
		for _, input := range inputTag.FindAllString(form, -1) {
			a := attributes(input)
			value := a["value"]
			switch a["name"] {
			case "login":
				value = p.login
			case "password":
				value = "any"
			case "user_code":
				value = code
			case "", "abort":
				continue
			}
			fields.Set(a["name"], value)
		}
		if strings.Contains(form, `name="confirm"`) {
			fields.Set("confirm", "yes")
		}
		to, err2 := answer.Request.URL.Parse(attributes(form)["action"])
		require.NoError(p.t, err2)
		answer, err = p.http.PostForm(to.String(), fields)
	}
	p.t.Fatalf("%s asks and asks", answer.Request.URL)
	return nil, ""
}

// idToken returns a token for a client, as a job of an issuer has one.
func (p *person) idToken(issuer, client string) string {
	p.t.Helper()
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	codes := make(chan string, 1)
	job := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { codes <- r.URL.Query().Get("code") }))
	defer job.Close()
	redirect := job.URL + "/job"
	p.visit(issuer+"/auth?"+url.Values{"client_id": {client}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {redirect}, "nonce": {"n"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}.Encode(), "")
	answer, err := http.PostForm(issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "code": {<-codes}, "redirect_uri": {redirect}, "code_verifier": {verifier}})
	require.NoError(p.t, err)
	defer answer.Body.Close()
	var got struct {
		IDToken string `json:"id_token"`
	}
	require.NoError(p.t, json.NewDecoder(answer.Body).Decode(&got))
	require.NotEmpty(p.t, got.IDToken)
	return got.IDToken
}

func serveIdentity(t *testing.T, issuer, more string) *waybillServer {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s3cret\n"), 0o600))
	config := filepath.Join(dir, "waybill.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
identity:
  issuers:
    - issuer: %[1]s
      audience: https://registry.example
      rules:
        - {claims: {sub: ada, groups: [ops, rel*]}, role: pusher, repositories: [shop/**]}
        - {claims: {sub: ada}, role: reader, repositories: [bank/**]}
  people:
    issuer: %[1]s
    clientID: waybill
    clientSecretFile: %[2]s/secret
    commandClientID: waybill-command
    rules:
      - {claims: {groups: release}, role: promoter, repositories: [shop/**], environments: [dev]}
%[3]s`, issuer, dir, more), 0o600))
	return serve(t, "--config", config)
}

// page asks for a page of the server's without following where it leads.
func (p *person) page(method, address string, form url.Values) (int, http.Header, string) {
	p.t.Helper()
	r, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	require.NoError(p.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	stay := *p.http
	stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	answer, err := stay.Do(r)
	require.NoError(p.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(p.t, err)
	return answer.StatusCode, answer.Header, string(text)
}

func csrfOf(t *testing.T, page string) string {
	t.Helper()
	m := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page)
	require.NotNil(t, m, page)
	return m[1]
}

// TestPeople: a person signs in with a browser, with the command line, and with a code; who has no rule does not.
func TestPeople(t *testing.T) {
	t.Parallel()
	issuer := provider(t)
	s := serveIdentity(t, issuer, "")
	begin := func(p *person) string {
		_, _, page := p.page("GET", s.url+"/login", nil)
		status, header, _ := p.page("POST", s.url+"/login/provider", url.Values{"csrf": {csrfOf(t, page)}})
		require.Equal(t, 200, status)
		to, ok := strings.CutPrefix(header.Get("Refresh"), "0; url=")
		require.True(t, ok)
		return to
	}
	t.Run("browser", func(t *testing.T) {
		ada := newPerson(t, "ada")
		_, text := ada.visit(begin(ada), "")
		require.Contains(t, text, "Signed in")
		_, _, board := ada.page("GET", s.url+"/", nil)
		require.Contains(t, board, "user:"+issuer+"#ada")
		here, _ := url.Parse(s.url)
		before := ada.http.Jar.Cookies(here)
		status, _, _ := ada.page("POST", s.url+"/logout", url.Values{"csrf": {csrfOf(t, board)}})
		require.Equal(t, 303, status)
		ada.http.Jar.SetCookies(here, before)
		status, header, _ := ada.page("GET", s.url+"/", nil)
		require.Equal(t, 303, status, "the session is over, and not only its cookie forgotten")
		require.Equal(t, "/login", header.Get("Location"))
	})
	t.Run("refused", func(t *testing.T) {
		bob := newPerson(t, "bob")
		_, text := bob.visit(begin(bob), "")
		require.Contains(t, text, "none of its rules here matches")
		// Another browser's sign-in cannot be ended here, nor one that was begun nowhere.
		ada, eve := newPerson(t, "ada"), newPerson(t, "eve")
		ada.http.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/login/callback" {
				return http.ErrUseLastResponse
			}
			return nil
		}
		end, _ := ada.visit(begin(ada), "")
		require.Contains(t, end.Path, "/auth")
		for _, query := range []string{"?code=x&state=y", "?code=x", "", "?error=access_denied&state=" + strings.Repeat("x", 3000)} {
			status, header, _ := eve.page("GET", s.url+"/login/callback"+query, nil)
			require.Contains(t, []int{400, 401}, status, query)
			require.NotContains(t, strings.Join(header.Values("Set-Cookie"), " "), "waybill_session=")
		}
		status, _, _ := eve.page("POST", s.url+"/login/provider", nil)
		require.Equal(t, 403, status, "only the form begins one")
	})
	for _, flag := range []string{"--browser", "--device"} {
		t.Run(flag, func(t *testing.T) {
			home := t.TempDir()
			cmd := exec.Command("waybill", "login", flag, s.url)
			cmd.Env = append(clean(), "HOME="+home, "XDG_CONFIG_HOME="+home, "DISPLAY=", "WAYLAND_DISPLAY=")
			out, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			var said strings.Builder
			for lines := bufio.NewScanner(out); lines.Scan(); {
				line := lines.Text()
				said.WriteString(line + "\n")
				if m := regexp.MustCompile(`^Open (\S+) .* code (\S+)$`).FindStringSubmatch(line); m != nil {
					newPerson(t, "ada").visit(m[1], m[2])
				} else if strings.HasPrefix(line, issuer) {
					_, text := newPerson(t, "ada").visit(line, "")
					require.Contains(t, text, "Go back to the terminal")
				}
			}
			require.NoError(t, cmd.Wait(), said.String())
			require.Contains(t, said.String(), "has role promoter")
			stored, err := os.ReadFile(filepath.Join(home, "waybill", "login.json"))
			require.NoError(t, err)
			require.Contains(t, string(stored), "wbt_")
		})
	}
}

// TestWorkload: a job that has no secret pushes with what its issuer says of it, and with nothing else.
func TestWorkload(t *testing.T) {
	t.Parallel()
	issuer := provider(t)
	s := serveIdentity(t, issuer, "public: {repositories: [open/**]}\n")
	ada, bob := newPerson(t, "ada"), newPerson(t, "bob")
	good := ada.idToken(issuer, "https://registry.example")
	file := filepath.Join(t.TempDir(), "token")
	login := func(idToken string) (string, string, int) {
		require.NoError(t, os.WriteFile(file, []byte(idToken+"\n"), 0o600))
		return s.waybill("", "login", "--id-token-file", file, "--print", s.url)
	}
	out, said, code := login(good)
	require.Zero(t, code, said)
	require.Contains(t, said, "workload:"+issuer+"#ada has role pusher and reader until")
	token := strings.TrimSpace(out)
	scope := func(repository string) []any {
		r, _ := http.NewRequest(http.MethodGet, s.url+"/token?service=waybill&scope=repository:"+repository+":pull,push", nil)
		r.SetBasicAuth("oidc", token)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		var access struct {
			Token string `json:"token"`
		}
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&access))
		var claims struct {
			Access []struct {
				Actions []any `json:"actions"`
			} `json:"access"`
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(access.Token, ".")[1])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(payload, &claims))
		return claims.Access[0].Actions
	}
	require.Equal(t, []any{"pull", "push"}, scope("shop/returns"))
	require.Equal(t, []any{"pull"}, scope("bank/ledger"), "by the other rule, and what that one allows")
	require.Empty(t, scope("other/ledger"))

	// GitHub's runner gives a token to whoever has the job's own.
	var asked atomic.Value
	runner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Authorization") + " " + r.URL.Query().Get("audience"))
		_ = json.NewEncoder(w).Encode(map[string]string{"value": good})
	}))
	t.Cleanup(runner.Close)
	for _, environ := range [][]string{{"ACTIONS_ID_TOKEN_REQUEST_URL=" + runner.URL + "/?api-version=2", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=job"}, {"WAYBILL_ID_TOKEN=" + good}} {
		stdout, stderr, code := command(t, "", environ, "waybill", "login", "--workload", "--print", s.url)
		require.Zero(t, code, stderr)
		require.True(t, strings.HasPrefix(stdout, "wbt_"))
	}
	require.Equal(t, "Bearer job https://registry.example", asked.Load())

	parts := strings.Split(good, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + issuer + `","aud":"https://registry.example","sub":"ada","groups":["release"],"exp":9999999999}`))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for what, c := range map[string]struct{ token, want string }{
		"for another service": {ada.idToken(issuer, "another-service"), "its signature, audience or times are wrong"},
		"of nobody known":     {bob.idToken(issuer, "https://registry.example"), "none of its rules here matches"},
		"with other claims":   {parts[0] + "." + forged + "." + parts[2], "its signature, audience or times are wrong"},
		"unsigned":            {none + "." + forged + ".", "not an OpenID Connect ID token"},
		"no token":            {"hello", "not an OpenID Connect ID token"},
	} {
		out, said, code := login(c.token)
		require.NotZero(t, code, what)
		require.Empty(t, out)
		require.Contains(t, said, c.want, what)
	}
}

// TestRevokedEverywhere: a token that is revoked at one replica is refused by the others within a second.
func TestRevokedEverywhere(t *testing.T) {
	t.Parallel()
	database := newOutside(t)
	config := config(t, "database: {url: '"+database.url()+"'}\n")
	first := serve(t, "--config", config)
	second := serveVia(t, []string{"sh", "-c", `mkdir -p "$0" && cp -a ` + first.data + `/keys "$0/" && exec "$@"`}, "--config", config)
	admin := first.admin()
	var made struct{ Token, ID string }
	first.json(admin, &made, "token", "create", "--role", "reader")
	status := func(s *waybillServer) int {
		r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+"/v2/", nil)
		r.Header.Set("Authorization", "Bearer "+made.Token)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	require.Equal(t, 200, status(first))
	require.Equal(t, 200, status(second))
	first.ok(admin, "token", "revoke", made.ID)
	revoked := time.Now()
	require.Equal(t, 401, status(first), "at once where it was revoked")
	require.Eventually(t, func() bool { return status(second) == 401 }, 5*time.Second, 10*time.Millisecond)
	require.Less(t, time.Since(revoked), 1500*time.Millisecond) // a second, and what a busy machine takes
}

// TestLockedOutEverywhere: who guesses at one replica is locked out of the others.
func TestLockedOutEverywhere(t *testing.T) {
	t.Parallel()
	database := newOutside(t)
	config := config(t, "database: {url: '"+database.url()+"'}\nidentity: {failedLogins: 10, trustedProxies: [127.0.0.0/8]}\n")
	first := serve(t, "--config", config)
	second := serveVia(t, []string{"sh", "-c", `mkdir -p "$0" && cp -a ` + first.data + `/keys "$0/" && exec "$@"`}, "--config", config)
	admin := first.admin()
	status := func(s *waybillServer, address, token string) int {
		r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+"/v2/", nil)
		r.Header.Set("X-Forwarded-For", address)
		r.SetBasicAuth("ci", token)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	require.Equal(t, 200, status(second, "192.0.2.1", admin))
	for range 10 {
		require.Equal(t, 401, status(first, "192.0.2.1", "guess"))
	}
	require.Equal(t, 429, status(first, "192.0.2.1", "guess"))
	// What is known of a token for a second needs no look at the count: another is asked with.
	require.Eventually(t, func() bool { return status(second, "192.0.2.1", "guess") == 429 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, 200, status(second, "192.0.2.2", admin))
}

// TestPublic: what is public can be pulled without signing in, and nothing else can be done or seen.
func TestPublic(t *testing.T) {
	t.Parallel()
	s := serve(t, "--config", config(t, "public: {repositories: [open/**, mirror/**]}\n"))
	pusher := s.token("--role", "pusher")
	img := configured(t, "1000", files(t, map[string]string{"app": "x"}))
	for _, ref := range []string{"open/app:v1", "shop/returns:v1"} {
		s.pushed(pusher, ref, img)
	}
	pull := func(ref string) string {
		_, stderr, code := command(t, "", []string{"DOCKER_CONFIG=" + t.TempDir()}, "crane", "manifest", "--insecure", s.host+"/"+ref)
		if code == 0 {
			return "pulled"
		}
		return stderr
	}
	require.Equal(t, "pulled", pull("open/app:v1"))
	require.Contains(t, pull("shop/returns:v1"), "UNAUTHORIZED")
	said := func(ref string) string { // without when, and of what
		_, text, _ := strings.Cut(pull("shop/"+ref+":v1"), "Error: ")
		return strings.ReplaceAll(text, ref, "")
	}
	require.Equal(t, said("returns"), said("absent"), "whether it is there is not told")
	require.Contains(t, pull("mirror/docker.io/library/debian:12"), "UNAUTHORIZED", "what would be fetched is not public")

	answer, err := http.Get(s.url + "/token?scope=repository:open/app:pull,push,delete&scope=repository:shop/returns:pull")
	require.NoError(t, err)
	defer answer.Body.Close()
	var access struct {
		Token string `json:"token"`
	}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&access))
	for _, who := range []string{"", "Bearer " + access.Token} {
		for what, want := range map[string]int{"GET /v2/open/app/manifests/v1": 200, "GET /v2/open/app/tags/list": 200, "POST /v2/open/app/blobs/uploads/": 401, "DELETE /v2/open/app/manifests/v1": 401,
			"GET /v2/shop/returns/manifests/v1": 401, "GET /v2/shop/returns/tags/list": 401, "GET /v2/_catalog": 401, "GET /api/v1/repositories": 401, "GET /api/v1/inspect?ref=open/app:v1": 401,
			"GET /api/v1/tokens": 401, "GET /metrics": 401, "GET /": 303, "GET /r/open/app": 303} {
			method, path, _ := strings.Cut(what, " ")
			r, _ := http.NewRequest(method, s.url+path, nil)
			if who != "" {
				r.Header.Set("Authorization", who)
			}
			answer, err := http.DefaultTransport.RoundTrip(r)
			require.NoError(t, err)
			_ = answer.Body.Close()
			require.Equal(t, want, answer.StatusCode, "%s as %.10q", what, who)
		}
	}
}

// TestGuessesAreCounted: by address, as a proxy says only where that proxy is trusted.
func TestGuessesAreCounted(t *testing.T) {
	t.Parallel()
	guess := func(s *waybillServer, forwarded, token string) (int, string) {
		r, _ := http.NewRequest(http.MethodGet, s.url+"/v2/", nil)
		r.Header.Set("X-Forwarded-For", forwarded)
		r.SetBasicAuth("ci", token)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		_ = answer.Body.Close()
		return answer.StatusCode, answer.Header.Get("Retry-After")
	}
	direct := serve(t, "--config", config(t, "identity: {failedLogins: 3}\n"))
	behind := serve(t, "--config", config(t, "identity: {failedLogins: 3, trustedProxies: [127.0.0.0/8]}\n"))
	for n := range 3 {
		status, _ := guess(direct, fmt.Sprintf("192.0.2.%d", n), "guess")
		require.Equal(t, 401, status)
		status, _ = guess(behind, "192.0.2.1", "guess")
		require.Equal(t, 401, status)
	}
	status, later := guess(direct, "192.0.2.9", direct.admin())
	require.Equal(t, 429, status)
	require.NotEmpty(t, later)
	status, _ = guess(behind, "192.0.2.1", behind.admin())
	require.Equal(t, 429, status)
	status, _ = guess(behind, "192.0.2.2", behind.admin())
	require.Equal(t, 200, status)
}
