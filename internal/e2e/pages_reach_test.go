package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// TestPagesForEverybody: whoever has no mouse, no scripts, or names that are as long as they may be, is served as well.
func TestPagesForEverybody(t *testing.T) {
	t.Parallel()
	s := serve(t)
	o := openShop(s)
	program := programLayer(t)
	base := files(t, map[string]string{"etc/os-release": "ID=shop\n"})
	long := longShop{"shop/" + strings.Repeat("settlement-", 14) + "worker", "v2026.11.21-" + strings.Repeat("0a1b2c3d", 14), strings.Repeat("because", 70)}
	for ref, versions := range map[string][]string{"shop/returns": {"v1", "v2"}, long.repository: {long.tag}} {
		for _, v := range versions {
			require.NoError(t, s.push(o.pusher, ref+":"+v, serviceImage(t, base, program, map[string]string{"app/version": v, strings.Repeat("deep/", 20) + v: v}, map[string]string{strings.Repeat("label.", 30): long.reason})))
			o.signed(ref + ":" + v)
		}
	}
	o.promote("shop/returns:v1", "dev", "first")
	o.promote("shop/returns:v2", "dev", "second")
	o.promote(long.repository+":"+long.tag, "dev", long.reason)
	o.apply(lenientShop)
	s.ok(o.approver, "waiver", "create", "--rule", "no-latest", "--repository", long.repository, "--expires", "72h", "--reason", long.reason)

	t.Run("long names", func(t *testing.T) { long.fit(t, s) })
	t.Run("without scripts", func(t *testing.T) { withoutScripts(t, o) })
	t.Run("without a mouse", func(t *testing.T) { withoutMouse(t, o) })
}

// longShop has names as long as they may be.
type longShop struct{ repository, tag, reason string }

// fit: nothing is wider than the page, no text runs over its neighbour, and what copies a text lies over it.
func (l longShop) fit(t *testing.T, s *waybillServer) {
	t.Helper()
	var shown struct {
		Manifest struct {
			Digest string `json:"digest"`
		} `json:"manifest"`
	}
	ref := l.repository + ":" + l.tag
	s.json(s.admin(), &shown, "show", ref)
	for _, width := range []int64{360, 1440, 2560} {
		tab := browser(t, width, 900)
		s.signIn(tab, s.admin())
		for _, path := range []string{"/", "/d/" + ref, "/r/" + l.repository + "?tag=" + l.tag, "/repositories", "/approvals", "/policies", "/policies/shop", "/builds", "/audit", "/audit?view=pulls", "/ledger", "/tokens", "/storage", "/advisories", "/api/docs/images",
			"/compare?from=" + ref + "&to=shop/returns:v1", "/promote?service=" + l.repository + "&environment=staging&version=" + l.tag, "/rollback?service=" + l.repository + "&environment=dev", "/recall?ref=" + l.repository + "@" + shown.Manifest.Digest, "/nowhere/" + l.tag} {
			do(t, tab, chromedp.Navigate(s.url+path), visible("h1"))
			require.LessOrEqual(t, get(t, tab, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")), width, "%s has to be scrolled sideways", path)
			require.Empty(t, get(t, tab, chromedp.Evaluate[[]string](runsOver)), "%s, %d pixels wide", path, width)
		}
	}
}

// runsOver names what is wider than its cell, card or heading, unless that can be scrolled; and buttons to copy that lie elsewhere than over their texts.
const runsOver = `[...document.querySelectorAll("main td, main th, main h1, main h2, main p, main li, main dd, main dt, main section, main article")]
	.filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline" && getComputedStyle(e).overflowX === "visible" && !e.matches(".visually-hidden, thead *"))
	.map((e) => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 80))
	.concat([...document.querySelectorAll(".copy")].filter((b) => {
		const button = b.getBoundingClientRect(), box = b.parentElement.querySelector("[data-copy]").parentElement.getBoundingClientRect();
		return button.top < box.top - 1 || button.bottom > box.bottom + 1 || button.left < box.left - 1 || button.right > box.right + 1;
	}).map((b) => "copy: " + b.parentElement.textContent.trim().slice(0, 80)))`

// withoutScripts: signing in, finding, the board of then, promoting, rolling back and ending a token are forms and links.
func withoutScripts(t *testing.T, o shop) {
	t.Helper()
	s := o.waybillServer
	tab := browser(t, 1280, 900)
	do(t, tab, chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
	s.signIn(tab, s.admin())
	require.False(t, get(t, tab, chromedp.Evaluate[bool](`document.querySelector("[data-live]").checkVisibility({ visibilityProperty: true })`)), "it does not say that it is live")
	do(t, tab, chromedp.SendKeys("#q", "returns"))
	press(t, tab, ".search button", ".board")
	require.Equal(t, 1, get(t, tab, chromedp.Evaluate[int](`document.querySelectorAll(".board tbody tr").length`)))
	do(t, tab, chromedp.Navigate(s.url+"/"), visible("[data-go]"), chromedp.Click(".slider a.step"), visible(".then"))
	press(t, tab, ".slider a.button", ".go")
	do(t, tab, chromedp.Click(`[data-cell="shop/returns staging"] .go`), visible(".gates"), chromedp.SendKeys("#reason", "without scripts"), chromedp.Click(`form[action="/promote"] button`), visible(".told"))
	require.Contains(t, get(t, tab, chromedp.Text(".told")), "Promoted shop/returns v2 to staging")
	do(t, tab, chromedp.Click(`[data-cell="shop/returns dev"] .acts a`), visible("#reason"), chromedp.SendKeys("#reason", "without scripts"), chromedp.Click(`form[action="/rollback"] button`), visible(".told"))
	require.Contains(t, get(t, tab, chromedp.Text(".told")), "back to v1")
	do(t, tab, chromedp.Navigate(s.url+"/d/shop/returns:v2?q=nothing-like-it#packages"), visible("#packages"))
	do(t, tab, chromedp.Navigate(s.url+"/ledger"), visible("noscript p"))
	require.Contains(t, get(t, tab, chromedp.Text(".verify")), "waybill audit")
	do(t, tab, chromedp.Navigate(s.url+"/api/docs"), visible("[data-go]"), chromedp.SendKeys("#q", "gc admin"))
	press(t, tab, "[data-go]", "[data-filter-words]")
	require.Equal(t, 1, get(t, tab, chromedp.Evaluate[int](`document.querySelectorAll("[data-filter-words]").length`)))
	s.token("--role", "reader", "--name", "passing")
	do(t, tab, chromedp.Navigate(s.url+"/tokens?q=passing"), visible(".thing"), chromedp.Click(".thing summary"), visible(".thing .danger"), chromedp.Click(".thing .danger"), visible(".told"))
	require.Contains(t, get(t, tab, chromedp.Text(".told")), "Revoked token")
	do(t, tab, chromedp.Click(".who button"), visible("#token"))
}

// withoutMouse: everything on a page is reached by the tab key, in its order, and seen to be; and used by the keyboard alone.
func withoutMouse(t *testing.T, o shop) {
	t.Helper()
	s := o.waybillServer
	tab := browser(t, 1280, 900)
	do(t, tab, chromedp.Navigate(s.url+"/login"), visible("#token"))
	poll(t, tab, `document.activeElement.id === "token"`)
	do(t, tab, chromedp.KeyEvent(s.admin()+"\r"), visible(".side nav"))
	for _, path := range []string{"/", "/?at=2026-01-01", "/r/shop/returns?tag=v1", "/compare?from=shop/returns:v1&to=shop/returns:v2", "/promote?service=shop/returns&environment=staging&version=v1", "/rollback?service=shop/returns&environment=dev",
		"/approvals", "/pipelines", "/policies/shop", "/builds", "/audit?view=pulls", "/cves", "/tokens", "/storage", "/advisories", "/nowhere"} {
		do(t, tab, chromedp.Navigate(s.url+path), visible("h1"))
		want := get(t, tab, chromedp.Evaluate[[]string](tabbable))
		require.Contains(t, want[0], "Skip to the content", path)
		for i, one := range want {
			do(t, tab, chromedp.KeyEvent("\t"))
			at := get(t, tab, chromedp.Evaluate[string](focused))
			for parts := 0; parts < 4 && i > 0 && strings.HasPrefix(at, want[i-1]) && strings.HasPrefix(at, "INPUT date"); parts++ { // a date has a year, a month, a day and a calendar
				do(t, tab, chromedp.KeyEvent("\t"))
				at = get(t, tab, chromedp.Evaluate[string](focused))
			}
			require.Equal(t, one+" seen", at, "%s, %d of %d", path, i, len(want))
		}
	}

	// The skip link leads past the parts of the site.
	do(t, tab, chromedp.Navigate(s.url+"/tokens"), visible("h1"), chromedp.KeyEvent("\t\r"))
	poll(t, tab, `document.activeElement.id === "main"`)

	// A promotion, the board of then, and the end of a token.
	use := func(selector, keys string) {
		t.Helper()
		do(t, tab, visible(selector))
		for range get(t, tab, chromedp.Evaluate[[]string](tabbable)) {
			if get(t, tab, chromedp.Evaluate[bool](fmt.Sprintf("document.activeElement.matches(%q)", selector))) {
				do(t, tab, chromedp.KeyEvent(keys))
				return
			}
			do(t, tab, chromedp.KeyEvent("\t"))
		}
		t.Fatalf("the tab key does not reach %s", selector)
	}
	do(t, tab, chromedp.Navigate(s.url+"/r/shop/returns"), visible("#version"))
	use("#version", "v2")
	use("#promote select", "s") // staging
	use("#promote button", "\r")
	do(t, tab, visible(".gates"))
	do(t, tab, chromedp.Navigate(s.url+"/promote?service=shop/returns&environment=dev&version=v2"))
	use("#reason", "by the keyboard")
	use(`form[action="/promote"] button`, "\r")
	do(t, tab, visible(".told"))
	require.Contains(t, get(t, tab, chromedp.Text(".told")), "Promoted shop/returns v2 to dev")
	use("#at", kb.ArrowLeft)
	do(t, tab, visible(".then"))
	s.token("--role", "reader", "--name", "leaving")
	do(t, tab, chromedp.Navigate(s.url+"/tokens?q=leaving"))
	use(".thing summary", " ")
	use(".thing .danger", "\r")
	do(t, tab, visible(".told"))
	require.Contains(t, get(t, tab, chromedp.Text(".told")), "Revoked token")
}

// describe is how a script here calls an element.
const describe = `const call = (e) => e.tagName + " " + (e.type ?? "") + "#" + e.id + " " + (e.getAttribute("aria-label") ?? e.textContent).trim().replace(/\s+/g, " ").slice(0, 40) + " " + (e.getAttribute("href") ?? e.name ?? "");`

// tabbable are the elements that the tab key is to reach, in the page's order; of radio buttons the one that is chosen.
const tabbable = `(() => { ` + describe + `
	return [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")]
		.filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility({ visibilityProperty: true }) && !(e.type === "radio" && !e.checked))
		.map(call);
})()`

// focused is the element that has the focus, and whether that can be seen: it has an outline, is not transparent, and lies in the window.
const focused = `(() => { ` + describe + `
	const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
	const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
	return call(e) + (seen ? " seen" : " unseen: " + style.outline + " " + JSON.stringify(box));
})()`
