package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// SigningKeys returns the keys that ever signed, by the order in which they came in force: the last one signs. Nobody may
// change what is returned, which others get too.
func (db *DB) SigningKeys(ctx context.Context) ([]artifact.SigningKey, error) {
	return inForce(db, "SigningKey", func() ([]artifact.SigningKey, error) {
		all, err := signingKeys(ctx, db.Pool)
		return all, translate(err)
	})
}

func signingKeys(ctx context.Context, q querier) ([]artifact.SigningKey, error) {
	rows, err := q.Query(ctx, `select k.id, k.algorithm, k.public_key, k.reference, k.since, lead(k.since) over (order by k.number), k.actor, k.reason, k.ledger_index,
		r.at, r.actor, r.reason, r.trusted_before, r.ledger_index
		from signing_keys k left join signing_key_revocations r on r.key = k.id order by k.number`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k artifact.SigningKey, err error) {
		var (
			until, at, before *time.Time
			by, reason        *string
			index             *int64
		)
		if err := row.Scan(&k.ID, &k.Algorithm, &k.PublicKey, &k.Reference, &k.Since, &until, &k.AddedBy, &k.Reason, &k.LedgerIndex, &at, &by, &reason, &before, &index); err != nil {
			return k, err
		}
		if k.Since = k.Since.UTC(); until != nil {
			k.Until = until.UTC()
		}
		if at != nil {
			k.Revocation = &artifact.KeyRevocation{At: at.UTC(), By: *by, Reason: *reason, LedgerIndex: *index}
			if before != nil {
				k.Revocation.Before = before.UTC()
			}
		}
		return k, nil
	})
}

// RotateKey puts the key that next returns in force, with its ledger entry. One rotation is made after another; when
// replaces, an id, is not that of the key in force by then, it is a Conflict. next gets the keys there are. It may be called
// again, also after a crash, and has to return the same key then: that it was called is not recorded.
func (db *DB) RotateKey(ctx context.Context, actor, reason, replaces string, next func(ctx context.Context, known []artifact.SigningKey) (artifact.SigningKey, error)) (k artifact.SigningKey, err error) {
	defer db.hot.forget(artifact.Repository{})
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKeys)); err != nil {
			return err
		}
		known, err := signingKeys(ctx, tx)
		if err != nil {
			return err
		}
		current := ""
		if len(known) > 0 {
			current = known[len(known)-1].ID
		}
		if replaces != current {
			return artifact.Errorf(artifact.Conflict, "the key in force is %.12s and not %.12s: somebody rotated it meanwhile; look at `waybill key list`", idOrNone(current), idOrNone(replaces))
		}
		if k, err = next(ctx, known); err != nil {
			return err
		}
		k.Since, k.Until, k.AddedBy, k.Reason, k.Revocation = ledger.Instant(db.now()), time.Time{}, actor, reason, nil
		entry := ledger.Entry{Kind: ledger.KindKeyRotated, Actor: actor, At: k.Since, Subject: k.ID, Reason: reason}
		if current != "" {
			previous, err := artifact.ParseDigest("sha256:" + current)
			if err != nil {
				return err
			}
			entry.Evidence = []artifact.Digest{previous}
		}
		if k.LedgerIndex, err = appendLedger(ctx, tx, entry); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into signing_keys (id, algorithm, public_key, reference, since, actor, reason, ledger_index) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
			k.ID, k.Algorithm, k.PublicKey, k.Reference, k.Since, actor, reason, k.LedgerIndex)
		return err
	})
	return k, err
}

func idOrNone(id string) string {
	if id == "" {
		return "none"
	}
	return id
}

// RevokeKey ends that the signatures of a key count, but for those that the ledger proves to be older than before, if that
// is not zero. The job that signs again what it signed is inserted in the same transaction.
func (db *DB) RevokeKey(ctx context.Context, actor, id, reason string, before time.Time) (k artifact.SigningKey, err error) {
	defer db.hot.forget(artifact.Repository{})
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKeys)); err != nil {
			return err
		}
		known, err := signingKeys(ctx, tx)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(known, func(k artifact.SigningKey) bool { return k.ID == id })
		now := ledger.Instant(db.now())
		switch {
		case at < 0:
			return artifact.Errorf(artifact.NotFound, "no key %.12s ever signed here; `waybill key list` shows those that did", id)
		case known[at].Revocation != nil:
			return artifact.Errorf(artifact.Conflict, "key %.12s was revoked at %s by %s already", id, known[at].Revocation.At.Format(time.RFC3339), known[at].Revocation.By)
		case known[at].InForce():
			return artifact.Errorf(artifact.Conflict, "key %.12s is the one that signs; put another in force first, with `waybill key rotate`", id)
		case before.After(now):
			return artifact.Errorf(artifact.Invalid, "%s is still to come; signatures can be kept that are older than an instant until now", before.UTC().Format(time.RFC3339))
		}
		// Who records a signature by this key does so before, and is found by the job, or is refused after.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockSignatures)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockPolicy)); err != nil { // see stillPasses
			return err
		}
		if db.OnKeyRevoked != nil {
			if err := db.OnKeyRevoked(ctx, tx, id); err != nil {
				return err
			}
		}
		k = known[at]
		k.Revocation = &artifact.KeyRevocation{At: now, By: actor, Reason: reason}
		entry := ledger.Entry{Kind: ledger.KindKeyRevoked, Actor: actor, At: now, Subject: id, Reason: reason}
		var trusted *time.Time
		if !before.IsZero() {
			before = ledger.Instant(before)
			k.Revocation.Before, entry.Version, trusted = before, before.Format(time.RFC3339Nano), &before
		}
		if k.Revocation.LedgerIndex, err = appendLedger(ctx, tx, entry); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `insert into signing_key_revocations (key, at, actor, reason, trusted_before, ledger_index) values ($1, $2, $3, $4, $5, $6)`,
			id, now, actor, reason, trusted, k.Revocation.LedgerIndex)
		return err
	})
	return k, err
}

// provenBefore: the ledger proves that signature s, of key r.key, is older than the instant until which that is trusted.
const provenBefore = `exists (select from ledger_entries l where l.digest = s.digest and l.repository = s.repository and l.kind = 'signed' and l.at < r.trusted_before
	and convert_from(l.body, 'UTF8')::jsonb ->> 'subject' = s.key_id || case s.predicate when '' then '' else ' ' || s.predicate end)`

// SignedBefore returns the manifests that carried what a key signed about a digest, of those signatures that the ledger
// proves to be older than an instant.
func (db *DB) SignedBefore(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, before time.Time) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `select distinct jsonb_array_elements_text(convert_from(body, 'UTF8')::jsonb -> 'evidence') from ledger_entries,
			string_to_array(convert_from(body, 'UTF8')::jsonb ->> 'subject', ' ') as said
		where digest = $1 and repository = $2 and kind = 'signed' and at < $3 and said[1] = $4 and (case $5 when '' then cardinality(said) = 1 else $5 = any(said[2:]) end)`,
		digest, repository, before, keyID, predicate)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}

// SignedEntries returns the ledger's entries that record a signature of a digest by a key before an instant.
func (db *DB) SignedEntries(ctx context.Context, repository artifact.Repository, digest artifact.Digest, keyID string, before time.Time) ([]int64, error) {
	return db.indexes(ctx, `select index from ledger_entries where digest = $1 and repository = $2 and kind = 'signed' and at < $3
		and convert_from(body, 'UTF8')::jsonb ->> 'subject' = $4 order by index limit 10`, digest, repository, before, keyID)
}

// SignedBy returns what rests on signatures of a key, in order, after one that was returned before; at most n.
func (db *DB) SignedBy(ctx context.Context, keyID string, after artifact.SignedStatement, n int) ([]artifact.SignedStatement, error) {
	rows, err := db.Pool.Query(ctx, `(select repository, digest, predicate, manifest from signatures where key_id = $1 and signed_at is not null
			and (repository, digest, predicate) > (coalesce($2, ''), coalesce($3, ''), $4) order by repository, digest, predicate limit $5)
		union all (select repository, digest, predicate, max(manifest) from attestations where key_id = $1 and signed_at is not null
			and (repository, digest, predicate) > (coalesce($2, ''), coalesce($3, ''), $4) group by repository, digest, predicate order by repository, digest, predicate limit $5)
		order by repository, digest, predicate limit $5`, keyID, after.Repository, after.Digest, after.Predicate, n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.SignedStatement])
	return all, translate(err)
}
