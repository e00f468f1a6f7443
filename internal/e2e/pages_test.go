package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestPages: somebody looks at the board while a pipeline pushes, promotes what may be promoted, and is told why what may
// not; another approves; a recall, a comparison and the ledger's proofs are done in the browser.
func TestPages(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	program := programLayer(t)
	push := func(tag string, content map[string]string) {
		ref := "shop/returns:" + tag
		require.NoError(t, s.push(o.pusher, ref, serviceImage(t, base, program, content, map[string]string{"<script>": "<script>document.title='run'</script>"})))
		o.signed(ref)
	}
	push("v1", map[string]string{"app/config": "a"})

	ada := browser(t, 1280, 900)
	s.signIn(ada, o.promoter)
	do(t, ada, visible("[data-live]:not([hidden])"))
	require.Contains(t, get(t, ada, chromedp.Text("#lately")), "shop/returns v1")

	// A push and a promotion by others appear without anybody loading the page again.
	push("v2", map[string]string{"app/config": "b", "app/more": strings.Repeat("x", 1000)})
	poll(t, ada, `document.querySelector("#lately").textContent.includes("shop/returns v2")`)
	o.promote("shop/returns:v1", "dev", "by the pipeline")
	poll(t, ada, `document.querySelector('[data-cell="shop/returns dev"] .version')?.textContent === "v1"`)
	o.promote("shop/returns:v1", "staging", "by the pipeline")
	s.ok(o.approver, "approve", "shop/returns", "v1", "production", "--reason", "by the pipeline")
	o.promote("shop/returns:v1", "production", "by the pipeline")
	o.promote("shop/returns:v2", "dev", "by the pipeline")

	// From the board, by hand: staging, which nothing is in the way of.
	poll(t, ada, `document.querySelector('[data-cell="shop/returns staging"] .next')?.textContent.includes("dev has v2") === true`)
	do(t, ada, chromedp.Click(`[data-cell="shop/returns staging"] .go`), visible(".gates"))
	require.Contains(t, get(t, ada, chromedp.Text(".sum")), "All 5 gates are met")
	do(t, ada, chromedp.SendKeys("#reason", "tests are green"), chromedp.Click(`form[action="/promote"] button`), visible(".told"))
	require.Contains(t, get(t, ada, chromedp.Text(".told")), "Promoted shop/returns v2 to staging")

	// Production waits for an approval: the page says so, and so does the refusal.
	do(t, ada, chromedp.Click(`[data-cell="shop/returns production"] .go`), visible(".gates"))
	require.Contains(t, get(t, ada, chromedp.Text(".gates .unmet")), "approvals")
	do(t, ada, chromedp.SendKeys("#reason", "release 2"), chromedp.Click(`form[action="/promote"] button`), visible(".problem"))
	require.Contains(t, get(t, ada, chromedp.Text(".problem")), "It was not promoted")

	grace := browser(t, 1280, 900)
	s.signIn(grace, o.approver)
	require.Contains(t, get(t, grace, chromedp.Text(`[data-cell="shop/returns production"] .next`)), "Review and approve")
	do(t, grace, chromedp.Click(`nav a[href="/approvals"]`), visible(".ask button"), chromedp.SendKeys(`.ask input[name="reason"]`, "looked at staging"),
		chromedp.Click(".ask button"), visible(".told"))
	do(t, ada, chromedp.Click(`form[action="/promote"] button`), visible(".told"))
	require.Contains(t, get(t, ada, chromedp.Text(".told")), "Promoted shop/returns v2 to production")

	// The waybill of what runs, and the difference to what ran.
	do(t, ada, chromedp.Click(`[data-cell="shop/returns production"] .version`), visible(".journey"))
	require.Equal(t, 7, get(t, ada, chromedp.Evaluate[int](`document.querySelectorAll(".journey .done").length`)), "push, verdict, scan, signature and three environments")
	require.Positive(t, get(t, ada, chromedp.Evaluate[int](`document.querySelectorAll(".treemap .leaf").length`)))
	require.NotEqual(t, "run", get(t, ada, chromedp.Title()), "a label is text")
	do(t, ada, chromedp.Navigate(s.url+"/compare?from=shop/returns:v1&to=shop/returns:v2"), visible(".swap"))
	require.Contains(t, get(t, ada, chromedp.Text("main")), "app/more")
	require.Contains(t, s.ok(o.promoter, "compare", "shop/returns:v1", "shop/returns:v2"), "+ app/more +1000 B", "as the command says it")

	// What ran before is on the board of then, and no longer on that of now.
	do(t, ada, chromedp.Navigate(s.url+"/"), visible(".slider"), chromedp.Click(".slider a.step"), visible(".then"))
	poll(t, ada, `document.querySelector('[data-cell="shop/returns production"] .version')?.textContent === "v1"`)

	// A recall empties the environments, before the eyes of who looks at them.
	do(t, grace, chromedp.Navigate(s.url+"/"), visible("[data-live]:not([hidden])"))
	do(t, ada, chromedp.Navigate(s.url+"/d/shop/returns:v2"), chromedp.Click(`a[href^="/recall"]`), visible("#reason"), chromedp.SendKeys("#reason", "it leaks"),
		chromedp.Click(".danger"), visible(".told"))
	require.Contains(t, get(t, ada, chromedp.Text(".problem")), "it leaks")
	poll(t, grace, `document.querySelector('[data-cell="shop/returns production"]').textContent.includes("recalled")`)

	// The browser's own code verifies the ledger, and does not when a page shows something else than was signed.
	audits := browser(t, 1280, 900)
	s.signIn(audits, s.admin())
	verified := func(want int) {
		do(t, audits, chromedp.Click("[data-verify-button]:enabled"), visible(fmt.Sprintf("[data-verify-steps] li:nth-child(%d)", want)))
		require.Zero(t, get(t, audits, chromedp.Evaluate[int](`document.querySelectorAll("[data-verify-steps] .unmet").length`)), "%s", get(t, audits, chromedp.Text("[data-verify-steps]")))
	}
	do(t, audits, chromedp.Navigate(s.url+"/ledger"), visible("[data-verify-button]:enabled"))
	verified(2)
	s.ok(o.promoter, "rollback", "shop/returns", "production", "--reason", "back to v1")
	do(t, audits, chromedp.Navigate(s.url+"/ledger"), visible("[data-verify-button]:enabled"))
	verified(3) // that it extends what was seen, too
	get(t, audits, chromedp.Evaluate[string](`document.querySelector("[data-leaf]").textContent = document.querySelector("[data-leaf]").textContent.replace("back to v1", "back to v2")`))
	do(t, audits, chromedp.Click("[data-verify-button]:enabled"), visible("[data-verify-steps] .unmet"))
	require.Contains(t, get(t, audits, chromedp.Text("[data-verify-steps] .unmet")), "is not what the signed root commits to")
}

// TestPagesAreAccessible runs axe-core on every page.
func TestPagesAreAccessible(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	require.NoError(t, s.push(o.pusher, "shop/returns:v1", serviceImage(t, base, programLayer(t), map[string]string{"usr/bin/perl": "smaller"}, nil)))
	o.signed("shop/returns:v1")
	o.promote("shop/returns:v1", "dev", "first")
	require.Error(t, s.push(o.pusher, "shop/reports:v1", configured(t, "", base)))
	axe := axeCore(t)
	office(o)
	var shown struct {
		Manifest struct {
			Digest string `json:"digest"`
		} `json:"manifest"`
	}
	s.json(s.admin(), &shown, "show", "shop/returns:v1")
	for scheme, width := range map[string]int64{"light": 1280, "dark": 360} {
		tab := browser(t, width, 900)
		do(t, tab, prefers(scheme), chromedp.Navigate("data:text/html,<img src=x>"))
		require.NotEmpty(t, violations(t, tab, axe), "it finds what is wrong")
		do(t, tab, chromedp.Navigate(s.url+"/login"))
		require.Empty(t, violations(t, tab, axe), "login, %s", scheme)
		s.signIn(tab, s.admin())
		for _, path := range []string{"/", "/?at=2026-01-01", "/d/shop/returns:v1", "/r/shop/returns?tag=v1", "/repositories", "/approvals", "/pipelines", "/policies", "/policies?new=yes", "/policies/shop?from=1&to=2", "/builds", "/builds/" + lastBuild(s), "/audit", "/audit?view=pulls", "/cves?id=CVE-2026-12087", "/ledger", "/nowhere",
			"/tokens", "/tokens?show=ended", "/storage", "/advisories", "/api/docs", "/api/docs?q=nothing-like-it", "/api/docs/images", "/api/docs/storage", "/cves", "/compare", "/recall?ref=shop/returns@" + shown.Manifest.Digest,
			"/compare?from=shop/returns:v1&to=shop/returns:v1", "/promote?service=shop/returns&environment=production&version=v1", "/rollback?service=shop/returns&environment=dev"} {
			do(t, tab, chromedp.Navigate(s.url+path), visible("h1"))
			require.Empty(t, violations(t, tab, axe), "%s, %s", path, scheme)
		}
		do(t, tab, chromedp.Navigate(s.url+"/d/shop/reports:v1"), visible(`main a[href^="/d/"]`))
		require.Empty(t, violations(t, tab, axe), "a tag that was denied, %s", scheme)
		do(t, tab, chromedp.Click(`main a[href^="/d/"]`), visible("#denied"))
		require.Empty(t, violations(t, tab, axe), "what was denied, %s", scheme)
		for _, text := range []string{stricterShop, strings.Replace(stricterShop, "no-latest", "no-such", 1)} {
			do(t, tab, chromedp.Navigate(s.url+"/policies/shop"))
			edit(t, tab, text)
			press(t, tab, `button[value="preview"]`, "#impact, #problem")
			require.Empty(t, violations(t, tab, axe), "a policy that is edited, %s", scheme)
		}
	}
}
