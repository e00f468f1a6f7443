package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// lockWaivers makes creations take turns, so that two at once do not pass the limit together.
const lockWaivers = 0x7761795f77616976

const waiverColumns = `id, rule, finding, digest, repositories, reason, created_by, created_at, expires_at, coalesce(revoked_by, ''), revoked_at`

func scanWaiver(row pgx.CollectableRow) (w artifact.Waiver, err error) {
	var revoked *time.Time
	err = row.Scan(&w.ID, &w.Rule, &w.Finding, &w.Digest, &w.Repositories, &w.Reason, &w.CreatedBy, &w.CreatedAt, &w.ExpiresAt, &w.RevokedBy, &revoked)
	w.CreatedAt, w.ExpiresAt = w.CreatedAt.UTC(), w.ExpiresAt.UTC()
	if revoked != nil {
		w.RevokedAt = revoked.UTC()
	}
	return w, err
}

// CreateWaiver puts a waiver in force and records who answers for it. It is refused when limit are in force, and, of a
// digest, when nobody pushed that yet or when its creator did.
func (db *DB) CreateWaiver(ctx context.Context, w artifact.Waiver, limit int) (artifact.Waiver, error) {
	defer db.hot.forget(artifact.Repository{})
	w.CreatedAt, w.ExpiresAt = ledger.Instant(w.CreatedAt), ledger.Instant(w.ExpiresAt)
	err := db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockWaivers)); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `select count(*) from waivers where revoked_at is null and expires_at > $1`, w.CreatedAt).Scan(&n); err != nil {
			return err
		}
		if n >= limit {
			return artifact.Errorf(artifact.Conflict, "%d waivers are in force, as many as may be; revoke some (waybill waiver list)", n)
		}
		if !w.Digest.IsZero() {
			if err := pushedByAnother(ctx, tx, w); err != nil {
				return err
			}
		}
		if err := tx.QueryRow(ctx, `select nextval(pg_get_serial_sequence('waivers', 'id'))`).Scan(&w.ID); err != nil {
			return err
		}
		if err := db.outdate(ctx, tx); err != nil {
			return err
		}
		if db.OnWaiver != nil {
			if err := db.OnWaiver(ctx, tx, w); err != nil {
				return err
			}
		}
		index, err := appendLedger(ctx, tx, waiverEntry(ledger.KindWaiverCreated, w.CreatedBy, w.CreatedAt, w))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into waivers (id, rule, finding, digest, repositories, reason, created_by, created_at, expires_at, ledger_index) overriding system value
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, w.ID, w.Rule, w.Finding, w.Digest, orNone(w.Repositories), w.Reason, w.CreatedBy, w.CreatedAt, w.ExpiresAt, index)
		return err
	})
	return w, err
}

func waiverEntry(kind, actor string, at time.Time, w artifact.Waiver) ledger.Entry {
	return ledger.Entry{Kind: kind, Actor: actor, At: at, Digest: w.Digest, Subject: strconv.FormatInt(w.ID, 10), Version: w.Subject(), Reason: w.Reason,
		Evidence: []artifact.Digest{w.Hash()}}
}

func orNone[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

// pushedByAnother returns nil when somebody pushed the digest, or tried to, where the waiver holds, and its creator
// nowhere did.
func pushedByAnother(ctx context.Context, tx pgx.Tx, w artifact.Waiver) error {
	rows, err := tx.Query(ctx, `select repository, pushed_by from manifests where digest = $1 union select repository, actor from verdicts where digest = $1`, w.Digest)
	if err != nil {
		return err
	}
	var (
		repository artifact.Repository
		by         string
		there, own bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&repository, &by}, func() error {
		there, own = there || w.In(repository), own || artifact.Holder(by) == artifact.Holder(w.CreatedBy)
		return nil
	}); err != nil {
		return err
	}
	switch {
	case own:
		return artifact.Errorf(artifact.Denied, "%s pushed %s, and nobody waives a rule for what they pushed; ask another approver", w.CreatedBy, w.Digest)
	case !there:
		return artifact.Errorf(artifact.NotFound, "nobody pushed %s yet, not even in vain, to a repository of %s", w.Digest, w.CreatedBy)
	}
	return nil
}

// RevokeWaiver ends a waiver at once. What rests on it is judged again.
func (db *DB) RevokeWaiver(ctx context.Context, id int64, actor string, at time.Time) (w artifact.Waiver, err error) {
	defer db.hot.forget(artifact.Repository{})
	at = ledger.Instant(at)
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `update waivers set revoked_by = $2, revoked_at = $3 where id = $1 and revoked_at is null and expires_at > $3 returning `+waiverColumns, id, actor, at)
		if err != nil {
			return err
		}
		if w, err = pgx.CollectExactlyOneRow(rows, scanWaiver); errors.Is(err, pgx.ErrNoRows) {
			return artifact.Errorf(artifact.NotFound, "no waiver %d is in force", id)
		} else if err != nil {
			return err
		}
		if err := db.endVerdicts(ctx, tx, id, at); err != nil {
			return err
		}
		_, err = appendLedger(ctx, tx, waiverEntry(ledger.KindWaiverRevoked, actor, at, w))
		return err
	})
	return w, err
}

// endVerdicts lets no stored verdict outlive the waiver that it rests on, and has all judged again.
func (db *DB) endVerdicts(ctx context.Context, tx pgx.Tx, id int64, at time.Time) error {
	if _, err := tx.Exec(ctx, `update verdicts set until = $2 where waivers <> '{}' and waivers @> array[$1::bigint] and until > $2`, id, at); err != nil {
		return err
	}
	return db.outdate(ctx, tx)
}

// ExpireWaiver records that a waiver has expired, once; that it does not hold any more needs no record. It returns false
// while it has not expired yet.
func (db *DB) ExpireWaiver(ctx context.Context, id int64) (done bool, err error) {
	at := ledger.Instant(db.now())
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `select `+waiverColumns+` from waivers where id = $1 and revoked_at is null and expired_at is null for update`, id)
		if err != nil {
			return err
		}
		w, err := pgx.CollectExactlyOneRow(rows, scanWaiver)
		if errors.Is(err, pgx.ErrNoRows) {
			done = true
			return nil
		} else if err != nil {
			return err
		}
		if done = !w.InForce(at); !done {
			return nil
		}
		if _, err := tx.Exec(ctx, `update waivers set expired_at = $2 where id = $1`, id, at); err != nil {
			return err
		}
		if err := db.outdate(ctx, tx); err != nil {
			return err
		}
		_, err = appendLedger(ctx, tx, waiverEntry(ledger.KindWaiverExpired, artifact.System.Name, at, w))
		return err
	})
	return done, err
}

// useWaivers records that a push or a promotion rests on waivers. It refuses when one of them ended by now, and when one
// that is bound to a digest was made by who pushes it.
func (db *DB) useWaivers(ctx context.Context, tx pgx.Tx, ids []int64, pusher string, e ledger.Entry) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `select `+waiverColumns+` from waivers where id = any($1) order by id for share`, ids)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, scanWaiver)
	if err != nil {
		return err
	}
	at := db.now()
	for _, w := range all {
		switch {
		case !w.InForce(at):
			return artifact.Coded(artifact.Denied, "DENIED", "%s: waiver %d ended at this moment; look at `waybill verdict`", w.Rule, w.ID)
		case !w.Digest.IsZero() && artifact.Holder(w.CreatedBy) == artifact.Holder(pusher):
			return artifact.Coded(artifact.Denied, "DENIED", "%s: waiver %d is by %s, and nobody waives a rule for what they push", w.Rule, w.ID, pusher)
		}
	}
	if len(all) != len(ids) {
		return fmt.Errorf("%s@%s rests on waivers %v, and %d of them are stored", e.Repository, e.Digest, ids, len(all))
	}
	for _, w := range all {
		e.Kind, e.Subject, e.Version, e.Evidence = ledger.KindWaiverUsed, strconv.FormatInt(w.ID, 10), w.Subject(), []artifact.Digest{w.Hash()}
		if _, err := appendLedger(ctx, tx, e); err != nil {
			return err
		}
	}
	return nil
}

// Waivers returns the waivers that may hold: whoever asks looks at the clock.
func (db *DB) Waivers(ctx context.Context) ([]artifact.Waiver, error) {
	return inForce(db, "Waiver", func() ([]artifact.Waiver, error) {
		rows, err := db.Pool.Query(ctx, `select `+waiverColumns+` from waivers where revoked_at is null and expires_at > $1 order by id`, db.now())
		if err != nil {
			return nil, translate(err)
		}
		all, err := pgx.CollectRows(rows, scanWaiver)
		return all, translate(err)
	})
}

// ListWaivers returns waivers, newest first, at most n of those older than before; the ended ones among them if asked.
func (db *DB) ListWaivers(ctx context.Context, ended bool, before int64, n int) ([]artifact.Waiver, error) {
	rows, err := db.Pool.Query(ctx, `select `+waiverColumns+` from waivers where ($1 or revoked_at is null and expires_at > $2) and id < $3 order by id desc limit $4`, ended, db.now(), before, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, scanWaiver)
	return all, translate(err)
}

// Waiver returns one waiver, ended or not.
func (db *DB) Waiver(ctx context.Context, id int64) (artifact.Waiver, error) {
	rows, err := db.Pool.Query(ctx, `select `+waiverColumns+` from waivers where id = $1`, id)
	if err != nil {
		return artifact.Waiver{}, translate(err)
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWaiver)
	return w, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no waiver %d", id))
}

func recordedWaivers(ctx context.Context, q querier) ([]ledger.RecordedWaiver, error) {
	rows, err := q.Query(ctx, `select `+waiverColumns+`, ledger_index from waivers order by id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ledger.RecordedWaiver, err error) {
		w, err := scanWaiver(withMore{row, &r.LedgerIndex})
		r.ID, r.Hash, r.Revoked = w.ID, w.Hash(), !w.RevokedAt.IsZero()
		return r, err
	})
}

// withMore is a row whose last column goes elsewhere.
type withMore struct {
	pgx.CollectableRow
	more any
}

func (r withMore) Scan(dest ...any) error { return r.CollectableRow.Scan(append(dest, r.more)...) }
