package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestTokensInTheBrowser: an admin makes a token on a page, somebody uses it, and it is revoked there.
func TestTokensInTheBrowser(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := browser(t, 1280, 900)
	s.signIn(admin, s.admin())
	do(t, admin, chromedp.Click(`nav a[href="/tokens"]`), visible("#name"), chromedp.SendKeys("#name", "ci <shop>"), chromedp.Click(`input[name="role"][value="deployer"]`),
		chromedp.Click(`form.stack button`), visible(".problem"))
	require.Contains(t, get(t, admin, chromedp.Text(".problem")), "a deployer is one of an environment")
	do(t, admin, chromedp.Click(`input[name="environments"][value="production"]`), chromedp.SendKeys("#repositories", "shop/**"),
		chromedp.Click(`form.stack button`), visible(".secret"))
	secret := strings.TrimSpace(get(t, admin, chromedp.Text(".secret")))
	require.Contains(t, get(t, admin, chromedp.Text(".made")), "deployer for production, in shop/**")
	asked := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/v1/repositories", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, asked())

	node := browser(t, 1280, 900)
	s.signIn(node, secret)
	require.Zero(t, get(t, node, chromedp.Evaluate[int](`document.querySelectorAll('nav a[href="/tokens"], nav a[href="/storage"], nav a[href="/advisories"]').length`)))
	do(t, node, chromedp.Navigate(s.url+"/tokens"), visible("h1"))
	require.Contains(t, get(t, node, chromedp.Text("main")), "may not see tokens")

	do(t, admin, chromedp.Navigate(s.url+"/tokens?q=shop"), visible(".thing"))
	require.Contains(t, get(t, admin, chromedp.Text(".thing")), "ci <shop>")
	require.NotContains(t, get(t, admin, chromedp.Text("main")), secret, "it was shown once")
	do(t, admin, chromedp.Click(".thing summary"), visible(".thing .danger"), chromedp.Click(".thing .danger"), visible(".told"))
	require.Contains(t, get(t, admin, chromedp.Text(".told")), "Revoked token")
	s.await("the end of the token", func() bool { return asked() == 401 })
	do(t, node, chromedp.Navigate(s.url+"/"), visible("#token"))
	do(t, admin, chromedp.Navigate(s.url+"/tokens?show=ended"), visible(".thing"))
	require.Contains(t, get(t, admin, chromedp.Text(".thing")), "revoked")
}

// TestStorageInTheBrowser: what repositories share is said, a dry run removes nothing, and a collection what it said.
func TestStorageInTheBrowser(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("registry: {gcGrace: 1s, quota: 1Gi}\n"), 0o600))
	s := serve(t, "--config", config)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	for _, name := range []string{"shop/a", "shop/b"} {
		require.NoError(t, s.push(s.admin(), name+":v1", configured(t, "65532:65532", base, files(t, map[string]string{"app/name": name}))))
	}
	var shown struct {
		Manifest struct {
			Digest string `json:"digest"`
		} `json:"manifest"`
	}
	s.json(s.admin(), &shown, "show", "shop/b:v1")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.url+"/v2/shop/b/manifests/"+shown.Manifest.Digest, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.admin())
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 202, resp.StatusCode)

	admin := browser(t, 1280, 900)
	s.signIn(admin, s.admin())
	do(t, admin, chromedp.Navigate(s.url+"/storage"), visible("#gc"))
	require.Contains(t, get(t, admin, chromedp.Text("#repositories")), "shop/b")
	s.await("that something may be collected", func() bool {
		do(t, admin, chromedp.Click(`form[action="/storage/gc"] button[value="dry"]`), visible("#garbage"))
		return strings.Contains(get(t, admin, chromedp.Text("#garbage")), "shop/b")
	})
	before := s.ok(s.admin(), "gc", "--dry-run")
	require.Contains(t, before, "shop/b", "the dry run removed nothing")
	do(t, admin, chromedp.Click(`form[action="/storage/gc"] button[value="run"]`), visible(".told"))
	require.Contains(t, get(t, admin, chromedp.Text(".told")), "Collected garbage")
	require.Contains(t, get(t, admin, chromedp.Text("#gc .runs")), "by first-admin: removed")
	s.await("that shop/b has less", func() bool {
		do(t, admin, chromedp.Navigate(s.url+"/storage?q=shop/b"), visible("#repositories"))
		return !strings.Contains(get(t, admin, chromedp.Text("#repositories tbody")), "MiB")
	})
	s.ok(s.admin(), "fsck")
	do(t, admin, chromedp.Navigate(s.url+"/storage"), visible("#fsck"))
	require.Contains(t, get(t, admin, chromedp.Text("#fsck .runs")), "all as they should be")
	do(t, admin, chromedp.Navigate(s.url+"/advisories"), visible("#images"))
	require.Contains(t, get(t, admin, chromedp.Text("main")), "every scan is pending")
}

// TestReferenceInTheBrowser: what the API does is found by typing, without an account, and without scripts too.
func TestReferenceInTheBrowser(t *testing.T) {
	t.Parallel()
	s := serve(t)
	tab := browser(t, 1280, 900)
	do(t, tab, chromedp.Navigate(s.url+"/api/docs"), visible("#q"), chromedp.SendKeys("#q", "gc admin"))
	poll(t, tab, `[...document.querySelectorAll("[data-filter-words]:not([hidden])")].map((e) => e.textContent).join().includes("/api/v1/gc")`)
	require.Equal(t, "1", strings.Fields(get(t, tab, chromedp.Text("[data-filter-count]")))[0])
	do(t, tab, chromedp.SendKeys("#q", " no such thing"), visible("[data-filter-none]"))
	do(t, tab, chromedp.Navigate(s.url+"/api/docs?q=gc+admin"), visible("[data-filter-words]"))
	require.Equal(t, 1, get(t, tab, chromedp.Evaluate[int](`document.querySelectorAll("[data-filter-words]").length`)), "the server filters as well")
	do(t, tab, chromedp.Click("[data-filter-words] a"), visible("#collect-garbage"))
	require.Contains(t, get(t, tab, chromedp.Text("#collect-garbage")), "waybill gc --dry-run")

	// What it says to type works.
	line := get(t, tab, chromedp.Text("#collect-garbage pre"))
	out, errs, code := command(t, "", []string{"WAYBILL_URL=" + s.url, "WAYBILL_TOKEN=" + s.admin()}, "sh", "-c", strings.Replace(line, "curl", "curl -sS", 1))
	require.Zero(t, code, errs)
	require.Contains(t, out, "freedBytes")
}
