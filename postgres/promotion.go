package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/policy"
	"waybill/promotion"
)

// Pipelines returns the pipelines in force, by name.
func (db *DB) Pipelines(ctx context.Context) ([]promotion.Versioned, error) {
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

// Evidence collects what the gates look at.
func (db *DB) Evidence(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (promotion.Evidence, error) {
	var e promotion.Evidence
	rows, err := db.Pool.Query(ctx, `select distinct environment from promotions where repository = $1 and digest = $2 and action <> 'recall'`, repository, digest)
	if err != nil {
		return e, translate(err)
	}
	if e.Reached, err = pgx.CollectRows(rows, pgx.RowTo[artifact.Environment]); err != nil {
		return e, translate(err)
	}
	if err := db.Pool.QueryRow(ctx, `select exists (select from signatures where repository = $1 and digest = $2 and predicate = '' and signed_at is not null)`, repository, digest).Scan(&e.Signed); err != nil {
		return e, translate(err)
	}
	actor, reason, recalled, err := db.Recalled(ctx, repository, digest)
	if err != nil {
		return e, err
	}
	if recalled {
		e.Recalled = fmt.Sprintf("it was recalled by %s: %s", actor, reason)
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

// imagesOf returns the image itself, or each image of an index.
func (db *DB) imagesOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `with recursive tree (digest) as (
			select $2::text union
			select r.digest from tree t join manifest_references r on r.repository = $1 and r.manifest = t.digest and r.kind = 'manifest')
		select m.digest from tree t join manifests m on m.repository = $1 and m.digest = t.digest where m.is_image order by m.digest`, repository, digest)
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

// Before returns the digest that an environment ran before its current one, skipping what was recalled.
func (db *DB) Before(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error) {
	d := artifact.Deployment{Repository: repository, Environment: environment}
	err := db.Pool.QueryRow(ctx, `select digest, version from promotions p where repository = $1 and environment = $2 and action <> 'recall'
		and digest is distinct from (select digest from deployments where repository = $1 and environment = $2)
		and not exists (select from recalls r where r.repository = $1 and r.digest = p.digest)
		and exists (select from manifests m where m.repository = $1 and m.digest = p.digest)
		order by id desc limit 1`, repository, environment).Scan(&d.Digest, &d.Version)
	return d, err == nil, ignoreNoRows(err)
}

// Promote moves an environment's pointer from p.Previous (zero: none) to p.Digest, for which pass is, writes its grants
// and the ledger entry, all in one transaction. Conflict when the pointer stands elsewhere by now.
func (db *DB) Promote(ctx context.Context, p artifact.Promotion, pass policy.Pass) (artifact.Promotion, error) {
	if !pass.Valid() || pass.Digest() != p.Digest || pass.Repository() != p.Repository {
		return p, artifact.Errorf(artifact.Denied, "no verdict allows %s@%s", p.Repository, p.Digest)
	}
	err := db.Transact(ctx, func(tx pgx.Tx) error {
		if err := lockGrants(ctx, tx, p.Repository); err != nil {
			return err
		}
		current, err := deployment(ctx, tx, `where d.repository = $1 and d.environment = $2`, p.Repository, p.Environment)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if current.Digest != p.Previous {
			return artifact.Errorf(artifact.Conflict, "%s of %s was moved to %s by %s at this moment; look at `waybill status`, then promote again", p.Environment, p.Repository, current.Digest, current.Actor)
		}
		if recalled, err := isRecalled(ctx, tx, p.Repository, p.Digest); err != nil || recalled {
			return errors.Join(err, artifact.Errorf(artifact.Denied, "%s@%s was recalled at this moment", p.Repository, p.Digest))
		}
		if err := grant(ctx, tx, p.Repository, p.Digest, p.Environment); err != nil {
			return err
		}
		return record(ctx, tx, &p, func(id int64) error {
			_, err := tx.Exec(ctx, `insert into deployments (repository, environment, digest, version, promotion) values ($1, $2, $3, $4, $5)
				on conflict (repository, environment) do update set digest = excluded.digest, version = excluded.version, promotion = excluded.promotion, since = now()`,
				p.Repository, p.Environment, p.Digest, p.Version, id)
			return err
		})
	})
	return p, err
}

func isRecalled(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) (recalled bool, err error) {
	err = tx.QueryRow(ctx, `select exists (select from recalls where repository = $1 and digest = $2)`, repository, digest).Scan(&recalled)
	return recalled, err
}

// record appends a promotion, rollback or recall to the ledger and to its table, and sets p's index and id.
func record(ctx context.Context, tx pgx.Tx, p *artifact.Promotion, then func(id int64) error) error {
	kind := map[string]string{"promote": "promotion", "rollback": "rollback", "recall": "recall"}[p.Action]
	index, err := appendLedger(ctx, tx, ledger.Entry{Kind: kind, Actor: p.Actor, At: p.At, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment,
		Version: p.Version, Previous: p.Previous, PolicyHash: p.PolicyHash, Reason: p.Reason})
	if err != nil {
		return err
	}
	p.LedgerIndex = index
	if err := tx.QueryRow(ctx, `insert into promotions (action, repository, environment, digest, version, previous, actor, reason, policy_hash, ledger_index)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning id, at`, p.Action, p.Repository, p.Environment, p.Digest, p.Version, p.Previous, p.Actor, p.Reason, p.PolicyHash, index).
		Scan(&p.ID, &p.At); err != nil {
		return err
	}
	return then(p.ID)
}

// Recall withdraws a digest: its grants and pointers go, in every environment, and it never comes back. The grants of
// what other promotions share with it stay.
func (db *DB) Recall(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor, reason string) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if err := lockGrants(ctx, tx, repository); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `insert into recalls (repository, digest, actor, reason) select $1, $2, $3, $4 where exists
			(select from manifests where repository = $1 and digest = $2) on conflict do nothing`, repository, digest, actor, reason)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			if recalled, err := isRecalled(ctx, tx, repository, digest); err != nil || recalled {
				return err // it is done already
			}
			return artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repository, digest)
		}
		rows, err := tx.Query(ctx, `delete from grants where repository = $1 and (root = $2 or digest = $2) returning environment`, repository, digest)
		if err != nil {
			return err
		}
		granted, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Environment])
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from deployments where repository = $1 and digest = $2`, repository, digest); err != nil {
			return err
		}
		seen := map[artifact.Environment]bool{}
		for _, e := range granted {
			if seen[e] {
				continue
			}
			seen[e] = true
			p := artifact.Promotion{Action: "recall", Repository: repository, Environment: e, Digest: digest, Actor: actor, Reason: reason}
			if err := record(ctx, tx, &p, func(int64) error { return nil }); err != nil {
				return err
			}
		}
		if len(seen) == 0 {
			_, err = appendLedger(ctx, tx, ledger.Entry{Kind: "recall", Actor: actor, Repository: repository, Digest: digest, Reason: reason})
		}
		return err
	})
}

// History returns the promotions, rollbacks and recalls of a repository (the zero one: of all) in the order in which
// they happened.
func (db *DB) History(ctx context.Context, repository artifact.Repository) ([]artifact.Promotion, error) {
	rows, err := db.Pool.Query(ctx, `select id, action, repository, environment, digest, version, previous, actor, reason, policy_hash, ledger_index, at
		from promotions where $1::text is null or repository = $1 order by id`, repository)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Promotion])
	return all, translate(err)
}
