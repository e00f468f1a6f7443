package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/auth"
)

// failureRows is how many counts of failed logins are read at a time: the newest, and whoever fails with more addresses at
// once is not stopped by counting them.
const failureRows = 1000

// ShareFailures adds failed logins to those of other replicas, by key, of which perMinute come back in a minute. It returns what
// was counted since a time of the database's clock, and that clock. Counts that are worth nothing any more are dropped.
func (db *DB) ShareFailures(ctx context.Context, own map[string]int, perMinute int, since time.Time) (all []auth.Failure, now time.Time, err error) {
	batch := &pgx.Batch{}
	if len(own) > 0 {
		var keys []string
		for key := range own {
			keys = append(keys, key)
		}
		slices.Sort(keys) // rows are locked in one order, so that replicas do not wait for each other
		counts := make([]float64, len(keys))
		for i, key := range keys {
			counts[i] = float64(own[key])
		}
		batch.Queue(`insert into login_failures as f (key, spent) select key, least(count, $3) from unnest($1::text[], $2::float8[]) as own (key, count)
			on conflict (key) do update set at = now(), spent = least($3, excluded.spent + greatest(0, f.spent - $3 / 60 * extract(epoch from now() - f.at)))`, keys, counts, float64(perMinute))
		batch.Queue(`delete from login_failures where at < now() - interval '2 minutes'`)
	}
	batch.Queue(`select key, spent, extract(epoch from now() - at) * interval '1 second', now() from login_failures where at > $1 order by at desc limit $2`, since, failureRows).
		Query(func(rows pgx.Rows) error {
			var f auth.Failure
			_, err := pgx.ForEachRow(rows, []any{&f.Key, &f.Spent, &f.Age, &now}, func() error {
				all = append(all, f)
				return nil
			})
			return err
		})
	return all, now, translate(db.Pool.SendBatch(ctx, batch).Close())
}
