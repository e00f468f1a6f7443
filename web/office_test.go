package web_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/web"
)

const shopPolicy = "# <script>\napiVersion: waybill/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  match: {repositories: [\"shop/**\"], except: [shop/lab/**]}\n  rules:\n    - {rule: no-sshd, action: warn, name: <script>}\n"

// rulebook is one policy of two versions; did is what it was asked to do.
type rulebook struct {
	did  []string
	busy bool
	body string // of every policy; empty: a short one
}

func (r *rulebook) version(n int) web.PolicyVersion {
	body := shopPolicy
	if r.body != "" {
		body = r.body
	} else if n == 1 {
		body = strings.Replace(body, "warn", "deny", 1)
	}
	all, _ := policy.Parse("shop", []byte(body))
	return web.PolicyVersion{Name: "shop", Version: n, Hash: all[0].Hash(), AppliedBy: hostile, AppliedAt: noon, Body: body}
}

func (r *rulebook) InForce(context.Context) ([]web.PolicyVersion, error) {
	if r.body != "" {
		return slices.Repeat([]web.PolicyVersion{r.version(2)}, 100), nil
	}
	return []web.PolicyVersion{r.version(2)}, nil
}

func (r *rulebook) Versions(_ context.Context, name string, before, n int) ([]web.PolicyVersion, error) {
	if name != "shop" {
		return nil, nil
	}
	all := []web.PolicyVersion{r.version(2), r.version(1)}
	if before == 2 {
		all = all[1:]
	}
	return all[:min(n, len(all))], nil
}

func (r *rulebook) Version(_ context.Context, _ string, n int) (web.PolicyVersion, error) {
	if n > 2 {
		return web.PolicyVersion{}, artifact.Errorf(artifact.NotFound, "no version %d", n)
	}
	return r.version(n), nil
}

func (r *rulebook) Check(_ context.Context, text []byte) (policy.Document, error) {
	all, err := policy.Parse("policy", text)
	if err != nil {
		return policy.Document{}, err
	}
	return all[0], nil
}

func (r *rulebook) Impact(_ context.Context, _ policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error) {
	if r.busy {
		return policy.Impact{}, artifact.Errorf(artifact.Conflict, "another impact is being looked for; wait for its end")
	}
	if !sees(repo) {
		return policy.Impact{}, nil
	}
	tell(nil, 1)
	for i := range 60 {
		tell(&policy.ImpactChange{Repository: repo, Digest: artifact.DigestOf([]byte{byte(i)}), Was: artifact.Allow, Becomes: artifact.Deny, Whereabouts: policy.Whereabouts{Tags: []artifact.Tag{v456}},
			Reasons: []artifact.Reason{{Rule: "no-sshd", Message: hostile}}}, 60)
	}
	tell(&policy.ImpactChange{Repository: repo, Digest: digest, Was: artifact.Allow, Becomes: artifact.Deny, Whereabouts: policy.Whereabouts{Current: []artifact.Environment{production}, Promoted: []artifact.Environment{production}},
		Response: artifact.RespondRecall, Reasons: []artifact.Reason{{Rule: "no-sshd", Message: "the last"}}}, 61)
	return policy.Impact{Images: 61, Denied: 61, Environments: map[string]int{"production": 1}, Recalled: 1}, nil
}

func (r *rulebook) Apply(_ context.Context, p artifact.Principal, text []byte) (web.PolicyVersion, bool, error) {
	r.did = append(r.did, fmt.Sprintf("%s applied %d bytes", p.Name, len(text)))
	return web.PolicyVersion{Name: "shop", Version: 3}, true, nil
}

func (r *rulebook) Waivers(context.Context, artifact.Principal, int) ([]artifact.Waiver, error) {
	return []artifact.Waiver{{ID: 1, Rule: "<script>", Repositories: []string{"shop/**"}, Reason: hostile, CreatedBy: hostile, CreatedAt: noon, ExpiresAt: noon.Add(72 * time.Hour)}}, nil
}

// yard is three builds: one of another repository than tests look at.
type yard struct {
	did     []string
	endless bool // the build says nothing more, for as long as it is followed
}

var bank, _ = artifact.ParseRepository("bank/core")

func (y *yard) all() []artifact.Build {
	return []artifact.Build{
		{ID: "RUNS", Repository: repo, Tags: []artifact.Tag{v456}, State: artifact.BuildRunning, AskedBy: "token:ci/1", AskedAt: noon, StartedAt: noon, Source: "https://git.example/x@" + strings.Repeat("a", 40)},
		{ID: "BANK", Repository: bank, State: artifact.BuildQueued, AskedBy: "token:bank/1", AskedAt: noon.Add(-time.Minute)},
		{ID: "DONE", Repository: repo, State: artifact.BuildFailed, AskedBy: hostile, AskedAt: noon.Add(-time.Hour), StartedAt: noon.Add(-time.Hour), EndedAt: noon, Failure: hostile, Source: hostile, Digest: digest, New: true},
	}
}

func (y *yard) Run(_ context.Context, id string) (artifact.Build, error) {
	for _, b := range y.all() {
		if b.ID == id {
			return b, nil
		}
	}
	return artifact.Build{}, artifact.Errorf(artifact.NotFound, "there is no build %s", id)
}

func (y *yard) Runs(_ context.Context, f artifact.BuildFilter) (some []artifact.Build, _ error) {
	for _, b := range y.all() {
		if (f.State == "" || b.State == f.State) && (f.After.ID == "" || b.AskedAt.Before(f.After.AskedAt)) {
			some = append(some, b)
		}
	}
	return some[:min(len(some), f.Limit)], nil
}

func (y *yard) Said(ctx context.Context, id string, after int64, follow bool, tell func(artifact.Build, int64, []string)) (artifact.Build, error) {
	b, err := y.Run(ctx, id)
	if err != nil {
		return b, err
	}
	for seq := after + 1; seq <= 3; seq++ {
		var lines []string
		for range 100 {
			lines = append(lines, strings.Repeat(`"`, 100))
		}
		tell(b, seq, append(lines, fmt.Sprintf("\x1b[31mpiece %d\x1b[0m <script>\u202e", seq)))
	}
	if y.endless {
		<-ctx.Done()
		return b, ctx.Err()
	}
	if follow {
		b.State = artifact.BuildDone
		tell(b, 3, nil)
	}
	return b, nil
}

func (y *yard) Cancel(_ context.Context, id, by string) error {
	if id == "DONE" {
		return artifact.Errorf(artifact.Conflict, "build %s has ended", id)
	}
	y.did = append(y.did, id+" by "+by)
	return nil
}

func (y *yard) Provenance(context.Context, artifact.Repository, artifact.Digest) (string, error) {
	return "It was built by " + hostile, nil
}

func (s store) FindEntries(_ context.Context, f artifact.LedgerFilter) (all []artifact.LedgerLine, _ error) {
	if s.empty || f.Actor == "nobody" {
		return nil, nil
	}
	from := int64(120)
	if f.Before.Index > 0 {
		from = f.Before.Index
	}
	for i := from - 1; i >= 0 && len(all) < f.Limit; i-- {
		all = append(all, artifact.LedgerLine{Index: i, At: noon, Kind: "promotion", Actor: hostile, Repository: repo, Digest: digest, Environment: dev, Version: hostile, Subject: hostile, Reason: "=1+1", Reasons: []string{hostile, "a", "b", "c"}})
	}
	return all, nil
}

// TestDraft: a policy is previewed as it was edited, and what was previewed is what is applied, once, by who may.
func TestDraft(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("admin"))[1]
	edited := strings.ReplaceAll(strings.Replace(shopPolicy, "warn", "deny", 1), "\n", "\r\n")
	form := func(more ...string) url.Values {
		f := url.Values{"csrf": {value}, "name": {"shop"}, "base": {"2"}, "text": {edited}, "do": {"preview"}}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	status, page := r.post("/policies", form())
	require.Equal(t, 200, status, page)
	harmless(t, page)
	require.Less(t, len(page), 150<<10)
	for _, want := range []string{"61 of 61 images would get another verdict", "Apply as version 3", "the last", "would be recalled", "1 to 50 of 61", "against version 2", "rule &lt;script&gt;: action warn -&gt; deny"} {
		require.Contains(t, page, want)
	}
	require.Less(t, strings.Index(page, "the last"), strings.Index(page, "alert(2)"), "what runs somewhere comes first")
	previewed := artifact.DigestOf([]byte(strings.ReplaceAll(edited, "\r\n", "\n"))).String()
	require.Contains(t, page, previewed)
	_, page = r.post("/policies", form("page", "2"))
	require.Contains(t, page, "51 to 61 of 61")

	status, page = r.post("/policies", form("text", strings.Replace(shopPolicy, "no-sshd", "no-such", 1)))
	require.Equal(t, 400, status)
	require.Contains(t, page, "Line 8, column 14:")
	require.Contains(t, page, "&lt;script&gt;}")
	harmless(t, page)
	for _, broken := range []string{"", ":", "a: [", strings.Repeat("[", 2000), "\x00", "kind: Pipeline", "---\n---\n"} {
		status, page = r.post("/policies", form("text", broken))
		require.Equal(t, 400, status, "%q", broken)
		harmless(t, page)
	}
	status, _ = r.post("/policies", form("text", strings.Repeat("a", 40<<10)))
	require.Equal(t, 413, status)
	status, _ = r.post("/policies", form("text", strings.Repeat("a", 200<<10)))
	require.Equal(t, 403, status, "more than a form has")

	for name, refused := range map[string]url.Values{"never previewed": form("do", "apply"), "of another text": form("do", "apply", "previewed", digest.String()), "meanwhile": form("do", "apply", "previewed", previewed, "base", "1")} {
		status, page = r.post("/policies", refused)
		require.Equal(t, 409, status, name)
		require.Contains(t, page, "It was not applied", name)
	}
	for _, forged := range []string{"", "forged"} {
		status, _ = r.post("/policies", form("do", "apply", "previewed", previewed, "csrf", forged))
		require.Equal(t, 403, status)
	}
	require.Empty(t, r.rules.did)
	_, page = r.post("/policies", form("do", "apply", "previewed", previewed))
	require.Contains(t, page, "Applied version 3 of shop")
	require.Equal(t, []string{fmt.Sprintf("admin applied %d bytes", strings.Count(edited, "")-1-strings.Count(edited, "\r"))}, r.rules.did)
	r.rules.busy = true
	status, page = r.post("/policies", form())
	require.Equal(t, 409, status)
	require.Contains(t, page, "another impact is being looked for")

	r = open(t, store{})
	value = csrf.FindStringSubmatch(r.signIn("auditor"))[1]
	_, page = r.post("/policies", form())
	require.Contains(t, page, "Applying it takes role admin")
	status, _ = r.post("/policies", form("do", "apply", "previewed", previewed))
	require.Equal(t, 403, status)
	require.Empty(t, r.rules.did)
	r = open(t, store{})
	value = csrf.FindStringSubmatch(r.signIn("reader"))[1]
	status, _ = r.post("/policies", form())
	require.Equal(t, 403, status)
	_, page, _ = r.get("/policies/shop")
	require.NotContains(t, page, "<textarea")
	require.Contains(t, page, "rule: no-sshd, action: warn", "who may look reads it")
}

// TestLongPolicies: however long policies are, and however many, no page is.
func TestLongPolicies(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	r.signIn("admin")
	labels := strings.Builder{}
	for i := range 100 {
		fmt.Fprintf(&labels, "            l%d: '%s'\n", i, strings.Repeat("<", 40))
	}
	rules := strings.Repeat("    - {rule: max-size, action: deny, with: {compressed: 500Mi, uncompressed: 1Gi, layer: 1Gi, layers: 60, wasted: 1Mi, files: 9}}\n", 150) +
		strings.Repeat("    - rule: require-labels\n      action: warn\n      with:\n        labels:\n"+labels.String(), 2)
	r.rules.body = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  match: {repositories: [" + strings.Repeat("shop/**, ", 200) + "shop/**]}\n  rules:\n" + rules
	_, err := policy.Parse("shop", []byte(r.rules.body))
	require.NoError(t, err)
	for _, path := range []string{"/policies", "/policies/shop", "/policies/shop?from=1&to=2"} {
		status, page, _ := r.get(path)
		require.Equal(t, 200, status, path)
		require.Less(t, len(page), 150<<10, path)
		require.Contains(t, page, "more", path)
		harmless(t, page)
	}
}

// TestBuildPages: a build is seen by who may see its repository, in parts, and ended by who may build there.
func TestBuildPages(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	value := csrf.FindStringSubmatch(r.signIn("reader"))[1]
	_, list, _ := r.get("/builds")
	require.Contains(t, list, "/builds/RUNS")
	_, list, _ = r.get("/builds?state=failed")
	require.NotContains(t, list, "/builds/RUNS")
	_, page, _ := r.get("/builds/RUNS")
	require.Contains(t, page, "part 3 of 3", "of quotes, each of which is five bytes, not many fit")
	require.Contains(t, page, "piece 3 &lt;script&gt;\ufffd")
	require.NotContains(t, page, "\x1b")
	require.Contains(t, page, `data-follow="/builds/RUNS/events?after=3"`)
	require.NotContains(t, page, "Cancel this build", "a reader may not")
	_, page, _ = r.get("/builds/RUNS?part=1")
	require.Contains(t, page, "piece 1")
	require.NotContains(t, page, "data-follow=", "what comes is behind the last part")
	_, page, _ = r.get("/builds/DONE")
	require.Contains(t, page, "It was built by &lt;script&gt;")
	require.NotContains(t, page, "data-follow=")
	status, _ := r.post("/builds/RUNS/cancel", url.Values{"csrf": {value}})
	require.Equal(t, 403, status)
	status, _, _ = r.get("/builds/NONE")
	require.Equal(t, 404, status)
	for _, bad := range []string{"/builds?state=odd", "/builds?repository=A", "/builds?after=x", "/builds/RUNS?part=x", "/builds/RUNS/events?after=x"} {
		status, page, _ := r.get(bad)
		require.Equal(t, 400, status, bad)
		harmless(t, page)
	}

	// Of a bank's builds a shop's reader learns nothing, and the other way round.
	r = open(t, store{})
	value = csrf.FindStringSubmatch(r.signIn("stranger"))[1]
	_, list, _ = r.get("/builds")
	require.NotContains(t, list, "/builds/RUNS")
	require.Contains(t, list, "/builds/BANK")
	for _, path := range []string{"/builds/RUNS", "/builds/RUNS/log", "/builds/RUNS/events", "/builds?repository=shop/returns"} {
		status, _, _ := r.get(path)
		require.Equal(t, 403, status, path)
	}
	status, _ = r.post("/builds/RUNS/cancel", url.Values{"csrf": {value}})
	require.Equal(t, 403, status)
	require.Empty(t, r.yard.did)

	r = open(t, store{})
	value = csrf.FindStringSubmatch(r.signIn("pusher"))[1]
	status, _ = r.post("/builds/RUNS/cancel", url.Values{"csrf": {"forged"}})
	require.Equal(t, 403, status)
	_, page = r.post("/builds/RUNS/cancel", url.Values{"csrf": {value}})
	require.Contains(t, page, "Cancelled.")
	_, page = r.post("/builds/DONE/cancel", url.Values{"csrf": {value}})
	require.Contains(t, page, "had ended before")
	require.Equal(t, []string{"RUNS by ci"}, r.yard.did)

	resp, err := r.client.Get(r.url + "/builds/RUNS/log")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	require.Equal(t, 3*101, strings.Count(string(text), "\n"))
}

// TestBuildEvents: a page is told the lines behind those that it has, and of another state, and when it is over.
func TestBuildEvents(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	r.signIn("reader")
	for _, ask := range []struct{ path, last string }{{"/builds/RUNS/events?after=2", ""}, {"/builds/RUNS/events?after=0", "2"}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+ask.path, nil)
		require.NoError(t, err)
		if ask.last != "" {
			req.Header.Set("Last-Event-ID", ask.last)
		}
		resp, err := r.client.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		require.NoError(t, err)
		require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		text := string(body)
		require.Contains(t, text, ",\"piece 3 \\u003cscript\\u003e\ufffd\"]\n\n")
		require.Contains(t, text, "id: 3\ndata: [")
		require.NotContains(t, text, "id: 2")
		require.Contains(t, text, "event: state\ndata: running\n\n")
		require.Contains(t, text, "event: state\ndata: done\n\n")
		require.True(t, strings.HasSuffix(text, "event: end\ndata: \n\n"), text)
	}
}

// TestRevokedWhileFollowing: a page hears no more of a build once its session was revoked.
func TestRevokedWhileFollowing(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	r.signIn("reader")
	r.yard.endless = true
	resp, err := r.client.Get(r.url + "/builds/RUNS/events?after=2")
	require.NoError(t, err)
	defer resp.Body.Close()
	read := bufio.NewReader(resp.Body)
	for line := ""; !strings.Contains(line, "id: 3"); {
		line, err = read.ReadString('\n')
		require.NoError(t, err)
	}
	r.office.revoked.Store(true)
	rest, err := io.ReadAll(read)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "event: end")
}

// TestAudit: what is found is paged, and downloaded whole as a table; who audits some repositories sees pulls of those.
func TestAudit(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	r.signIn("auditor")
	_, page, _ := r.get("/audit?who=token:ada/1&kind=promotion&about=shop/returns&from=2026-11-01&to=2026-11-30")
	harmless(t, page)
	require.Equal(t, 50, strings.Count(page, "/ledger?before="))
	require.Contains(t, page, "Every promotion by token:ada/1 of shop/returns from 2026-11-01 to 2026-11-30")
	require.Contains(t, page, "and 1 more")
	older := linkTo(t, page, "Older")
	require.Contains(t, older, "kind=promotion")
	_, page, _ = r.get(older)
	_, page, _ = r.get(linkTo(t, page, "Older"))
	require.Equal(t, 20, strings.Count(page, "/ledger?before="))
	require.NotContains(t, page, ">Older<")
	require.Contains(t, linkTo(t, page, "Newest"), "kind=promotion")
	_, page, _ = r.get("/audit?who=nobody")
	require.Contains(t, page, "There is nothing that the filter would show")

	status, table, header := r.get(linkTo(t, page, "Download as CSV"))
	require.Equal(t, 200, status)
	require.Equal(t, artifact.LedgerHead, table, "no more than the filter shows")
	require.Equal(t, "text/csv; charset=utf-8", header.Get("Content-Type"))
	require.Equal(t, `attachment; filename="waybill-ledger.csv"`, header.Get("Content-Disposition"))
	_, table, _ = r.get("/audit.csv?kind=promotion&after=x")
	rows, err := csv.NewReader(strings.NewReader(table)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 121, "all, whatever page one was at")
	require.Equal(t, "'=1+1", rows[1][9])
	_, table, header = r.get("/audit.csv?view=pulls")
	require.Contains(t, table, "shop/returns,"+digest.String())
	require.Contains(t, header.Get("Content-Disposition"), "waybill-pulls.csv")

	for _, bad := range []string{"view=x", "kind=<script>", "from=yesterday", "to=2026-13-01", "from=2026-11-30&to=2026-11-01", "about=A", "after=x", "view=pulls&after=x", "view=pulls&about=" + digest.String(), "who=" + strings.Repeat("x", 300)} {
		for _, path := range []string{"/audit?", "/audit.csv?"} {
			if path == "/audit.csv?" && strings.Contains(bad, "after") {
				continue // it has no pages
			}
			status, page, _ := r.get(path + bad)
			require.Equal(t, 400, status, path+bad)
			harmless(t, page)
		}
	}

	r = open(t, store{})
	board := r.signIn("bank-auditor")
	require.Contains(t, board, `href="/audit"`)
	require.NotContains(t, board, `href="/ledger"`)
	_, page, _ = r.get("/audit?kind=promotion")
	require.NotContains(t, page, "shop/returns@", "of other repositories")
	require.NotContains(t, page, "promotion")
	_, table, _ = r.get("/audit.csv")
	require.Equal(t, artifact.PullHead, table)
	status, _, _ = r.get("/audit?about=shop/returns")
	require.Equal(t, 403, status)
	r = open(t, store{})
	require.NotContains(t, r.signIn("reader"), `href="/audit"`)
	for _, path := range []string{"/audit", "/audit.csv", "/policies?new=yes"} {
		status, _, _ = r.get(path)
		require.Equal(t, 403, status, path)
	}
}

// linkTo is where a link of a page leads.
func linkTo(t *testing.T, page, name string) string {
	t.Helper()
	end := strings.Index(page, ">"+name+"<")
	require.Positive(t, end, "there is no link %s", name)
	start := strings.LastIndex(page[:end], `href="`) + len(`href="`)
	link, _, _ := strings.Cut(page[start:end], `"`)
	return strings.ReplaceAll(link, "&amp;", "&")
}
