package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
)

// eventScan is the one event that no ledger entry tells of: an image's first scan ended, or another found other
// vulnerabilities.
const eventScan = "scan"

// WantsScans says whether a webhook asks for scans.
func (d *Deliverer) WantsScans() bool {
	return slices.ContainsFunc(d.Webhooks, func(w Webhook) bool { return slices.Contains(w.Events, eventScan) })
}

// scanMessages are what webhooks are told of a scan. They are the same however often they are made.
func (d *Deliverer) scanMessages(e artifact.ScanEvent) ([]artifact.Delivery, error) {
	id := fmt.Sprintf("%s-%d", e.Digest.Short(), e.ScannedAt.UnixMicro())
	event := cloudEvent{SpecVersion: "1.0", ID: "scan-" + id, Source: d.Source, Type: "dev.waybill.scan", Subject: e.Digest.String(), Time: e.ScannedAt.UTC(),
		DataContentType: "application/json", Data: e}
	if len(e.Repositories) > 0 {
		event.Subject = e.Repositories[0].String() + "@" + e.Digest.String()
	}
	body, err := json.Marshal(event)
	if err != nil {
		return nil, err
	}
	var all []artifact.Delivery
	for _, w := range d.Webhooks {
		if slices.Contains(w.Events, eventScan) {
			all = append(all, artifact.Delivery{ID: fmt.Sprintf("msg_scan_%s_%s", id, w.Name), Webhook: w.Name, Type: event.Type, Subject: event.Subject, Body: string(body)})
		}
	}
	return all, nil
}

// Scanned inserts, in the transaction that writes a scan, the messages about it and a job for each.
func (c *Client) Scanned(d *Deliverer) func(ctx context.Context, tx pgx.Tx, e artifact.ScanEvent) error {
	return func(ctx context.Context, tx pgx.Tx, e artifact.ScanEvent) error {
		messages, err := d.scanMessages(e)
		if err != nil {
			return err
		}
		if err := d.Store.InsertDeliveries(ctx, tx, messages); err != nil {
			return err
		}
		return c.deliver(ctx, tx, messages)
	}
}

func (c *Client) deliver(ctx context.Context, tx pgx.Tx, messages []artifact.Delivery) error {
	var all []river.InsertManyParams
	for _, m := range messages {
		all = append(all, river.InsertManyParams{Args: deliverArgs{m.ID}})
	}
	_, err := c.river.InsertManyTx(ctx, tx, all)
	return err
}
