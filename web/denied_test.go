package web_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestDenied: whoever may look sees what a denied push was, and why; a tag that only it had leads there.
func TestDenied(t *testing.T) {
	t.Parallel()
	r := open(t, store{})
	board := r.signIn("reader")
	require.Contains(t, board, `href="/d/shop/returns@`+digest.String(), "what was denied lately leads to its page")
	status, page, _ := r.get("/d/shop/returns@" + refused.String())
	require.Equal(t, 200, status)
	for _, want := range []string{"The push of it was denied", "nobody can pull", "ledger entry 77", "baseline@1", "CVE-2024-24790", "libssl3", "3 MiB", "COPY &lt;i&gt;", "usr/lib"} {
		require.Contains(t, page, want)
	}
	for _, not := range []string{"docker pull", "Promote it", "Recall", "Nothing refers to it", "not signed yet"} {
		require.NotContains(t, page, not)
	}
	harmless(t, page)
	status, short, _ := r.get("/d/shop/returns@" + refused.Hex()[:12])
	require.Equal(t, 200, status)
	require.Contains(t, short, "The push of it was denied")
	_, page, _ = r.get("/r/shop/returns")
	require.Contains(t, page, "Denied lately")
	require.Contains(t, page, `href="/d/shop/returns@`+refused.String())

	status, page, _ = r.get("/d/shop/returns:bad")
	require.Equal(t, 404, status)
	require.Contains(t, page, "was denied")
	require.Contains(t, page, `href="/d/shop/returns@`+refused.String())
	status, page, _ = r.get("/d/shop/returns:never")
	require.Equal(t, 404, status)
	require.NotContains(t, page, refused.String())
	r = open(t, store{})
	r.signIn("deployer")
	for _, name := range []string{":bad", "@" + refused.Hex()[:12]} {
		_, page, _ = r.get("/d/shop/returns" + name)
		require.NotContains(t, page, refused.String())
	}
}

// TestRecalled: of what was recalled no page says that it is allowed, and each says by whom, when and why.
func TestRecalled(t *testing.T) {
	t.Parallel()
	r := open(t, store{recalled: true, fresh: true})
	r.signIn("admin")
	_, page, _ := r.get("/d/shop/returns@" + digest.String())
	for _, want := range []string{"<b>Recalled</b>", "1 h ago", "grace", "https://status.example/7", "never: it was recalled"} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "not yet")
	require.NotContains(t, page, "Promote it")
	head, _, _ := strings.Cut(page, "Its journey")
	require.NotContains(t, head, "allow")
	harmless(t, page)
}

// TestFirstPromotion: what never was promoted is promoted from its own page, and from its repository's.
func TestFirstPromotion(t *testing.T) {
	t.Parallel()
	r := open(t, store{fresh: true})
	r.signIn("admin")
	_, page, _ := r.get("/d/shop/returns@" + digest.String())
	require.Contains(t, page, `href="/promote?service=shop%2freturns&amp;environment=dev&amp;version=`+strings.Replace(digest.String(), ":", "%3a", 1)+`">Promote to dev`)
	require.Contains(t, page, "What production asks for", "dev comes before")
	_, page, _ = r.get("/r/shop/returns")
	require.Contains(t, page, `action="/promote"`)
	require.Contains(t, page, "<option>dev</option><option>production</option>")

	r = open(t, store{})
	r.signIn("admin")
	_, page, _ = r.get("/d/shop/returns@" + digest.String())
	require.NotContains(t, page, "Promote to dev", "it runs there")
	require.Contains(t, page, "Promote to production")

	r = open(t, store{fresh: true})
	r.signIn("reader")
	_, page, _ = r.get("/d/shop/returns@" + digest.String())
	require.NotContains(t, page, "Promote to")
	require.Contains(t, page, "What dev asks for")
	_, page, _ = r.get("/r/shop/returns")
	require.NotContains(t, page, `action="/promote"`)
}

// slowly answers when who asks has left.
type slowly struct {
	store
	asked chan struct{}
}

func (s slowly) Affected(ctx context.Context, _ string, _ artifact.Digest, _ int) ([]artifact.Affected, artifact.Digest, error) {
	close(s.asked)
	<-ctx.Done()
	return nil, artifact.Digest{}, ctx.Err()
}

// records counts what is logged.
type records struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (r *records) Handle(_ context.Context, record slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, record.Message)
	return nil
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }

// TestLeft: that somebody left before the answer is no failure of the server's.
func TestLeft(t *testing.T) {
	t.Parallel()
	log, s := &records{}, slowly{asked: make(chan struct{})}
	r := openLogging(t, s, slog.New(log))
	r.signIn("admin")
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/cves?id=CVE-2024-1", nil)
	require.NoError(t, err)
	go func() { <-s.asked; leave() }()
	_, err = r.client.Do(req) //nolint:bodyclose // there is none
	require.ErrorIs(t, err, context.Canceled)
	r.stop()
	require.Empty(t, log.all)
}
