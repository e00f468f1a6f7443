package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestDeniedAndFirst: what was denied can be looked at by page and command, and not be pulled; what was never promoted is
// promoted from its own page, and from its repository's.
func TestDeniedAndFirst(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	rooted := configured(t, "", base)
	d, err := rooted.Digest()
	require.NoError(t, err)
	require.ErrorContains(t, s.push(o.pusher, "shop/reports:v1", rooted), "no-root-user")
	ref := "shop/reports@" + d.String()

	reader := s.token("--role", "reader")
	for verb, want := range map[string]string{"show": "no-root-user", "scan": "advisories", "inspect": "(none: root)"} {
		out := s.ok(reader, verb, ref)
		require.Contains(t, out, "it is not stored, and nobody can pull it", verb)
		require.Contains(t, out, want, verb)
		_, errs, code := s.waybill(reader, verb, "shop/reports:v1")
		require.Equal(t, 1, code)
		require.Contains(t, errs, ref, "%s of the tag says which digest that was", verb)
	}
	var tree struct {
		Image struct {
			Packages []any `json:"packages"`
			Layers   []any `json:"layers"`
		} `json:"image"`
	}
	s.json(reader, &tree, "inspect", ref)
	require.NotEmpty(t, tree.Image.Packages)
	require.Len(t, tree.Image.Layers, 1)
	for _, name := range []string{d.String(), "v1"} {
		status, body := s.get(s.admin(), "/v2/shop/reports/manifests/"+name)
		require.Equal(t, http.StatusNotFound, status, body)
	}
	_, errs, code := s.waybill(o.promoter, "promote", "shop/reports", d.String(), "dev")
	require.NotZero(t, code, errs)
	deployer := s.token("--role", "deployer", "--environment", "dev")
	_, errs, code = s.waybill(deployer, "show", ref)
	require.Equal(t, 1, code)
	require.NotContains(t, errs, "no-root-user")

	ada := browser(t, 1280, 900)
	s.signIn(ada, o.promoter)
	do(t, ada, visible("#lately .deny a"), chromedp.Click("#lately .deny a"), visible("#denied"))
	page := get(t, ada, chromedp.Text("main"))
	for _, want := range []string{"The push of it was denied", "It is not stored", "ci-shop", "no-root-user", "The heaviest files"} {
		require.Contains(t, page, want)
	}
	require.Positive(t, get(t, ada, chromedp.Evaluate[int](`document.querySelectorAll(".treemap .leaf").length`)))
	require.Positive(t, get(t, ada, chromedp.Evaluate[int](`document.querySelectorAll("#packages tbody tr").length`)))
	require.Zero(t, get(t, ada, chromedp.Evaluate[int](`document.querySelectorAll("#verify, #promote, a[href^='/recall']").length`)))
	do(t, ada, chromedp.Navigate(s.url+"/d/shop/reports:v1"), visible(`main a[href^="/d/"]`), chromedp.Click(`main a[href^="/d/"]`), visible("#denied"))
	do(t, ada, chromedp.Navigate(s.url+"/r/shop/reports"), visible("#denied a"))

	// First promotions.
	program := programLayer(t)
	for _, tag := range []string{"v1", "v2"} {
		require.NoError(t, s.push(o.pusher, "shop/returns:"+tag, serviceImage(t, base, program, map[string]string{"app/config": tag}, nil)))
		o.signed("shop/returns:" + tag)
	}
	do(t, ada, chromedp.Navigate(s.url+"/d/shop/returns:v1"), visible("#promote a.button"))
	require.Contains(t, get(t, ada, chromedp.Text("#promote")), "What staging asks for")
	do(t, ada, chromedp.Click("#promote a.button:not(.plain)"), visible(".gates"))
	require.Contains(t, get(t, ada, chromedp.Text(".sum")), "gates are met")
	require.Contains(t, get(t, ada, chromedp.Text(".swap")), "nothing")
	do(t, ada, chromedp.SendKeys("#reason", "the first"), chromedp.Click(`form[action="/promote"] button`), visible(".told"))
	require.Contains(t, get(t, ada, chromedp.Text(".told")), "Promoted shop/returns v1 to dev")
	do(t, ada, chromedp.Navigate(s.url+"/r/shop/returns"), visible("#version"), chromedp.SendKeys("#version", "v2"), chromedp.Click("#promote button"), visible(".gates"))
	do(t, ada, chromedp.Click(`form[action="/promote"] button`), visible(".told"))
	require.Contains(t, get(t, ada, chromedp.Text(".told")), "Promoted shop/returns v2 to dev")

	// Nothing moves while a page loads, however wide it is; and what was recalled is said to be.
	s.ok(o.promoter, "recall", "shop/returns:v1", "--reason", "it leaks", "--advisory", "https://status.example/1")
	do(t, ada, chromedp.Navigate(s.url+"/d/shop/returns:v1"), visible("#recalled"))
	require.NotContains(t, get(t, ada, chromedp.Text(".head")), "allow")
	require.Contains(t, get(t, ada, chromedp.Text("#recalled")), "ada: it leaks; see https://status.example/1")
	require.Contains(t, get(t, ada, chromedp.Text(".journey")), "never: it was recalled")
	standStill(t, s, ref)
}

// standStill measures on every page, in several widths, what moved after it was first painted.
func standStill(t *testing.T, s *waybillServer, denied string) {
	t.Helper()
	folder := os.Getenv("WAYBILL_LOOK") // where pictures of what is looked at go, if anybody wants them
	var shown struct {
		Manifest struct {
			Digest string `json:"digest"`
		} `json:"manifest"`
	}
	s.json(s.admin(), &shown, "show", "shop/returns:v2")
	running := shown.Manifest.Digest
	for _, width := range []int64{360, 1280, 2560} {
		tab := browser(t, width, 900)
		s.signIn(tab, s.admin())
		for name, path := range map[string]string{"board": "/", "past": "/?at=2026-01-01", "digest": "/d/shop/returns:v2", "recalled": "/d/shop/returns:v1", "denied": "/d/" + denied, "repository": "/r/shop/returns?tag=v1", "refusing": "/r/shop/reports",
			"repositories": "/repositories", "approvals": "/approvals", "pipelines": "/pipelines", "cve": "/cves?id=CVE-2026-12087", "ledger": "/ledger", "absent": "/d/shop/reports:v1", "compare": "/compare?from=shop/returns:v1&to=shop/returns:v2",
			"promote": "/promote?service=shop/returns&environment=staging&version=v2", "rollback": "/rollback?service=shop/returns&environment=dev", "recall": "/recall?ref=shop/returns@" + running,
			"policies": "/policies", "policy": "/policies/baseline", "builds": "/builds", "audit": "/audit", "pulls": "/audit?view=pulls", "tokens": "/tokens", "storage": "/storage", "advisories": "/advisories", "docs": "/api/docs", "docs of images": "/api/docs/images"} {
			do(t, tab, chromedp.Navigate(s.url+path), visible("h1"))
			if name == "board" {
				do(t, tab, visible("[data-live]:not([hidden])"))
			}
			require.Less(t, shifted(t, tab), 0.001, "%s, %d pixels wide", name, width)
			require.LessOrEqual(t, get(t, tab, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")), width, "%s has to be scrolled sideways", name)
			if folder != "" {
				require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("%s-%d.png", name, width)), get(t, tab, chromedp.FullScreenshot(100)), 0o600))
			}
		}
		get(t, tab, chromedp.Evaluate[bool](`new Promise((done) => { const p = document.createElement("p"); p.style.height = "9rem"; document.querySelector("main").prepend(p); requestAnimationFrame(() => requestAnimationFrame(() => done(true))) })`, chromedp.EvalAwaitPromise))
		require.Positive(t, shifted(t, tab), "it finds what moves")
	}
}

// shifted is the sum of a page's layout shifts since it began to load: https://wicg.github.io/layout-instability/.
func shifted(t *testing.T, tab context.Context) float64 {
	t.Helper()
	return get(t, tab, chromedp.Evaluate[float64](`new Promise((done) => {
		let sum = 0;
		const add = (all) => { for (const entry of all) sum += entry.value; };
		const observer = new PerformanceObserver((list) => add(list.getEntries()));
		observer.observe({ type: "layout-shift", buffered: true });
		requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => { add(observer.takeRecords()); done(sum); })));
	})`, chromedp.EvalAwaitPromise))
}
