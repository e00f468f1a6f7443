package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// The statement of Status and StatusOf. An index is scanned when each of its images is, and has the findings of all.
// "offset 0" has rows looked up by their keys: what runs is a small part of what was ever pushed, promoted and judged.
const (
	statusTree = `with recursive tree (repository, root, digest) as (
			select distinct repository, digest, digest from deployments`
	statusCells = `
			union
			select t.repository, t.root, r.digest from tree t cross join lateral (select digest from manifest_references r
				where r.repository = t.repository and r.manifest = t.digest and r.kind = 'manifest' offset 0) r
		), image as (
			select t.repository, t.root, s.state, s.counts from tree t
			cross join lateral (select from manifests m where m.repository = t.repository and m.digest = t.digest and m.is_image offset 0) m
			left join lateral (select state, counts from scans s where s.digest = t.digest offset 0) s on true
		), scanned as (
			select i.repository, i.root, case when bool_or(i.state = 'failed') then 'failed' when bool_and(coalesce(i.state, '') = 'scanned') then 'scanned' else 'pending' end as state
			from image i group by i.repository, i.root
		), counted as (
			select repository, root, jsonb_object_agg(severity, n) as counts from (select i.repository, i.root, c.key as severity, sum(c.value::bigint) as n
				from image i, jsonb_each_text(i.counts) c group by i.repository, i.root, c.key) sums group by repository, root
		)
		select d.repository, d.environment, d.digest, d.version, d.since, p.actor, p.reason,
			case when v.outcome = 'allow' and v.until <= $1 then 'pending' else coalesce(v.outcome, 'pending') end, coalesce(s.state, 'pending'), coalesce(c.counts, '{}'), coalesce(g.signed, false),
			case when t.digest is not null then jsonb_build_object('repository', t.repository, 'digest', t.digest, 'response', t.response, 'reasons', t.reasons, 'policyHash', t.policy_hash,
				'environments', t.environments, 'ledgerIndex', t.ledger_index, 'since', t.since) end
		from deployments d cross join lateral (select actor, reason from promotions p where p.id = d.promotion offset 0) p
		left join lateral (select outcome, until from verdicts v where v.repository = d.repository and v.digest = d.digest offset 0) v on true
		left join lateral (select true as signed from signatures s join signing_keys k on k.id = s.key_id left join signing_key_revocations r on r.key = s.key_id
			where s.repository = d.repository and s.digest = d.digest and s.predicate = '' and s.signed_at is not null and (r.key is null or ` + provenBefore + `) offset 0) g on true
		left join turned_bad t on t.repository = d.repository and t.digest = d.digest
		left join scanned s on s.repository = d.repository and s.root = d.digest
		left join counted c on c.repository = d.repository and c.root = d.digest`
	statusOrder = ` order by d.repository, d.environment`
)

// Status returns every cell of the board: what each environment runs, with what is known of it now.
func (db *DB) Status(ctx context.Context) ([]artifact.Status, error) {
	rows, err := db.Pool.Query(ctx, statusTree+statusCells+statusOrder, db.now())
	return collectStatus(rows, err)
}

// StatusOf is Status of some repositories.
func (db *DB) StatusOf(ctx context.Context, repositories []artifact.Repository) ([]artifact.Status, error) {
	rows, err := db.Pool.Query(ctx, statusTree+` where repository = any($2)`+statusCells+` where d.repository = any($2)`+statusOrder, db.now(), names(repositories))
	return collectStatus(rows, err)
}

func collectStatus(rows pgx.Rows, err error) ([]artifact.Status, error) {
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s artifact.Status, err error) {
		err = row.Scan(&s.Repository, &s.Environment, &s.Digest, &s.Version, &s.Since, &s.Actor, &s.Reason, &s.Verdict, &s.Scan, &s.Counts, &s.Signed, &s.Bad)
		return s, err
	})
	return all, translate(err)
}

// cells is what Cells returned last: many look at the board at once.
type cells struct {
	mu  sync.Mutex
	at  time.Time // when it was asked for
	all []artifact.Cell
}

// Cells returns what each environment runs, with the little that a board counts of all of it: whether the policies of now
// deny it, and whether something severe was found in it. It is remembered until something changes that pages show: every
// decision, signature and scan is told of (00021_board.sql). Nobody may change what is returned.
func (db *DB) Cells(ctx context.Context) ([]artifact.Cell, error) {
	known := &db.cells
	known.mu.Lock()
	all, at := known.all, known.at
	known.mu.Unlock()
	if !at.IsZero() && db.hot.fresh() && !db.changes.since(at) {
		return all, nil
	}
	at = time.Now()
	all, err := db.readCells(ctx)
	if err == nil {
		known.mu.Lock()
		defer known.mu.Unlock()
		if at.After(known.at) {
			known.all, known.at = all, at
		}
	}
	return all, err
}

func (db *DB) readCells(ctx context.Context) ([]artifact.Cell, error) {
	rows, err := db.Pool.Query(ctx, `with recursive tree (repository, root, digest) as (
			select distinct repository, digest, digest from deployments
			union
			select t.repository, t.root, r.digest from tree t cross join lateral (select digest from manifest_references r
				where r.repository = t.repository and r.manifest = t.digest and r.kind = 'manifest' offset 0) r
		), found as (
			select t.repository, t.root, bool_or(s.counts ?| array['critical', 'high'] and coalesce((s.counts ->> 'critical')::bigint, 0) + coalesce((s.counts ->> 'high')::bigint, 0) > 0) as severe
			from tree t cross join lateral (select counts from scans s where s.digest = t.digest offset 0) s group by t.repository, t.root
		), judged as (
			select t.repository, t.root, v.outcome = 'deny' as denied
			from tree t cross join lateral (select outcome from verdicts v where v.repository = t.repository and v.digest = t.digest offset 0) v where t.root = t.digest
		)
		select d.repository, d.environment, d.digest, d.version, d.since, coalesce(v.denied, false) or t.digest is not null, coalesce(f.severe, false)
		from deployments d left join judged v on v.repository = d.repository and v.root = d.digest left join found f on f.repository = d.repository and f.root = d.digest
		left join turned_bad t on t.repository = d.repository and t.digest = d.digest`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c artifact.Cell, err error) {
		err = row.Scan(&c.Repository, &c.Environment, &c.Digest, &c.Version, &c.Since, &c.Denied, &c.Severe)
		return c, err
	})
	return all, translate(err)
}

// A push on the board, of $1, at $2, and what it is one of: an image or index, not something attached.
const (
	pushColumns = `v.repository, v.digest, v.reference, case when v.outcome = 'allow' and v.until <= $2 then 'pending' else v.outcome end, v.reasons, v.actor, v.decided_at`
	pushIs      = `v.outcome = $1 and ($1 <> 'allow' or exists (select from manifests m where m.repository = v.repository and m.digest = v.digest and (m.is_image or m.is_index)))`
)

// RecentPushes returns the newest pushes of an outcome, newest first; of images and indexes, not of what is attached.
func (db *DB) RecentPushes(ctx context.Context, outcome artifact.Outcome, limit int) ([]artifact.PushRecord, error) {
	rows, err := db.Pool.Query(ctx, `select `+pushColumns+` from verdicts v where `+pushIs+` order by v.decided_at desc limit $3`, outcome, db.now(), limit)
	return collectPushes(rows, err)
}

// RecentPushesTo is RecentPushes to some repositories. It looks into each of them.
func (db *DB) RecentPushesTo(ctx context.Context, repositories []artifact.Repository, outcome artifact.Outcome, limit int) ([]artifact.PushRecord, error) {
	rows, err := db.Pool.Query(ctx, `select `+pushColumns+` from unnest($4::text[]) as asked (name)
		cross join lateral (select * from verdicts v where v.repository = asked.name and `+pushIs+` order by v.decided_at desc limit $3) v
		order by v.decided_at desc limit $3`, outcome, db.now(), limit, names(repositories))
	return collectPushes(rows, err)
}

func collectPushes(rows pgx.Rows, err error) ([]artifact.PushRecord, error) {
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.PushRecord])
	return all, translate(err)
}
