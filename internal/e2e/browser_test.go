package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// shopPipeline asks for one approval before production, by somebody else than who pushed.
const shopPipeline = `apiVersion: waybill/v1
kind: Pipeline
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  environments:
    - name: dev
    - name: staging
      requires: {after: [dev], scan: {maxAge: 168h}}
    - name: production
      requires: {after: [staging], scan: {maxAge: 168h}, approvals: {count: 1, role: approver, notPusher: true}}
`

// shop is a server with services in it, as pages are to be looked at.
type shop struct {
	*waybillServer
	pusher, promoter, approver string
}

// openShop makes who works there, and the pipeline.
func openShop(s *waybillServer) shop {
	s.t.Helper()
	s.ok(s.admin(), "db", "import", root+"/examples/advisories/db.tar.gz")
	_, errs, code := s.waybillIn(shopPipeline, s.admin(), "apply", "-f", "-")
	require.Zero(s.t, code, errs)
	return shop{s, s.token("--role", "pusher", "--name", "ci-shop"), s.token("--role", "promoter", "--name", "ada"), s.token("--role", "approver", "--name", "grace")}
}

// waybillIn is waybill with standard input.
func (s *waybillServer) waybillIn(input, token string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.Command("waybill", args...)
	cmd.Env = append(clean(), "WAYBILL_URL="+s.url, "WAYBILL_TOKEN="+token)
	cmd.Stdin = strings.NewReader(input)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// serviceImage is an image of a service: a base, the program, and what changes from one version to the next.
func serviceImage(t testing.TB, base v1.Layer, program string, content map[string]string, labels map[string]string) v1.Image {
	t.Helper()
	app, err := tarball.LayerFromFile(program)
	require.NoError(t, err)
	img := configured(t, "65532:65532", base, app, files(t, content))
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.Labels, cfg.Config.Entrypoint, cfg.Config.Cmd = labels, []string{"/app/service"}, nil
	cfg.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
	cfg.History = []v1.History{{CreatedBy: "FROM debian:bookworm"}, {CreatedBy: "COPY --from=build /out/service /app/service"}, {CreatedBy: "COPY assets/ /app/assets/"}}
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	return img
}

// signed waits until a push is signed and scanned: until it may be promoted anywhere.
func (s shop) signed(ref string) {
	s.t.Helper()
	s.await("a signature of "+ref, func() bool {
		var shown struct {
			Signatures []any `json:"signatures"`
			Scan       struct {
				State string `json:"state"`
			} `json:"scan"`
		}
		s.json(s.admin(), &shown, "show", ref)
		return len(shown.Signatures) > 0
	})
}

func (s shop) promote(version, environment, reason string) {
	s.t.Helper()
	repository, tag, _ := strings.Cut(version, ":")
	s.ok(s.promoter, "promote", repository, tag, environment, "--reason", reason)
}

// browser opens a headless Chromium that ends with the test.
func browser(t testing.TB, width, height int64) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "chromium is missing: make deps installs it")
	// Tests run as root, where Chromium's sandbox does not; it loads nothing but the pages under test.
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.WindowSize(int(width), int(height)), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	do(t, ctx, chromedp.EmulateViewport(width, height))
	return ctx
}

// patience is how long a browser may take for what it is told.
const patience = time.Minute

// do has a browser take steps.
func do(t testing.TB, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	// The first step starts the browser, which ends with the context that it was given.
	if chromedp.FromContext(ctx) == nil || chromedp.FromContext(ctx).Target == nil {
		require.NoError(t, chromedp.Do(ctx, steps...))
		return
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := chromedp.Do(bounded, steps...); err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Text("body"))
		require.NoError(t, err, "the page says:\n%s", text)
	}
}

// get asks a browser for something.
func get[T any](t testing.TB, ctx context.Context, what chromedp.Action[T]) T {
	t.Helper()
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value, err := chromedp.Run(bounded, what)
	require.NoError(t, err)
	return value
}

// signIn signs a browser in with a token.
func (s *waybillServer) signIn(ctx context.Context, token string) {
	s.t.Helper()
	do(s.t, ctx, chromedp.Navigate(s.url+"/login"), chromedp.SendKeys("#token", token), chromedp.Submit("#token"), visible(".side nav"))
}

// poll waits until an expression is true on a page.
func poll(t testing.TB, ctx context.Context, expression string) {
	t.Helper()
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(bounded, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(100*time.Millisecond))); err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Text("body"))
		require.NoError(t, err, "%s; the page says:\n%s", expression, text)
	}
}

// prefers sets what the reader's system asks for, light or dark.
func prefers(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	})
}

// axeCore is the program of that name, which finds what keeps people from using a page.
func axeCore(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "internal/tools/bin/axe/node_modules/axe-core/axe.min.js"))
	require.NoError(t, err)
	return string(b)
}

// violations are what axe-core finds on a page by the rules of WCAG 2.2, level AA.
func violations(t testing.TB, ctx context.Context, axe string) []string {
	t.Helper()
	// What the debugger evaluates is not held by the page's Content-Security-Policy.
	get(t, ctx, chromedp.Evaluate[bool](axe+";true"))
	return get(t, ctx, chromedp.Evaluate[[]string](`axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.target.join(" ") + ": " + n.failureSummary)))`,
		chromedp.EvalAwaitPromise))
}

// visible waits until a page shows what a selector names. It asks the page: a query of its nodes can be lost while the page
// changes.
func visible(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for {
			// While it goes from one page to the next there is none to ask.
			if shown, err := chromedp.Evaluate[bool](fmt.Sprintf("document.querySelector(%q)?.checkVisibility() === true", selector))(ctx, tab); err == nil && shown {
				return nil
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%s is not visible: %w", selector, ctx.Err())
			}
		}
	})
}
