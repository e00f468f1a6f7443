package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// receiver is where a webhook is told. It refuses each message once, and keeps the others.
type receiver struct {
	t      *testing.T
	secret []byte
	url    string

	mu      sync.Mutex
	refused map[string]bool
	events  []event
}

// event is what the tests look at of a CloudEvent.
type event struct {
	SpecVersion, ID, Source, Type, Subject string
	Data                                   struct {
		LedgerIndex int64
		Entry       struct{ Kind, Actor, Reason, Environment string }
	}
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, secret: []byte("0123456789abcdef0123456789abcdef"), refused: make(map[string]bool)}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL + "/hooks/waybill"
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id := q.Header.Get("Webhook-Id")
	sum := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(sum, "%s.%s.%s", id, q.Header.Get("Webhook-Timestamp"), body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Header.Get("Webhook-Signature") != "v1,"+base64.StdEncoding.EncodeToString(sum.Sum(nil)) {
		r.t.Errorf("the message %s is not signed", id)
	}
	if !r.refused[id] {
		r.refused[id] = true
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Error(err)
	}
	r.events = append(r.events, e)
}

// types returns what it was told, oldest entry first.
func (r *receiver) types() (types []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.events, func(a, b event) int { return int(a.Data.LedgerIndex - b.Data.LedgerIndex) })
	for _, e := range r.events {
		types = append(types, strings.TrimPrefix(e.Type, "dev.waybill."))
	}
	return types
}

// serveShop starts a server with a pipeline that asks two people, and webhooks that go to r.
func serveShop(t *testing.T, r *receiver) *waybillServer {
	t.Helper()
	dir := t.TempDir()
	secret, config := filepath.Join(dir, "secret"), filepath.Join(dir, "waybill.yaml")
	require.NoError(t, os.WriteFile(secret, []byte("whsec_"+base64.StdEncoding.EncodeToString(r.secret)), 0o600))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "webhooks:\n  - {name: chat, url: %q, secretFile: %s, events: [push, deny, scan, sign, promote, rollback, recall, approve, override, release]}\n", r.url, secret), 0o600))
	s := serve(t, "--config", config)
	pipeline := filepath.Join(dir, "pipeline.yaml")
	require.NoError(t, os.WriteFile(pipeline, []byte(`apiVersion: waybill/v1
kind: Pipeline
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  environments:
    - {name: dev}
    - name: production
      requires:
        after: [dev]
        approvals: {count: 2, role: approver, notPusher: true}
        expression: {cel: "promotion.reason != ''", message: say why with --reason}
`), 0o600))
	s.ok(s.admin(), "apply", "-f", pipeline)
	return s
}

// TestPeopleDecide: two people approve, a promotion waits for them, a release moves all of its services or none, an override is on
// record as one, and a webhook is told of all of it, in spite of its first refusal of each message.
func TestPeopleDecide(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	s := serveShop(t, r)
	pusher, promoter := s.token("--role", "pusher", "--name", "ci"), s.token("--role", "promoter", "--name", "rita", "--environment", "dev", "--environment", "production")
	ada, bob := s.token("--role", "approver", "--name", "ada"), s.token("--role", "approver", "--name", "bob")
	returns := s.pushed(pusher, "shop/returns:v456", configured(t, "1", files(t, map[string]string{"a": "1"})))
	cart := s.pushed(pusher, "shop/cart:v81", configured(t, "1", files(t, map[string]string{"b": "1"})))
	for _, d := range []string{"shop/returns@" + returns, "shop/cart@" + cart} {
		s.signed(pusher, d)
	}

	out, errs, code := s.waybill(promoter, "promote", "returns", "v456", "production")
	require.Equal(t, 1, code, out)
	for _, unmet := range []string{"not promoted to dev", "2 approvals", "say why with --reason"} {
		require.Contains(t, errs, unmet)
	}
	s.ok(promoter, "promote", "returns", "v456", "dev", "--reason", "week 47")

	wait := exec.CommandContext(context.Background(), "waybill", "promote", "returns", "v456", "production", "--reason", "week 47", "--wait", "--timeout", "2m")
	wait.Env = append(clean(), "WAYBILL_URL="+s.url, "WAYBILL_TOKEN="+promoter)
	said := &logBuffer{}
	wait.Stderr = said
	require.NoError(t, wait.Start())
	s.await("it to say what it waits for", func() bool {
		return strings.Contains(said.String(), "2 approvals") || strings.Contains(said.String(), "approv")
	})
	require.Contains(t, s.ok(bob, "approvals"), "returns", "what waits is listed")
	_, errs, code = s.waybill(pusher, "approve", "returns", "v456", "production")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "approver")
	s.ok(ada, "approve", "returns", "v456", "production", "--reason", "load test 88 is fine")
	_, errs, code = s.waybill(ada, "approve", "returns", "v456", "production")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "already", "nobody counts twice")
	s.ok(bob, "approve", "returns", "v456", "production")
	require.NoError(t, wait.Wait(), said)
	require.Equal(t, returns, s.current(promoter, "shop/returns:production"))

	// A release: cart is not in dev, so neither of them moves.
	s.ok(promoter, "release", "create", "shop-2026.47", "returns@v456", "cart@v81")
	_, errs, code = s.waybill(promoter, "release", "promote", "shop-2026.47", "production", "--reason", "week 47")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "shop/cart: ")
	s.ok(promoter, "release", "promote", "shop-2026.47", "dev")
	require.Equal(t, cart, s.current(promoter, "shop/cart:dev"))
	require.Contains(t, s.ok(promoter, "release", "list"), "shop-2026.47")

	// An override takes an admin and a reason.
	_, errs, code = s.waybill(promoter, "promote", "cart", "v81", "production", "--override", "--reason", "the shop is down")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "admin")
	_, errs, code = s.waybill(s.admin(), "promote", "cart", "v81", "production", "--override")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--reason")
	s.ok(s.admin(), "promote", "cart", "v81", "production", "--override", "--reason", "the shop is down")
	s.ok(s.admin(), "recall", "shop/cart@"+cart, "--reason", "it was not the cart", "--advisory", "https://advisories.example/1")
	require.Contains(t, s.ok(s.admin(), "history", "cart"), "the shop is down")

	require.Error(t, s.push(pusher, "shop/returns:rooted", configured(t, "0", files(t, map[string]string{"a": "2"}))))
	s.ok(s.admin(), "db", "import", advisories(t))
	want := map[string]int{"push.accepted": 2, "push.denied": 1, "scan": 2, "signed": 2, "promotion": 4, "approval": 2, "release": 1, "override": 1, "recall": 1}
	s.await("all of it to be told", func() bool {
		told := make(map[string]int)
		for _, kind := range r.types() {
			told[kind]++
		}
		for kind, n := range want {
			if told[kind] < n {
				return false
			}
		}
		return true
	})
	var log server.DeliveryList
	s.await("the log of deliveries to have each as delivered, at the second attempt", func() bool {
		s.json(s.admin(), &log, "webhooks", "deliveries")
		return !slices.ContainsFunc(log.Deliveries, func(d artifact.Delivery) bool { return d.State != artifact.DeliveryDelivered || d.Attempts < 2 })
	})
	require.GreaterOrEqual(t, len(log.Deliveries), 16)
	s.ok(s.admin(), "audit")
}
