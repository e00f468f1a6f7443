package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// Withdrawn returns the environments that ran nothing at an instant because what they had run until then was recalled, by
// repository and environment. Recalls are few: it begins with them.
func (db *DB) Withdrawn(ctx context.Context, at time.Time) ([]artifact.Withdrawn, error) {
	rows, err := db.Pool.Query(ctx, `select r.repository, r.environment, r.digest, p.version, p.at, p.actor, p.reason, r.at, r.actor, r.reason, r.advisory from recalls c
		cross join lateral (select * from promotions r where r.repository = c.repository and r.digest = c.digest and r.action = 'recall' and r.at <= $1 offset 0) r
		cross join lateral (select * from promotions p where p.repository = r.repository and p.environment = r.environment and p.action in ('promote', 'rollback') and p.at <= $1
			order by p.id desc limit 1) p
		where p.digest = r.digest order by r.repository, r.environment`, at)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w artifact.Withdrawn, err error) {
		err = row.Scan(&w.Repository, &w.Environment, &w.Digest, &w.Version, &w.Since, &w.Actor, &w.Reason, &w.RecalledAt, &w.RecalledBy, &w.Why, &w.Advisory)
		return w, err
	})
	return all, translate(err)
}
