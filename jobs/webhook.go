package jobs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/ledger"
)

// WebhookEvents are what a webhook may ask for, with the kind of ledger entry that tells of it; of scans none does.
var WebhookEvents = map[string]string{
	"push": "push.accepted", "deny": "push.denied", "sign": "signed", "promote": ledger.KindPromotion, "rollback": ledger.KindRollback, "recall": ledger.KindRecall,
	"approve": ledger.KindApproval, "override": ledger.KindOverride, "release": ledger.KindRelease, "retire": ledger.KindRetire, "turned-bad": ledger.KindTurnedBad,
	eventScan: "",
}

// Webhook is where messages go: only what the configuration names is ever called.
type Webhook struct {
	Name   string
	URL    string
	Events []string
	Secret func() ([]byte, error) // read at each delivery, so that it may be changed
}

// DeliveryStore keeps messages; *postgres.DB is one.
type DeliveryStore interface {
	QueueDeliveries(ctx context.Context, message func(index int64, e ledger.Entry) ([]artifact.Delivery, error), insert func(ctx context.Context, tx pgx.Tx, ids []string) error) (int, error)
	// InsertDeliveries records messages that are to be sent.
	InsertDeliveries(ctx context.Context, tx pgx.Tx, all []artifact.Delivery) error
	Delivery(ctx context.Context, id string) (artifact.Delivery, error)
	SaveDelivery(ctx context.Context, d artifact.Delivery) error
}

// queueWebhook is apart, so that a receiver that is slow or away holds up nothing here.
const queueWebhook = "webhook"

// Bounds of a delivery.
const (
	deliveryAttempts = 16 // over some fifteen hours
	deliveryTimeout  = 15 * time.Second
	maxAnswer        = 4 << 10 // bytes that are read of an answer
)

type deliverArgs struct {
	ID string `json:"id"`
}

func (deliverArgs) Kind() string { return "deliver" }

func (deliverArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueWebhook, MaxAttempts: deliveryAttempts}
}

// Deliverer tells webhooks what was decided: CloudEvents 1.0 in JSON, signed as Standard Webhooks are.
type Deliverer struct {
	river.WorkerDefaults[deliverArgs]

	Store    DeliveryStore
	Webhooks []Webhook
	Source   string // of the events: this server
	Logger   *slog.Logger
	Now      func() time.Time
}

// cloudEvent is the JSON format of CloudEvents 1.0.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            any       `json:"data"` // a decision, or an artifact.ScanEvent
}

// decision is a ledger entry, and where it stands.
type decision struct {
	Index int64        `json:"ledgerIndex"`
	Entry ledger.Entry `json:"entry"`
}

// messages are what webhooks are told of a ledger entry.
func (d *Deliverer) messages(index int64, e ledger.Entry) ([]artifact.Delivery, error) {
	var all []artifact.Delivery
	for _, w := range d.Webhooks {
		if !slices.ContainsFunc(w.Events, func(event string) bool { return WebhookEvents[event] == e.Kind }) {
			continue
		}
		event := cloudEvent{SpecVersion: "1.0", ID: "entry-" + strconv.FormatInt(index, 10), Source: d.Source, Type: "dev.waybill." + e.Kind, Time: e.At,
			DataContentType: "application/json", Data: decision{index, e}}
		if event.Subject = e.Subject; !e.Digest.IsZero() {
			event.Subject = e.Repository.String() + "@" + e.Digest.String()
		}
		body, err := json.Marshal(event)
		if err != nil {
			return nil, err
		}
		all = append(all, artifact.Delivery{ID: fmt.Sprintf("msg_%d_%s", index, w.Name), Webhook: w.Name, Type: event.Type, Subject: event.Subject, Body: string(body)})
	}
	return all, nil
}

// Work makes one attempt.
func (d *Deliverer) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	message, err := d.Store.Delivery(ctx, job.Args.ID)
	if artifact.KindOf(err) == artifact.NotFound {
		return river.JobCancel(err)
	} else if err != nil {
		return err
	}
	message.Attempts = job.Attempt
	var gone bool
	message.Status, gone, err = d.send(ctx, message)
	message.State, message.Problem = artifact.DeliveryDelivered, ""
	if err != nil {
		message.State, message.Problem = artifact.DeliveryFailed, err.Error()
		if gone || job.Attempt >= job.MaxAttempts {
			message.State = artifact.DeliveryDropped
		}
		d.Logger.Warn("a webhook was not told yet", "webhook", message.Webhook, "message", message.ID, "attempt", job.Attempt, "error", err)
	}
	saved := d.Store.SaveDelivery(context.WithoutCancel(ctx), message)
	if gone {
		return river.JobCancel(errors.Join(err, saved))
	}
	return errors.Join(err, saved)
}

// NextRetry waits from two seconds up to six hours, each time twice as long.
func (*Deliverer) NextRetry(job *river.Job[deliverArgs]) time.Time {
	return time.Now().Add(min(time.Second<<min(job.Attempt, 20), 6*time.Hour))
}

// send makes one request. gone says that no other will do better.
func (d *Deliverer) send(ctx context.Context, m artifact.Delivery) (status int, gone bool, err error) {
	at := slices.IndexFunc(d.Webhooks, func(w Webhook) bool { return w.Name == m.Webhook })
	if at < 0 {
		return 0, true, fmt.Errorf("the configuration has no webhook %s any more", m.Webhook)
	}
	w := d.Webhooks[at]
	secret, err := w.Secret()
	if err != nil {
		return 0, false, fmt.Errorf("its secret: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, strings.NewReader(m.Body))
	if err != nil {
		return 0, false, err
	}
	stamp := strconv.FormatInt(d.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "waybill")
	req.Header.Set("webhook-id", m.ID)
	req.Header.Set("webhook-timestamp", stamp)
	req.Header.Set("webhook-signature", signature(secret, m.ID, stamp, m.Body))
	// Another place than the configuration names is none of its: no redirect is followed.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	switch res.StatusCode / 100 {
	case 2:
		return res.StatusCode, false, nil
	case 3:
		return res.StatusCode, false, fmt.Errorf("it answered %s, and no redirect is followed; configure the URL that it leads to", res.Status)
	}
	return res.StatusCode, res.StatusCode == http.StatusGone, fmt.Errorf("it answered %s", res.Status)
}

// signature is that of Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).
func signature(secret []byte, id, stamp, body string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// ParseWebhookSecret parses whsec_ and base64, of 24 to 64 bytes.
func ParseWebhookSecret(text []byte) ([]byte, error) {
	encoded, ok := strings.CutPrefix(string(bytes.TrimSpace(text)), "whsec_")
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, errors.New("want whsec_ and 24 to 64 random bytes in base64, such as of: echo whsec_$(openssl rand -base64 32)")
	}
	return secret, nil
}

// Tell reads the ledger as it grows, until ctx is done, and has webhooks told.
func (c *Client) Tell(ctx context.Context, d *Deliverer) {
	insert := func(ctx context.Context, tx pgx.Tx, ids []string) error {
		var all []river.InsertManyParams
		for _, id := range ids {
			all = append(all, river.InsertManyParams{Args: deliverArgs{id}})
		}
		_, err := c.river.InsertManyTx(ctx, tx, all)
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n, err := d.Store.QueueDeliveries(ctx, d.messages, insert)
		if err != nil && ctx.Err() == nil {
			d.Logger.Warn("webhooks are not told of what is new", "error", err)
		}
		if n > 0 && err == nil {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
