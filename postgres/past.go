package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// DeploymentsAt returns what each environment of some repositories ran at an instant, from the record of promotions: the
// last promotion or rollback until then, unless that was taken back.
func (db *DB) DeploymentsAt(ctx context.Context, repositories []artifact.Repository, at time.Time) ([]artifact.Deployment, error) {
	rows, err := db.Pool.Query(ctx, `select p.repository, p.environment, p.digest, p.version, p.at, p.actor, p.reason
		from (select distinct repository, environment from promotions where repository = any($1)) l
		cross join lateral (select * from promotions p where p.repository = l.repository and p.environment = l.environment and p.action in ('promote', 'rollback') and p.at <= $2
			order by p.id desc limit 1) p
		where not exists (select from promotions r where r.repository = p.repository and r.environment = p.environment and r.id > p.id and r.digest = p.digest
			and r.action in ('recall', 'retire') and r.at <= $2)
		order by p.repository, p.environment`, names(repositories), at)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Deployment])
	return all, translate(err)
}

// PromotionsUntil returns the last promotions, rollbacks and recalls of all repositories until an instant, newest first.
func (db *DB) PromotionsUntil(ctx context.Context, at time.Time, limit int) ([]artifact.Promotion, error) {
	rows, err := db.Pool.Query(ctx, `select `+promotionColumns+` from promotions where at <= $1 order by at desc, id desc limit $2`, at, limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
	return all, translate(err)
}

// PromotionsAfter returns the first ones after an instant, in their order.
func (db *DB) PromotionsAfter(ctx context.Context, at time.Time, limit int) ([]artifact.Promotion, error) {
	rows, err := db.Pool.Query(ctx, `select `+promotionColumns+` from promotions where at > $1 order by at, id limit $2`, at, limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
	return all, translate(err)
}

// FirstPromotion returns when anything was first promoted; false when nothing was.
func (db *DB) FirstPromotion(ctx context.Context) (at time.Time, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select at from promotions order by id limit 1`).Scan(&at)
	return at, err == nil, ignoreNoRows(err)
}

// maxAhead is how far a lead is counted.
const maxAhead = 99

// Leads returns by how many promotions the first environment of each pair is ahead of the second: how often it got
// another digest since it ran what the second runs now, in some repositories. Of a digest that never was in the first, all
// count.
func (db *DB) Leads(ctx context.Context, repositories []artifact.Repository, pairs [][2]artifact.Environment) ([]artifact.Lead, error) {
	from, to := make([]string, len(pairs)), make([]string, len(pairs))
	for i, pair := range pairs {
		from[i], to[i] = pair[0].String(), pair[1].String()
	}
	rows, err := db.Pool.Query(ctx, `select a.repository, a.environment, b.environment, n.behind
		from unnest($1::text[], $2::text[]) as pair (ahead, behind)
		join deployments b on b.environment = pair.behind and b.repository = any($4)
		join deployments a on a.repository = b.repository and a.environment = pair.ahead and a.digest <> b.digest
		cross join lateral (select count(*) as behind from (select from promotions p where p.repository = a.repository and p.environment = a.environment
			and p.action in ('promote', 'rollback') and p.id > coalesce((select max(q.id) from promotions q
				where q.repository = a.repository and q.environment = a.environment and q.digest = b.digest), 0) limit $3) counted) n`, from, to, maxAhead, names(repositories))
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Lead])
	return all, translate(err)
}

// ApprovalsOf returns the approvals in force of digests for environments.
func (db *DB) ApprovalsOf(ctx context.Context, candidates []artifact.Deployment) ([]artifact.Approval, error) {
	var repositories, digests, environments []string
	for _, d := range candidates {
		repositories, digests, environments = append(repositories, d.Repository.String()), append(digests, d.Digest.String()), append(environments, d.Environment.String())
	}
	rows, err := db.Pool.Query(ctx, `select `+approvalColumns+` from unnest($1::text[], $2::text[], $3::text[]) as wanted (r, d, e)
		join approvals on repository = r and digest = d and environment = e and revoked_at is null order by id`, orNone(repositories), orNone(digests), orNone(environments))
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, scanApproval)
	return all, translate(err)
}
