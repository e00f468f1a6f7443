package postgres

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

const approvalColumns = `id, repository, digest, environment, version, actor, role, reason, at, coalesce(revoked_by, ''), revoked_at`

func scanApproval(row pgx.CollectableRow) (a artifact.Approval, err error) {
	var revoked *time.Time
	err = row.Scan(&a.ID, &a.Repository, &a.Digest, &a.Environment, &a.Version, &a.Actor, &a.Role, &a.Reason, &a.At, &a.RevokedBy, &revoked)
	a.At = a.At.UTC()
	if revoked != nil {
		a.RevokedAt = revoked.UTC()
	}
	return a, err
}

func approvalEntry(kind, actor string, at time.Time, a artifact.Approval) ledger.Entry {
	return ledger.Entry{Kind: kind, Actor: actor, At: at, Repository: a.Repository, Digest: a.Digest, Environment: a.Environment, Version: a.Version,
		Subject: strconv.FormatInt(a.ID, 10), Evidence: []artifact.Digest{a.Hash()}, Reason: a.Reason}
}

// recordedApprovals are for an audit.
func recordedApprovals(ctx context.Context, q querier) ([]ledger.Recorded, error) {
	rows, err := q.Query(ctx, `select `+approvalColumns+`, ledger_index from approvals order by id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ledger.Recorded, err error) {
		a, err := scanApproval(withMore{row, &r.Index})
		r.Entry, r.Revoked = approvalEntry(ledger.KindApproval, a.Actor, a.At, a), !a.RevokedAt.IsZero()
		return r, err
	})
}

// Approve records an approval of a digest that is here; a Conflict when its actor gave it already.
func (db *DB) Approve(ctx context.Context, a artifact.Approval) (artifact.Approval, error) {
	a.At = moment(a.At)
	err := db.Transact(ctx, func(tx pgx.Tx) error {
		// In the order in which a promotion takes the two locks; it also makes two approvals by one person take turns.
		if err := lockGrants(ctx, tx, a.Repository); err != nil {
			return err
		}
		if err := staysHere(ctx, tx, a.Repository, a.Digest); err != nil {
			return err
		}
		var given bool
		if err := tx.QueryRow(ctx, `select exists (select from approvals where repository = $1 and digest = $2 and environment = $3 and actor = $4 and revoked_at is null)`,
			a.Repository, a.Digest, a.Environment, a.Actor).Scan(&given); err != nil {
			return err
		}
		if given {
			return artifact.Errorf(artifact.Conflict, "%s approved %s@%s for %s already; `waybill approvals` says what is missing still", a.Actor, a.Repository, a.Digest, a.Environment)
		}
		if err := tx.QueryRow(ctx, `select nextval(pg_get_serial_sequence('approvals', 'id'))`).Scan(&a.ID); err != nil {
			return err
		}
		index, err := appendLedger(ctx, tx, approvalEntry(ledger.KindApproval, a.Actor, a.At, a))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into approvals (id, repository, digest, environment, version, actor, role, reason, at, ledger_index) overriding system value
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, a.ID, a.Repository, a.Digest, a.Environment, a.Version, a.Actor, a.Role, a.Reason, a.At, index)
		return err
	})
	return a, err
}

// RevokeApproval ends an approval. A promotion that rests on it and is under way comes before, or is refused.
func (db *DB) RevokeApproval(ctx context.Context, id int64, actor string) (a artifact.Approval, err error) {
	at := moment(time.Time{})
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `update approvals set revoked_by = $2, revoked_at = $3 where id = $1 and revoked_at is null returning `+approvalColumns, id, actor, at)
		if err != nil {
			return err
		}
		if a, err = pgx.CollectExactlyOneRow(rows, scanApproval); errors.Is(err, pgx.ErrNoRows) {
			return artifact.Errorf(artifact.NotFound, "there is no approval %d that was not revoked", id)
		} else if err != nil {
			return err
		}
		_, err = appendLedger(ctx, tx, approvalEntry(ledger.KindApprovalRevoked, actor, at, a))
		return err
	})
	return a, err
}

// Approval returns one approval, revoked or not.
func (db *DB) Approval(ctx context.Context, id int64) (artifact.Approval, error) {
	rows, err := db.Pool.Query(ctx, `select `+approvalColumns+` from approvals where id = $1`, id)
	if err != nil {
		return artifact.Approval{}, translate(err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanApproval)
	return a, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no approval %d", id))
}

// Approvals returns the approvals of a digest that were not revoked, the oldest first, and who pushed it or, of an
// index, any part of it: here, or elsewhere and in vain.
func (db *DB) Approvals(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (all []artifact.Approval, pushers []string, err error) {
	rows, err := db.Pool.Query(ctx, `select `+approvalColumns+` from approvals where repository = $1 and digest = $2 and revoked_at is null order by id`, repository, digest)
	if err != nil {
		return nil, nil, translate(err)
	}
	if all, err = pgx.CollectRows(rows, scanApproval); err != nil {
		return nil, nil, translate(err)
	}
	if rows, err = db.Pool.Query(ctx, indexTree+`select m.pushed_by from tree t join manifests m on m.digest = t.digest
		union select v.actor from tree t join verdicts v on v.digest = t.digest`, repository, digest); err != nil {
		return nil, nil, translate(err)
	}
	pushers, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return all, pushers, translate(err)
}

// ApprovedDigests returns what has an approval that was not revoked, and is not current where that is for. What was
// promoted there after it was approved waits for nothing.
func (db *DB) ApprovedDigests(ctx context.Context) ([]artifact.Deployment, error) {
	rows, err := db.Pool.Query(ctx, `select distinct a.repository, a.environment, a.digest, a.version from approvals a where a.revoked_at is null
		and not exists (select from promotions p where p.repository = a.repository and p.environment = a.environment and p.digest = a.digest and p.at >= a.at)
		and not exists (select from recalls r where r.repository = a.repository and r.digest = a.digest)`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d artifact.Deployment, err error) {
		return d, row.Scan(&d.Repository, &d.Environment, &d.Digest, &d.Version)
	})
	return all, translate(err)
}

// holdApprovals keeps approvals that a promotion rests on from being revoked until the transaction ends; it is refused
// when one was.
func holdApprovals(ctx context.Context, tx pgx.Tx, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	held, err := tx.Exec(ctx, `select from approvals where id = any($1) and revoked_at is null for share`, ids)
	if err == nil && held.RowsAffected() != int64(len(ids)) {
		err = artifact.Errorf(artifact.Conflict, "an approval was revoked at this moment; look at `waybill approvals`, and promote again")
	}
	return err
}
