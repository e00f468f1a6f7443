package jobs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
)

// deliveries keeps one message.
type deliveries struct{ held artifact.Delivery }

func (d *deliveries) QueueDeliveries(context.Context, func(int64, ledger.Entry) ([]artifact.Delivery, error), func(context.Context, pgx.Tx, []string) error) (int, error) {
	return 0, nil
}
func (d *deliveries) InsertDeliveries(context.Context, pgx.Tx, []artifact.Delivery) error { return nil }
func (d *deliveries) Delivery(context.Context, string) (artifact.Delivery, error)         { return d.held, nil }
func (d *deliveries) SaveDelivery(_ context.Context, m artifact.Delivery) error {
	d.held = m
	return nil
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	secret, err := ParseWebhookSecret([]byte("whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")) + "\n"))
	require.NoError(t, err)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		status  int
		attempt int
		state   artifact.DeliveryState
		again   bool
	}{
		"taken":       {204, 1, artifact.DeliveryDelivered, false},
		"broken":      {500, 1, artifact.DeliveryFailed, true},
		"for ever":    {500, deliveryAttempts, artifact.DeliveryDropped, true},
		"elsewhere":   {302, 1, artifact.DeliveryFailed, true},
		"gone":        {410, 1, artifact.DeliveryDropped, false},
		"unwelcome":   {403, 2, artifact.DeliveryFailed, true},
		"a late take": {200, 9, artifact.DeliveryDelivered, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
			mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				mac := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
				mac.Write([]byte(r.Header.Get("webhook-id") + "." + r.Header.Get("webhook-timestamp") + "."))
				mac.Write(body)
				if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want || r.Header.Get("webhook-timestamp") != "1795262400" {
					t.Errorf("signature %s at %s, want %s", r.Header.Get("webhook-signature"), r.Header.Get("webhook-timestamp"), want)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
			})
			s := httptest.NewServer(mux)
			defer s.Close()
			store := &deliveries{}
			d := &Deliverer{Store: store, Source: "https://registry.example.com", Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
				Webhooks: []Webhook{{Name: "chat", URL: s.URL + "/hook", Events: []string{"promote"}, Secret: func() ([]byte, error) { return secret, nil }}}}
			none, err := d.messages(6, ledger.Entry{Kind: ledger.KindRecall})
			require.NoError(t, err)
			require.Empty(t, none, "what nobody asked for")
			repository, err := artifact.ParseRepository("shop/returns")
			require.NoError(t, err)
			made, err := d.messages(7, ledger.Entry{Kind: ledger.KindPromotion, Actor: "user:ada", At: now, Repository: repository, Digest: artifact.DigestOf([]byte("v456"))})
			require.NoError(t, err)
			require.Len(t, made, 1)
			var event map[string]any
			require.NoError(t, json.Unmarshal([]byte(made[0].Body), &event))
			require.Equal(t, "1.0", event["specversion"])
			require.Equal(t, "dev.waybill.promotion", event["type"])
			require.Equal(t, "shop/returns@"+artifact.DigestOf([]byte("v456")).String(), event["subject"])
			require.Equal(t, "2026-11-21T12:00:00Z", event["time"])
			store.held = made[0]

			err = d.Work(t.Context(), &river.Job[deliverArgs]{JobRow: &rivertype.JobRow{Attempt: c.attempt, MaxAttempts: deliveryAttempts}, Args: deliverArgs{made[0].ID}})
			require.Equal(t, c.state, store.held.State, "%v", err)
			require.Equal(t, c.status, store.held.Status)
			require.Equal(t, c.attempt, store.held.Attempts)
			var cancelled *river.JobCancelError
			if c.again {
				require.Error(t, err)
				require.NotErrorAs(t, err, &cancelled)
				require.NotEmpty(t, store.held.Problem)
			} else if c.state == artifact.DeliveryDropped {
				require.ErrorAs(t, err, &cancelled, "no other attempt will do better")
			} else {
				require.NoError(t, err)
			}
		})
	}
	t.Run("a scan", func(t *testing.T) {
		t.Parallel()
		repository, err := artifact.ParseRepository("shop/returns")
		require.NoError(t, err)
		digest := artifact.DigestOf([]byte("v456"))
		e := artifact.ScanEvent{Digest: digest, Repositories: []artifact.Repository{repository}, ScannedAt: now, DatabaseDigest: digest, Counts: map[artifact.Severity]int{artifact.High: 2}, Added: 1}
		d := &Deliverer{Webhooks: []Webhook{{Name: "chat", Events: []string{"promote"}}}}
		require.False(t, d.WantsScans())
		none, err := d.scanMessages(e)
		require.NoError(t, err)
		require.Empty(t, none)
		d.Webhooks = append(d.Webhooks, Webhook{Name: "security", Events: []string{"scan"}})
		require.True(t, d.WantsScans())
		made, err := d.scanMessages(e)
		require.NoError(t, err)
		require.Len(t, made, 1)
		require.Equal(t, "security", made[0].Webhook)
		var event struct {
			ID, Type, Subject string
			Data              artifact.ScanEvent
		}
		require.NoError(t, json.Unmarshal([]byte(made[0].Body), &event))
		require.Equal(t, "dev.waybill.scan", event.Type)
		require.Equal(t, "shop/returns@"+digest.String(), event.Subject)
		require.Equal(t, e, event.Data)
	})
	for _, bad := range []string{"", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!"} {
		_, err := ParseWebhookSecret([]byte(bad))
		require.Error(t, err, bad)
	}
}
