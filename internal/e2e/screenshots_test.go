package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	pixels "image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestScreenshots makes the pictures of docs/screenshots, where `make screenshots` names that folder; else it shows that every page has one in every
// look, and the README some.
func TestScreenshots(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("WAYBILL_SCREENSHOTS")
	if folder == "" {
		folder = t.TempDir()
	}
	s := serve(t)
	furnish(s)
	shots(t, s, folder)
	if os.Getenv("ONLY") == "" {
		pictured(t, folder)
	}
}

// pictured: each page's template is one that a picture shows, in every look.
func pictured(t *testing.T, folder string) {
	t.Helper()
	// Pictures that are not called as their template is, and what is gone before anybody sees it.
	others := map[string]string{"draft": "preview", "reference": "api", "operations": "api-tokens", "failure": "missing", "signedin": ""}
	templates, err := filepath.Glob(filepath.Join(root, "web/*/*.html"))
	require.NoError(t, err)
	require.NotEmpty(t, templates)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	require.Contains(t, string(readme), "(docs/screenshots/")
	for _, template := range templates {
		name := strings.TrimSuffix(filepath.Base(template), ".html")
		picture, other := others[name]
		if !other {
			picture = name
		}
		if name == "layout" || picture == "" {
			continue
		}
		for _, look := range looks {
			require.FileExists(t, filepath.Join(folder, picture+"-"+look.name+".png"), "%s has no picture", template)
		}
	}
}

// furnish fills a server with services at various points of their way.
func furnish(s *waybillServer) {
	t := s.t
	t.Helper()
	o := openShop(s)
	base, err := tarball.LayerFromFile(debian(t, ""))
	require.NoError(t, err)
	program := programLayer(t)
	noise := func(n int) string {
		b := make([]byte, n)
		_, err := rand.Read(b)
		require.NoError(t, err)
		return base64.StdEncoding.EncodeToString(b)
	}
	push := func(ref string, content map[string]string) {
		content["app/assets/app.css"] = noise(40_000)
		content["app/assets/vendor/charts.js"] = noise(900_000)
		content["app/assets/version"] = ref
		require.NoError(t, s.push(o.pusher, ref, serviceImage(t, base, program, content, map[string]string{
			"org.opencontainers.image.source": "https://git.example/" + ref, "org.opencontainers.image.revision": "3f9c1d2", "note": "<b>not</b> markup"})))
		o.signed(ref)
	}
	everywhere := func(ref, reason string) {
		o.promote(ref, "dev", reason)
		o.promote(ref, "staging", reason)
		repository, tag, _ := strings.Cut(ref, ":")
		s.ok(o.approver, "approve", repository, tag, "production", "--reason", "looked at it in staging")
		o.promote(ref, "production", reason)
	}
	for _, name := range []string{"shop/catalog", "shop/checkout", "shop/returns", "shop/search"} {
		push(name+":v455", map[string]string{"usr/share/doc/bash/copyright": "shorter"})
		everywhere(name+":v455", "release 2026.46")
	}
	push("shop/returns:v456", map[string]string{"app/assets/fonts/inter.woff2": noise(300_000)})
	everywhere("shop/returns:v456", "release 2026.47")
	push("shop/returns:v457", map[string]string{"app/assets/fonts/inter.woff2": noise(320_000), "app/assets/map.js": noise(200_000)})
	o.promote("shop/returns:v457", "dev", "labels for parcels")
	o.promote("shop/returns:v457", "staging", "labels for parcels")
	push("shop/returns:v458", map[string]string{"app/assets/map.js": noise(220_000)})
	o.promote("shop/returns:v458", "dev", "labels, with the font left out")
	o.promote("shop/returns:v458", "staging", "labels, with the font left out")
	push("shop/checkout:v460", map[string]string{})
	o.promote("shop/checkout:v460", "dev", "new payment provider")
	push("shop/search:v456", map[string]string{})
	o.promote("shop/search:v456", "dev", "faster index")
	o.promote("shop/search:v456", "staging", "faster index")
	s.ok(o.approver, "approve", "shop/search", "v456", "production", "--reason", "load test is fine")
	o.promote("shop/search:v456", "production", "release 2026.47")
	s.ok(o.promoter, "rollback", "shop/search", "production", "--reason", "slow for long words")
	push("shop/catalog:v456", map[string]string{})
	everywhere("shop/catalog:v456", "release 2026.47")
	s.ok(o.promoter, "recall", "shop/catalog:v456", "--reason", "prices without tax", "--advisory", "https://status.example/2026-47")
	require.Error(t, s.push(o.pusher, "shop/reports:v1", configured(t, "", base)), "it runs as root")
	office(o, "shop/checkout", "shop/returns", "shop/search")
}

// programLayer is a layer with a real Go program.
func programLayer(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "examples/returns/returns"))
	require.NoError(t, err)
	layer := files(t, map[string]string{"app/service": string(b)})
	r, err := layer.Compressed()
	require.NoError(t, err)
	defer r.Close()
	path := filepath.Join(t.(interface{ TempDir() string }).TempDir(), "program.tar.gz")
	var all bytes.Buffer
	_, err = all.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, all.Bytes(), 0o600))
	return path
}

// looks are how pages are looked at.
var looks = []struct {
	name          string
	width, height int64
	scheme        string
}{{"light", 1440, 900, "light"}, {"dark", 1440, 900, "dark"}, {"narrow", 360, 780, "light"}}

// shots looks at every page.
func shots(t testing.TB, s *waybillServer, folder string) {
	var shown struct {
		Manifest struct {
			Digest string `json:"digest"`
		} `json:"manifest"`
	}
	s.json(s.admin(), &shown, "show", "shop/returns:v458")
	paths := []struct{ name, path string }{
		{"board", "/"}, {"promote", "/promote?service=shop/returns&environment=production&version=v458"}, {"digest", "/d/shop/returns:v458"},
		{"compare", "/compare?from=shop/returns:v456&to=shop/returns:v458"}, {"ledger", "/ledger"}, {"repository", "/r/shop/returns"}, {"repositories", "/repositories"},
		{"cve", "/cves?id=CVE-2026-12087"}, {"approvals", "/approvals"}, {"pipelines", "/pipelines"}, {"rollback", "/rollback?service=shop/returns&environment=production"},
		{"policies", "/policies"}, {"policy", "/policies/shop?from=1&to=2"}, {"preview", "/policies/shop"}, {"builds", "/builds"}, {"build", "/builds/" + lastBuild(s)},
		{"audit", "/audit"}, {"pulls", "/audit?view=pulls"},
		{"recall", "/recall?ref=shop/returns@" + shown.Manifest.Digest}, {"tokens", "/tokens"}, {"storage", "/storage"}, {"advisories", "/advisories"}, {"api", "/api/docs"}, {"api-tokens", "/api/docs/tokens"},
	}
	var denied struct {
		Entries []struct {
			Digest string `json:"digest"`
		} `json:"entries"`
	}
	status, found := s.get(s.admin(), "/api/v1/ledger/search?kind=push.denied&ref=shop/reports")
	require.Equal(t, 200, status, found)
	require.NoError(t, json.Unmarshal([]byte(found), &denied))
	require.NotEmpty(t, denied.Entries)
	paths = append(paths, []struct{ name, path string }{{"denied", "/d/shop/reports@" + denied.Entries[0].Digest}, {"recalled", "/d/shop/catalog:v456"}, {"missing", "/nowhere"}}...)
	only := os.Getenv("ONLY")
	for _, look := range looks {
		ctx := browser(t, look.width, look.height)
		take := func(name string) {
			picture := get(t, ctx, chromedp.FullScreenshot(100))
			require.NoError(t, os.WriteFile(filepath.Join(folder, name+"-"+look.name+".png"), small(t, picture), 0o644))
		}
		do(t, ctx, prefers(look.scheme))
		if only == "" || strings.Contains(only, "login") {
			do(t, ctx, chromedp.Navigate(s.url+"/login"), visible("#token"))
			take("login")
		}
		s.signIn(ctx, s.admin())
		for _, page := range paths {
			if only != "" && !strings.Contains(only, page.name) {
				continue
			}
			do(t, ctx, chromedp.Navigate(s.url+page.path), visible("h1"))
			if page.name == "ledger" {
				do(t, ctx, chromedp.Click("[data-verify-button]"), visible("[data-verify-steps] li:nth-child(2)"))
			}
			if page.name == "preview" {
				edit(t, ctx, stricterShop)
				press(t, ctx, `button[value="preview"]`, "#impact")
			}
			take(page.name)
		}
	}
}

// maxPicture is how much of a long page is kept, in pixels.
const maxPicture = 2400

// small cuts a long picture, and reduces its colours to a palette: a third of the bytes.
func small(t testing.TB, picture []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	bounds := full.Bounds()
	bounds.Max.Y = min(bounds.Max.Y, maxPicture)
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA {
		r, g, b, _ := full.At(x, y).RGBA()
		return color.RGBA{uint8(r>>8) &^ 3, uint8(g>>8) &^ 3, uint8(b>>8) &^ 3, 255}
	}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	often := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	palette := color.Palette{}
	for _, c := range often[:min(len(often), 128)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	reduced := pixels.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := at(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			reduced.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, reduced))
	return b.Bytes()
}
