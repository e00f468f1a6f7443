package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/promotion"
)

// Pipelines returns the pipelines in force, by name.
func (db *DB) Pipelines(ctx context.Context) ([]promotion.Versioned, error) {
	return inForce(db, "Pipeline", func() ([]promotion.Versioned, error) { return db.readPipelines(ctx) })
}

func (db *DB) readPipelines(ctx context.Context) ([]promotion.Versioned, error) {
	rows, err := db.CurrentDocuments(ctx, "Pipeline")
	if err != nil {
		return nil, err
	}
	var all []promotion.Versioned
	for _, row := range rows {
		parsed, err := promotion.Parse(row.Name, []byte(row.Body))
		if err != nil || len(parsed) != 1 {
			return nil, fmt.Errorf("pipeline %s@%d in the database: %w", row.Name, row.Version, err)
		}
		all = append(all, promotion.Versioned{Pipeline: parsed[0], Version: row.Version})
	}
	return all, nil
}

// Evidence collects what the gates look at. Of a signature only one whose artifact is still here counts.
func (db *DB) Evidence(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (promotion.Evidence, error) {
	var e promotion.Evidence
	rows, err := db.Pool.Query(ctx, `select environment, at from (select distinct on (environment) environment, action, at from promotions where repository = $1 and digest = $2
		order by environment, id desc) last where action in ('promote', 'rollback')`, repository, digest)
	if err != nil {
		return e, translate(err)
	}
	var (
		reached artifact.Environment
		at      time.Time
	)
	e.Since = map[artifact.Environment]time.Time{}
	if _, err := pgx.ForEachRow(rows, []any{&reached, &at}, func() error {
		e.Reached, e.Since[reached] = append(e.Reached, reached), at
		return nil
	}); err != nil {
		return e, translate(err)
	}
	if e.Approvals, e.Pushers, err = db.Approvals(ctx, repository, digest); err != nil {
		return e, err
	}
	if err := scanSigned(db.Pool.QueryRow(ctx, signedBy, repository, digest), &e); err != nil {
		return e, translate(err)
	}
	if e.Recalled, err = recalledIn(ctx, db.Pool, repository, digest); err != nil {
		return e, translate(err)
	}
	images, err := db.imagesOf(ctx, repository, digest)
	if err != nil {
		return e, err
	}
	for _, image := range images {
		scan, err := db.Scan(ctx, image)
		if err != nil {
			return e, err
		}
		e.Scans = append(e.Scans, scan)
	}
	return e, nil
}

// signedBy is of which key the signature of digest $2 in repository $1 is, what carries it, and why that key counts no longer.
const signedBy = `select s.key_id, s.manifest, case when k.id is null then 'is none of this service''s'
			when r.key is not null and not ` + provenBefore + ` then 'was revoked by ' || r.actor || ': ' || r.reason else '' end
		from signatures s join manifests m on m.repository = s.repository and m.digest = s.manifest
		left join signing_keys k on k.id = s.key_id left join signing_key_revocations r on r.key = s.key_id
		where s.repository = $1 and s.digest = $2 and s.predicate = '' and s.signed_at is not null`

// scanSigned adds what signedBy returns, if it is signed.
func scanSigned(row pgx.Row, e *promotion.Evidence) error {
	err := row.Scan(&e.KeyID, &e.Signature, &e.KeyRefused)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// recalledIn says of a digest, and of each manifest of an index, who recalled it and why.
func recalledIn(ctx context.Context, q querier, repository artifact.Repository, digest artifact.Digest) ([]string, error) {
	rows, err := q.Query(ctx, indexTree+`select case when r.digest = $2 then 'it' else 'the index holds ' || r.digest || ', which' end || ' was recalled by ' || r.actor || ': ' || r.reason || case when r.advisory = '' then '' else ', see ' || r.advisory end
		from tree t join recalls r on r.repository = $1 and r.digest = t.digest order by r.digest <> $2, r.digest`, repository, digest)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// indexTree is a digest $2 of repository $1 and, of an index, all manifests below it.
const indexTree = `with recursive tree (digest) as (
		select $2::text union
		select r.digest from tree t join manifest_references r on r.repository = $1 and r.manifest = t.digest and r.kind = 'manifest') `

// imagesOf returns the image itself, or each image of an index.
func (db *DB) imagesOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, indexTree+`select m.digest from tree t join manifests m on m.repository = $1 and m.digest = t.digest where m.is_image order by m.digest`, repository, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}

// Current returns what an environment runs.
func (db *DB) Current(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error) {
	d, err := deployment(ctx, db.Pool, `where d.repository = $1 and d.environment = $2`, repository, environment)
	return d, err == nil, ignoreNoRows(err)
}

func deployment(ctx context.Context, q querier, where string, args ...any) (d artifact.Deployment, err error) {
	err = q.QueryRow(ctx, `select d.repository, d.environment, d.digest, d.version, d.since, p.actor, p.reason from deployments d join promotions p on p.id = d.promotion `+where, args...).
		Scan(&d.Repository, &d.Environment, &d.Digest, &d.Version, &d.Since, &d.Actor, &d.Reason)
	return d, err
}

func ignoreNoRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return translate(err)
}

// Trail returns the promotions and rollbacks to an environment, in order, of digests that are still here and were not
// recalled.
func (db *DB) Trail(ctx context.Context, repository artifact.Repository, environment artifact.Environment) ([]artifact.Promotion, error) {
	rows, err := db.Pool.Query(ctx, `select `+promotionColumns+` from promotions p where repository = $1 and environment = $2 and action in ('promote', 'rollback')
		and not exists (select from recalls r where r.repository = $1 and r.digest = p.digest)
		and exists (select from manifests m where m.repository = $1 and m.digest = p.digest) order by id`, repository, environment)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
	return all, translate(err)
}

// Promote makes the digest of each move, for which its pass is, the current one of an environment, and writes its grants
// and the ledger entry, of all moves in one transaction. Promotions to a repository's environments take turns: each goes
// from its Previous, and it is a Conflict when the pointer has moved by now. A digest that is current already stays so:
// nothing is recorded, and the promotion returned has no ID.
func (db *DB) Promote(ctx context.Context, moves ...promotion.Move) ([]artifact.Promotion, error) {
	// In one order, or two of them would wait for each other.
	order := make([]int, len(moves))
	for i, m := range moves {
		defer db.hot.forget(m.Repository)
		if !m.Pass.Promotes() || m.Pass.Digest() != m.Digest || m.Pass.Repository() != m.Repository || m.Pass.PolicyHash() != m.PolicyHash {
			return nil, artifact.Errorf(artifact.Denied, "no verdict allows %s@%s", m.Repository, m.Digest)
		}
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int { return strings.Compare(moves[x].Repository.String(), moves[y].Repository.String()) })
	done := make([]artifact.Promotion, len(moves))
	defer db.changes.touch()
	err := db.Transact(ctx, func(tx pgx.Tx) error {
		for _, i := range order {
			if err := lockGrants(ctx, tx, moves[i].Repository); err != nil {
				return err
			}
		}
		for _, i := range order {
			var err error
			if done[i], err = db.promote(ctx, tx, moves[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// promote makes one move. The caller holds lockGrants.
func (db *DB) promote(ctx context.Context, tx pgx.Tx, m promotion.Move) (artifact.Promotion, error) {
	p := m.Promotion
	current, err := deployment(ctx, tx, `where d.repository = $1 and d.environment = $2`, p.Repository, p.Environment)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return p, err
	}
	if current.Digest == p.Digest && (p.Action != "rollback" || p.Previous == p.Digest) {
		p.Previous = current.Digest
		return p, nil
	}
	if current.Digest != p.Previous {
		return p, moved(p, current)
	}
	if err := staysHere(ctx, tx, p.Repository, p.Digest); err != nil {
		return p, err
	}
	if err := db.stillPasses(ctx, tx, m); err != nil {
		return p, err
	}
	recalled, err := recalledIn(ctx, tx, p.Repository, p.Digest)
	if err != nil {
		return p, err
	}
	if len(recalled) > 0 {
		return p, artifact.Coded(artifact.Denied, "DENIED", "%s@%s: %s", p.Repository, p.Digest, strings.Join(recalled, "; "))
	}
	if err := holdApprovals(ctx, tx, m.Approvals); err != nil {
		return p, err
	}
	if err := db.move(ctx, tx, &p, m.Evidence); err != nil {
		return p, err
	}
	if _, err := tx.Exec(ctx, `delete from turned_bad where repository = $1 and digest = $2`, p.Repository, p.Digest); err != nil {
		return p, err
	}
	return p, db.useWaivers(ctx, tx, m.Pass.Waivers(), "", ledger.Entry{Actor: p.Actor, At: p.At, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment, PolicyHash: p.PolicyHash, Reason: "promotion"})
}

// moved tells who lost a race who won it.
func moved(p artifact.Promotion, current artifact.Deployment) error {
	again := map[string]string{"promote": "promote", "rollback": "roll back"}[p.Action]
	if current.Digest.IsZero() {
		return artifact.Errorf(artifact.Conflict, "%s of %s lost %s at this moment, which was recalled; look at `waybill status`, then %s again", p.Environment, p.Repository, p.Previous, again)
	}
	return artifact.Errorf(artifact.Conflict, "%s of %s was moved to %s %s by %s at this moment; look at `waybill status`, then %s again if it shall run %s nevertheless",
		p.Environment, p.Repository, current.Version, current.Digest, current.Actor, again, p.Digest)
}

// stillPasses refuses a move that another policy or pipeline, a waiver's end, or the revocation of the key that signed has overtaken. None
// is applied, and no key revoked, until the transaction ends: whoever judges everything again then, finds what was promoted.
func (db *DB) stillPasses(ctx context.Context, tx pgx.Tx, m promotion.Move) error {
	var (
		policies, pipelines int
		now                 promotion.Evidence
	)
	looking := &pgx.Batch{} // each statement sees what the lock waited for
	looking.Queue(`select pg_advisory_xact_lock_shared($1)`, int64(lockPolicy))
	looking.Queue(`select count(*) filter (where kind = 'Policy'), count(*) filter (where kind = 'Pipeline') from documents`).QueryRow(func(row pgx.Row) error { return row.Scan(&policies, &pipelines) })
	looking.Queue(signedBy, m.Repository, m.Digest).QueryRow(func(row pgx.Row) error { return scanSigned(row, &now) })
	if err := tx.SendBatch(ctx, looking).Close(); err != nil {
		return err
	}
	if policies > m.Pass.Versions() || !m.Pass.Holds(db.now()) {
		return artifact.Errorf(artifact.Conflict, "the policies, or a waiver, changed at this moment; look at `waybill verdict`, and promote again")
	}
	if pipelines > m.Versions {
		return artifact.Errorf(artifact.Conflict, "the pipelines changed at this moment; promote again, by the gates of now")
	}
	if now.KeyRefused != "" {
		return artifact.Errorf(artifact.Conflict, "%s@%s is signed by key %.12s, which %s, at this moment; promote again when it is signed by the key in force", m.Repository, m.Digest, now.KeyID, now.KeyRefused)
	}
	return nil
}

func (db *DB) move(ctx context.Context, tx pgx.Tx, p *artifact.Promotion, evidence []artifact.Digest) error {
	if err := grant(ctx, tx, p.Repository, p.Digest, p.Environment); err != nil {
		return err
	}
	kind := ledger.KindPromotion
	if p.Action == "rollback" {
		kind = ledger.KindRollback
	}
	p.At = moment(p.At)
	var err error
	if len(p.Overridden) > 0 {
		if _, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindOverride, Actor: p.Actor, At: p.At, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment,
			Version: p.Version, PolicyHash: p.PolicyHash, Reasons: p.Overridden, Reason: p.Reason}); err != nil {
			return err
		}
	}
	if p.LedgerIndex, err = appendLedger(ctx, tx, ledger.Entry{Kind: kind, Actor: p.Actor, At: p.At, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment,
		Version: p.Version, Previous: p.Previous, PolicyHash: p.PolicyHash, Evidence: evidence, Subject: p.Release, Reason: p.Reason}); err != nil {
		return err
	}
	if err := insertPromotion(ctx, tx, p); err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, `insert into deployments (repository, environment, digest, version, promotion, since) values ($1, $2, $3, $4, $5, $6)
		on conflict (repository, environment) do update set digest = excluded.digest, version = excluded.version, promotion = excluded.promotion, since = excluded.since`,
		p.Repository, p.Environment, p.Digest, p.Version, p.ID, p.At); err != nil || db.OnPromoted == nil {
		return err
	}
	return db.OnPromoted(ctx, tx, *p)
}

// staysHere keeps a manifest from being deleted until the transaction ends; NotFound when it was.
func staysHere(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error {
	locked, err := tx.Exec(ctx, `select from manifests where repository = $1 and digest = $2 for key share`, repository, digest)
	if err == nil && locked.RowsAffected() == 0 {
		err = artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s@%s was deleted at this moment", repository, digest)
	}
	return err
}

// moment is the time that a ledger entry and the rows beside it share; zero means now.
func moment(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return ledger.Instant(t)
}

func insertPromotion(ctx context.Context, tx pgx.Tx, p *artifact.Promotion) error {
	return tx.QueryRow(ctx, `insert into promotions (action, repository, environment, digest, version, previous, actor, reason, policy_hash, ledger_index, at, overridden, release, advisory)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) returning id`, p.Action, p.Repository, p.Environment, p.Digest, p.Version, p.Previous, p.Actor, p.Reason,
		p.PolicyHash, p.LedgerIndex, p.At, orNone(p.Overridden), p.Release, p.Advisory).Scan(&p.ID)
}

// Recall withdraws a digest: its grants and pointers go, in every environment of the repository, and it never comes
// back. An environment whose current one it was has none until the next promotion or rollback. What other promotions
// share with it stays. Recalling it again changes nothing.
func (db *DB) Recall(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor, reason, advisory string) error {
	defer db.withdrawn(repository)
	defer db.changes.touch()
	return db.Transact(ctx, func(tx pgx.Tx) error { return recall(ctx, tx, repository, digest, actor, reason, advisory) })
}

// Holding returns the repositories that hold a manifest, sorted.
func (db *DB) Holding(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error) {
	rows, err := db.Pool.Query(ctx, `select repository from manifests where digest = $1 order by repository`, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Repository])
	return all, translate(err)
}

func recall(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest, actor, reason, advisory string) error {
	if err := lockGrants(ctx, tx, repository); err != nil {
		return err
	}
	at := moment(time.Time{})
	tag, err := tx.Exec(ctx, `insert into recalls (repository, digest, actor, reason, at, advisory) select $1, $2, $3, $4, $5, $6 where exists
		(select from manifests where repository = $1 and digest = $2) on conflict do nothing`, repository, digest, actor, reason, at, advisory)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return recalledBefore(ctx, tx, repository, digest)
	}
	environments, err := withdraw(ctx, tx, repository, digest)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `delete from deployments where repository = $1 and digest = $2`, repository, digest); err != nil {
		return err
	}
	// It is promoted nowhere any more; that a policy recalled it is still to be shown.
	if _, err := tx.Exec(ctx, `delete from turned_bad where repository = $1 and digest = $2 and response <> 'recall'`, repository, digest); err != nil {
		return err
	}
	index, err := appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindRecall, Actor: actor, At: at, Repository: repository, Digest: digest, Environments: environments, Subject: advisory, Reason: reason})
	if err != nil {
		return err
	}
	for _, e := range environments {
		p := artifact.Promotion{Action: "recall", Repository: repository, Environment: e, Digest: digest, Actor: actor, Reason: reason, LedgerIndex: index, At: at, Advisory: advisory}
		if err := insertPromotion(ctx, tx, &p); err != nil {
			return err
		}
	}
	return nil
}

// recalledBefore returns nil when the digest was recalled already, else that it is not here.
func recalledBefore(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error {
	var recalled bool
	if err := tx.QueryRow(ctx, `select exists (select from recalls where repository = $1 and digest = $2)`, repository, digest).Scan(&recalled); err != nil || recalled {
		return err
	}
	return artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repository, digest)
}

const promotionColumns = `id, action, repository, environment, digest, version, previous, actor, reason, policy_hash, ledger_index, at, overridden, release, advisory`

// History returns the promotions, rollbacks and recalls of a repository (the zero one: of all) in the order in which
// they happened.
func (db *DB) History(ctx context.Context, repository artifact.Repository) ([]artifact.Promotion, error) {
	all, err := history(ctx, db.Pool, repository)
	return all, translate(err)
}

func history(ctx context.Context, q querier, repository artifact.Repository) ([]artifact.Promotion, error) {
	sql, args := `select `+promotionColumns+` from promotions where repository = $1 order by id`, []any{repository}
	if repository.IsZero() {
		sql, args = `select `+promotionColumns+` from promotions order by id`, nil
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
}

// HistoryPage is History of a repository, newest first: at most n behind the first ones, and how many there are in all.
func (db *DB) HistoryPage(ctx context.Context, repository artifact.Repository, behind, n int) (page []artifact.Promotion, all int, err error) {
	if err := db.Pool.QueryRow(ctx, `select count(*) from promotions where repository = $1`, repository).Scan(&all); err != nil {
		return nil, 0, translate(err)
	}
	rows, err := db.Pool.Query(ctx, `select `+promotionColumns+` from promotions where repository = $1 order by id desc offset $2 limit $3`, repository, behind, n)
	if err != nil {
		return nil, 0, translate(err)
	}
	page, err = pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
	return page, all, translate(err)
}

// Deployments returns what each environment of a repository (the zero one: of all) runs now.
func (db *DB) Deployments(ctx context.Context, repository artifact.Repository) ([]artifact.Deployment, error) {
	all, err := deployments(ctx, db.Pool, repository)
	return all, translate(err)
}

func deployments(ctx context.Context, q querier, repository artifact.Repository) ([]artifact.Deployment, error) {
	sql, args := `select d.repository, d.environment, d.digest, d.version, d.since, p.actor, p.reason from deployments d join promotions p on p.id = d.promotion
		where d.repository = $1 order by d.environment`, []any{repository}
	if repository.IsZero() {
		sql, args = `select d.repository, d.environment, d.digest, d.version, d.since, p.actor, p.reason from deployments d join promotions p on p.id = d.promotion
			order by d.repository, d.environment`, nil
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Deployment])
}

// DigestsByPrefix returns the manifests whose hexadecimal digits begin so, eleven at most.
func (db *DB) DigestsByPrefix(ctx context.Context, repository artifact.Repository, hex string) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `select digest from manifests where repository = $1 and starts_with(digest, 'sha256:' || $2) order by digest limit 11`, repository, hex)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}
