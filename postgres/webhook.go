package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// tellAtOnce bounds the ledger entries that are read in one transaction.
const tellAtOnce = 200

// QueueDeliveries reads the ledger from where it was read last, and records in one transaction what message makes of each
// entry; insert is to make a job of each. It returns how many entries were read. Of replicas one does so at a time.
func (db *DB) QueueDeliveries(ctx context.Context, message func(index int64, e ledger.Entry) ([]artifact.Delivery, error),
	insert func(ctx context.Context, tx pgx.Tx, ids []string) error,
) (n int, err error) {
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		n = 0
		var next int64
		if err := tx.QueryRow(ctx, `select next from webhook_cursor for update skip locked`).Scan(&next); errors.Is(err, pgx.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select index, body from ledger_entries where index >= $1 order by index limit $2`, next, tellAtOnce)
		if err != nil {
			return err
		}
		var (
			index int64
			body  []byte
			ids   []string
			all   []artifact.Delivery
		)
		if _, err := pgx.ForEachRow(rows, []any{&index, &body}, func() error {
			n, next = n+1, index+1
			e, err := ledger.Parse(body)
			if err != nil {
				return nil //nolint:nilerr // an audit says what is wrong with it
			}
			messages, err := message(index, e)
			all = append(all, messages...)
			return err
		}); err != nil || n == 0 {
			return err
		}
		if err := db.InsertDeliveries(ctx, tx, all); err != nil {
			return err
		}
		for _, d := range all {
			ids = append(ids, d.ID)
		}
		if _, err := tx.Exec(ctx, `update webhook_cursor set next = $1`, next); err != nil {
			return err
		}
		if len(ids) == 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `delete from webhook_deliveries where created_at < now() - interval '30 days' and state in ('delivered', 'dropped')`); err != nil {
			return err
		}
		return insert(ctx, tx, ids)
	})
	return n, err
}

// InsertDeliveries records messages that are to be sent, in the transaction of what they tell of.
func (db *DB) InsertDeliveries(ctx context.Context, tx pgx.Tx, all []artifact.Delivery) error {
	for _, d := range all {
		if _, err := tx.Exec(ctx, `insert into webhook_deliveries (id, webhook, type, subject, body) values ($1, $2, $3, $4, $5) on conflict do nothing`, d.ID, d.Webhook, d.Type, d.Subject, d.Body); err != nil {
			return err
		}
	}
	return nil
}

const deliveryColumns = `id, webhook, type, subject, state, attempts, status, problem, created_at, since, body`

// Delivery returns one message with its body.
func (db *DB) Delivery(ctx context.Context, id string) (artifact.Delivery, error) {
	rows, err := db.Pool.Query(ctx, `select `+deliveryColumns+` from webhook_deliveries where id = $1`, id)
	if err != nil {
		return artifact.Delivery{}, translate(err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[artifact.Delivery])
	return d, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no delivery %.100q", id))
}

// SaveDelivery records what an attempt came to.
func (db *DB) SaveDelivery(ctx context.Context, d artifact.Delivery) error {
	_, err := db.Pool.Exec(ctx, `update webhook_deliveries set state = $2, attempts = $3, status = $4, problem = $5, since = now() where id = $1`, d.ID, string(d.State), d.Attempts, d.Status, d.Problem)
	return translate(err)
}

// Deliveries returns the newest messages, newest first, at most 1000.
func (db *DB) Deliveries(ctx context.Context) ([]artifact.Delivery, error) {
	rows, err := db.Pool.Query(ctx, `select `+deliveryColumns+` from webhook_deliveries order by created_at desc, id desc limit 1000`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Delivery])
	return all, translate(err)
}
