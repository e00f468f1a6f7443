package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/jobs"
	"waybill/postgres"
	"waybill/server"
)

// WebhookConfig is somebody to tell what was decided.
type WebhookConfig struct {
	// Name is what it is called here, and in the log of deliveries.
	Name string `yaml:"name"`
	// URL is what messages are posted to, https:// or http://. No redirect is followed.
	URL string `yaml:"url"`
	// Events are those to tell of: push, deny, sign, promote, rollback, recall, approve, override, release, retire, turned-bad, scan.
	Events []string `yaml:"events"`
	// SecretFile holds whsec_ and 24 to 64 random bytes in base64; it is read at each delivery.
	SecretFile string `yaml:"secretFile"`
}

var webhookName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// wrong returns what is wrong with it, and in which key.
func (w WebhookConfig) wrong() (key string, wrong error) {
	u, err := url.Parse(w.URL)
	switch {
	case !webhookName.MatchString(w.Name):
		return ".name", fmt.Errorf("name is %.100q; want lower-case letters, digits and -", w.Name)
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil:
		return ".url", errors.New("want https://HOST/PATH, without a password")
	case len(w.Events) == 0:
		return ".events", errors.New("want some of " + strings.Join(sortedKeys(jobs.WebhookEvents), ", "))
	case w.SecretFile == "":
		return ".secretFile", errors.New("want a file with whsec_ and random bytes, which receivers verify messages with")
	}
	for i, e := range w.Events {
		if _, ok := jobs.WebhookEvents[e]; !ok {
			return fmt.Sprintf(".events[%d]", i), fmt.Errorf("there is no event %.60q; want some of %s", e, strings.Join(sortedKeys(jobs.WebhookEvents), ", "))
		}
	}
	return "", nil
}

// wrongWebhook returns what is wrong with the first webhook that cannot be, and where that is written.
func (cfg *Config) wrongWebhook() (at string, wrong error) {
	for i, w := range cfg.Webhooks {
		place := fmt.Sprintf("$.webhooks[%d]", i)
		if key, wrong := w.wrong(); wrong != nil {
			return place + key, wrong
		}
		if slices.ContainsFunc(cfg.Webhooks[:i], func(other WebhookConfig) bool { return other.Name == w.Name }) {
			return place + ".name", fmt.Errorf("another webhook is called %s too", w.Name)
		}
	}
	return "", nil
}

// deliverer tells the configured webhooks; a secret that cannot be read is told at the start.
func (cfg *Config) deliverer(db *postgres.DB, logger *slog.Logger) (*jobs.Deliverer, error) {
	d := &jobs.Deliverer{Store: db, Source: "/waybill", Logger: logger, Now: time.Now}
	if cfg.ExternalURL != "" {
		d.Source = cfg.ExternalURL
	}
	for _, w := range cfg.Webhooks {
		secret := func() ([]byte, error) {
			text, err := os.ReadFile(w.SecretFile)
			if err != nil {
				return nil, err
			}
			return jobs.ParseWebhookSecret(text)
		}
		if _, err := secret(); err != nil {
			return nil, fmt.Errorf("webhook %s: secretFile %s: %w", w.Name, w.SecretFile, err)
		}
		d.Webhooks = append(d.Webhooks, jobs.Webhook{Name: w.Name, URL: w.URL, Events: w.Events, Secret: secret})
	}
	return d, nil
}

func newWebhooks() *cobra.Command {
	cmd := &cobra.Command{Use: "webhooks", Short: "See what webhooks were told"}
	deliveries := &cobra.Command{Use: "deliveries", Short: "Show the newest messages to webhooks, and how far they are", Args: exactly(0)}
	output := outputFlag(deliveries)
	deliveries.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.DeliveryList
		if err := c.get(ctx, "/webhooks/deliveries", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			if none(w, len(out.Deliveries), "no webhook was told of anything; the server's configuration says which there are, under webhooks") {
				return
			}
			t := newTable(w, "at", "webhook", "message", "type", "subject", "state", "attempts", "status", "problem")
			for _, d := range out.Deliveries {
				t.AppendRow([]any{stamp(d.CreatedAt), printable(d.Webhook), printable(d.ID), printable(d.Type), printable(d.Subject), d.State, d.Attempts, d.Status, clip(d.Problem, 100)})
			}
			t.Render()
		})
	})
	cmd.AddCommand(deliveries)
	return cmd
}
