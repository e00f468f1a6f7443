package e2e

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

const (
	lenientShop  = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  match: {repositories: [\"shop/**\"]}\n  rules:\n    - {rule: no-latest, action: deny}\n"
	shopPolicy   = "# What the shop asks besides the baseline.\napiVersion: waybill/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  match: {repositories: [\"shop/**\"], except: [\"shop/lab/**\"]}\n  whenPromotedTurnsBad: alert\n  rules:\n    - {rule: no-latest, action: deny, with: {tags: [latest, \"*-dev\"]}}\n    - {rule: max-size, action: warn, name: slim, with: {compressed: 200Mi, wasted: 20Mi}}\n    - {rule: max-severity, action: warn, with: {severity: critical, fixable: true, grace: 7d}}\n    - rule: require-labels\n      action: warn\n      with: {labels: {org.opencontainers.image.source: 'https://git\\.example/.+', maintainer: ''}}\n"
	stricterShop = "# What the shop asks besides the baseline.\napiVersion: waybill/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  match: {repositories: [\"shop/**\"], except: [\"shop/lab/**\"]}\n  whenPromotedTurnsBad: alert\n  rules:\n    - {rule: no-latest, action: deny, with: {tags: [latest, \"*-dev\"]}}\n    - {rule: max-size, action: warn, name: slim, with: {compressed: 200Mi, wasted: 20Mi}}\n    - {rule: max-severity, action: warn, with: {severity: critical, fixable: true, grace: 7d}}\n    - rule: require-labels\n      action: deny\n      with: {labels: {org.opencontainers.image.source: 'https://git\\.example/.+', maintainer: ''}}\n"
)

// office gives a shop what its policies, builds and audits are looked at by; what production runs of some services is pulled.
func office(o shop, services ...string) {
	t := o.t
	t.Helper()
	o.apply(lenientShop)
	o.apply(shopPolicy)
	o.ok(o.approver, "waiver", "create", "--rule", "max-severity:CVE-2024-24790", "--repository", "shop/returns", "--expires", "72h", "--reason", "not reachable: it parses no addresses")
	dir := contextFolder(t, map[string]string{"Dockerfile": "FROM scratch\nARG VERSION=12\nLABEL version=$VERSION\nCOPY service /app/service\nCOPY assets /app/assets\nUSER 65532:65532\nENTRYPOINT [\"/app/service\"]\n", "service": "binary", "assets/app.css": "body {}"})
	o.ok(o.pusher, "build", "-t", "shop/labels:v12", "--source", "https://git.example/shop/labels.git", "--commit", "3f9c1d2a7be04c56a1d0c6f7f0f5d1a2b3c4d5e6", dir)
	o.ok(o.pusher, "build", "-t", "shop/labels:v13", "--build-arg", "VERSION=13", "--source", "https://git.example/shop/labels.git", "--commit", "91ab27c3d4e5f60718293a4b5c6d7e8f90a1b2c3", dir)
	rooted := contextFolder(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY service /app/service\nENTRYPOINT [\"/app/service\"]\n", "service": "binary"})
	_, _, code := o.waybill(o.pusher, "build", "-t", "shop/labels:v14", rooted)
	require.Equal(t, 1, code, "it would run as root")
	deployer := o.token("--role", "deployer", "--environment", "production", "--name", "node-eu-1")
	for _, name := range services {
		o.pull(deployer, name, "production")
	}
	o.pull(o.pusher, "shop/labels", "v12")
	o.await("the pulls to be written", func() bool {
		var page server.PullPage
		o.json(o.admin(), &page, "pulls")
		return len(page.Pulls) > len(services)
	})
}

// contextFolder makes a folder to build from.
func contextFolder(t testing.TB, content map[string]string) string {
	t.Helper()
	dir := t.(interface{ TempDir() string }).TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

// pull asks for a manifest, as a client does.
func (s *waybillServer) pull(token, repository, reference string) {
	s.t.Helper()
	status, body := s.get(token, "/v2/"+repository+"/manifests/"+reference)
	require.Equal(s.t, 200, status, body)
}

// lastBuild is the newest that came to something.
func lastBuild(s *waybillServer) string {
	s.t.Helper()
	var list server.BuildList
	s.json(s.admin(), &list, "build", "list")
	for _, b := range list.Builds {
		if b.State == artifact.BuildDone {
			return b.ID
		}
	}
	return "none"
}

// edit puts a text in the field of a policy's.
func edit(t testing.TB, ctx context.Context, text string) {
	t.Helper()
	do(t, ctx, visible("#draft-text"))
	get(t, ctx, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector("#draft-text").value = %q`, text)))
}

// press clicks, and waits until another page shows what a selector names.
func press(t testing.TB, ctx context.Context, button, shows string) {
	t.Helper()
	get(t, ctx, chromedp.Evaluate[bool](`window.pressed = true`))
	do(t, ctx, chromedp.Click(button), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for {
			// While it goes from one page to the next there is none to ask.
			if there, err := chromedp.Evaluate[bool](fmt.Sprintf("window.pressed === undefined && document.querySelector(%q)?.checkVisibility() === true", shows))(ctx, tab); err == nil && there {
				return nil
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s is not visible on a page behind %s: %w", shows, button, ctx.Err())
			}
		}
	}))
}

// TestPolicyIsTriedAndApplied: an auditor previews what an edited policy would deny, in which environments and why; an admin
// applies what was previewed, and nothing else.
func TestPolicyIsTriedAndApplied(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	program := programLayer(t)
	labelled, plain := serviceImage(t, base, program, map[string]string{"a": "b"}, map[string]string{"team": "shop"}), serviceImage(t, base, program, map[string]string{"a": "c"}, nil)
	require.NoError(t, s.push(o.pusher, "shop/returns:v1", labelled))
	require.NoError(t, s.push(o.pusher, "shop/search:v1", plain))
	o.signed("shop/search:v1")
	o.promote("shop/search:v1", "dev", "first")
	o.apply(lenientShop)
	stricter := strings.Replace(lenientShop, "no-latest, action: deny}", "no-latest, action: deny}\n    - {rule: require-labels, action: deny, with: {labels: {team: ''}}}", 1)

	auditor := browser(t, 1280, 900)
	s.signIn(auditor, s.token("--role", "auditor", "--name", "otto"))
	press(t, auditor, `nav a[href="/policies"]`, ".policy")
	require.Contains(t, get(t, auditor, chromedp.Text("main")), "The image runs as a user that is not root")
	press(t, auditor, `.policy h2 a[href="/policies/shop"]`, "#draft-text")
	edit(t, auditor, strings.Replace(stricter, "require-labels", "require-lables", 1))
	press(t, auditor, `button[value="preview"]`, ".problem")
	require.Contains(t, get(t, auditor, chromedp.Text(".problem")), `Line 8, column 14: rule "require-lables" is not known`)
	require.Equal(t, "", get(t, auditor, chromedp.Evaluate[string](`document.querySelector("#impact")?.textContent ?? ""`)))
	edit(t, auditor, stricter)
	press(t, auditor, `button[value="preview"]`, "#impact")
	says := get(t, auditor, chromedp.Text("main"))
	require.Contains(t, says, "1 of 2 images would get another verdict")
	require.Contains(t, says, "of those, run in dev")
	require.Contains(t, says, "the label team is missing")
	require.Contains(t, says, "Applying it takes role admin")
	require.Contains(t, get(t, auditor, chromedp.Text(".diff .plus")), "rule: require-labels, action: deny")
	require.Equal(t, "/d/shop/search@", get(t, auditor, chromedp.Evaluate[string](`document.querySelector("tbody th a").getAttribute("href").split("sha256")[0]`)))
	require.NotContains(t, s.ok(s.admin(), "policy", "show", "shop"), "require-labels", "nothing was applied")

	admin := browser(t, 1280, 900)
	s.signIn(admin, s.admin())
	do(t, admin, chromedp.Navigate(s.url+"/policies/shop"))
	edit(t, admin, stricter)
	press(t, admin, `button[value="preview"]`, "#impact")
	// What was edited behind its preview is previewed first.
	edit(t, admin, strings.Replace(stricter, "team", "owner", 1))
	press(t, admin, `button[value="apply"]`, ".problem")
	require.Contains(t, get(t, admin, chromedp.Text(".problem")), "the text is another than was previewed")
	edit(t, admin, stricter)
	press(t, admin, `button[value="preview"]`, "#impact")
	// Somebody else was faster.
	o.apply(strings.Replace(lenientShop, "rules:", "whenPromotedTurnsBad: alert\n  rules:", 1))
	press(t, admin, `button[value="apply"]`, ".problem")
	require.Contains(t, get(t, admin, chromedp.Text(".problem")), "applied version 2 meanwhile")
	press(t, admin, `button[value="apply"]`, ".told")
	require.Contains(t, get(t, admin, chromedp.Text(".told")), "Applied version 3 of shop")
	require.Contains(t, s.ok(s.admin(), "policy", "show", "shop"), "require-labels")
	do(t, admin, chromedp.Navigate(s.url+"/policies/shop?from=1&to=3"), visible("#difference"))
	require.Contains(t, get(t, admin, chromedp.Text("#difference")), "+ rule require-labels")
	require.ErrorContains(t, s.push(o.pusher, "shop/search:v2", plain), "the label team is missing")
}

// TestBuildIsFollowedAndCancelled: what a build says appears on its page as it says it; who may ends it there.
func TestBuildIsFollowedAndCancelled(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	s := serve(t)
	ci, reader := s.token("--role", "pusher", "--name", "ci"), s.token("--role", "reader", "--name", "rita")
	dir := stepContext(t, stepProgram(t), "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"count\"]\n")
	id, ended := s.waiting(ci, dir, "shop/count:v1")

	tab, other := browser(t, 1280, 900), browser(t, 1280, 900)
	s.signIn(tab, ci)
	s.signIn(other, reader)
	press(t, tab, `nav a[href="/builds"]`, ".builds")
	require.Contains(t, get(t, tab, chromedp.Text(".builds")), "running")
	press(t, tab, `.builds th a`, `form[action$="/cancel"] button`)
	do(t, other, chromedp.Navigate(s.url+"/builds/"+id), visible(".console"))
	require.False(t, get(t, other, chromedp.Evaluate[bool](`document.querySelector('form[action$="/cancel"]') !== null`)), "a reader cancels nothing")
	counted := `Math.max(-1, ...[...document.querySelector(".console").textContent.matchAll(/count (\d+)/g)].map((m) => Number(m[1])))`
	for _, one := range []context.Context{tab, other} {
		n := get(t, one, chromedp.Evaluate[int](`window.mine = true; `+counted))
		poll(t, one, fmt.Sprintf(`window.mine === true && %s > %d`, counted, n+3))
	}
	seen := get(t, tab, chromedp.Evaluate[[]int](`[...document.querySelector(".console").textContent.matchAll(/count (\d+)/g)].map((m) => Number(m[1]))`))
	for i, n := range seen {
		require.Equal(t, i, n, "each line once, in order")
	}
	press(t, tab, `form[action$="/cancel"] button`, ".told")
	poll(t, other, `window.mine === true && document.querySelector("#state").textContent.includes("cancelled by")`)
	poll(t, other, `document.querySelector("[data-follow-live]").hidden`)
	log, code := ended()
	require.Equal(t, 1, code)
	require.Contains(t, log, "cancelled by token:ci/")
	// Without scripts the page has all of it by now, and so has the text.
	do(t, other, chromedp.Reload(), visible(".console"))
	require.Contains(t, get(t, other, chromedp.Text(".console")), "count 3")
	require.Contains(t, get(t, other, chromedp.Evaluate[string](`fetch(location.pathname + "/log").then((r) => r.text())`, chromedp.EvalAwaitPromise)), "  count 3\n")
}

// TestAuditFilter: who did or pulled what is found by who, what and when, and downloaded as it is shown.
func TestAuditFilter(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	require.NoError(t, s.push(o.pusher, "shop/returns:v1", serviceImage(t, base, programLayer(t), map[string]string{"a": "b"}, nil)))
	o.signed("shop/returns:v1")
	o.promote("shop/returns:v1", "dev", `=HYPERLINK("https://evil.example")`)
	s.pull(o.pusher, "shop/returns", "v1")
	s.pull(o.pusher, "shop/returns", "v1")
	auditor := s.token("--role", "auditor", "--name", "otto")
	s.await("the pulls to be written", func() bool {
		var page server.PullPage
		s.json(auditor, &page, "pulls")
		return len(page.Pulls) > 0 && page.Pulls[0].Pulls >= 2
	})

	tab := browser(t, 1280, 900)
	s.signIn(tab, auditor)
	press(t, tab, `nav a[href="/audit"]`, ".decisions")
	require.Contains(t, get(t, tab, chromedp.Text(".decisions")), "push.accepted")
	get(t, tab, chromedp.Evaluate[string](`document.querySelector("select[name=kind]").value = "promotion"`))
	do(t, tab, chromedp.SendKeys(`input[name="about"]`, "shop/returns:v1"))
	press(t, tab, `.filters button`, ".decisions")
	require.Equal(t, 1, get(t, tab, chromedp.Evaluate[int](`document.querySelectorAll(".decisions tbody tr").length`)))
	require.Contains(t, get(t, tab, chromedp.Text(".decisions")), "=HYPERLINK", "it is text")
	download := func(link string) [][]string {
		text := get(t, tab, chromedp.Evaluate[string](`fetch(document.querySelector(`+fmt.Sprintf("%q", link)+`).href).then(async (r) => r.headers.get("content-type") + "|" + r.headers.get("content-disposition") + "\n" + await r.text())`, chromedp.EvalAwaitPromise))
		head, rest, _ := strings.Cut(text, "\n")
		require.Contains(t, head, "text/csv; charset=utf-8|attachment")
		rows, err := csv.NewReader(strings.NewReader(rest)).ReadAll()
		require.NoError(t, err)
		return rows
	}
	rows := download(`a[href^="/audit.csv"]`)
	require.Len(t, rows, 2, "the head, and what the filter shows")
	require.Equal(t, "promotion", rows[1][2])
	require.Equal(t, `'=HYPERLINK("https://evil.example")`, rows[1][9], "no formula to a spreadsheet")

	// By who, from a link of the list; and a period in which nothing was.
	press(t, tab, `.decisions td.actor a`, ".decisions")
	require.Regexp(t, `^token:ada/`, get(t, tab, chromedp.Value(`input[name="who"]`)))
	do(t, tab, chromedp.Navigate(s.url+"/audit?to="+time.Now().UTC().AddDate(0, 0, -2).Format(time.DateOnly)), visible(".filters"))
	require.Contains(t, get(t, tab, chromedp.Text("main")), "There is nothing that the filter would show")

	do(t, tab, chromedp.Navigate(s.url+"/audit?view=pulls&about=shop/returns&from="+time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)), visible("tbody"))
	require.Contains(t, get(t, tab, chromedp.Text("tbody")), "token:ci-shop/")
	rows = download(`a[href^="/audit.csv"]`)
	require.Len(t, rows, 2)
	require.Equal(t, "2", rows[1][4])

	// The same from the API.
	status, table := s.get(auditor, "/api/v1/ledger/search.csv?kind=promotion&ref=shop/returns")
	require.Equal(t, 200, status, table)
	require.Contains(t, table, `"'=HYPERLINK(""https://evil.example"")"`)
	status, table = s.get(auditor, "/api/v1/pulls.csv?ref=shop/returns&newest=true")
	require.Equal(t, 200, status, table)
	require.Contains(t, table, "shop/returns,sha256:")
}
