package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// stands: neither what carries the signature that is recorded nor the tag that leads there was deleted since.
const stands = `exists (select from manifests m join tags t on t.repository = m.repository
	where m.repository = signatures.repository and m.digest = signatures.manifest
	and t.name = replace(signatures.digest, ':', '-') || case signatures.predicate when '' then '.sig' else '.att' end)`

// IntendSignature commits that a digest will be signed by a key; done reports that it was already, by this or another
// key that was not revoked. What stands is kept until another stands in its place: a key that cannot be reached takes
// nothing away.
func (db *DB) IntendSignature(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, policyHash artifact.Digest) (done bool, err error) {
	err = db.Pool.QueryRow(ctx, `insert into signatures (repository, digest, predicate, key_id, policy_hash) values ($1, $2, $3, $4, $5)
		on conflict (repository, digest, predicate) do update set intended_at = now(),
			key_id = case when `+stands+` then signatures.key_id else excluded.key_id end,
			policy_hash = case when `+stands+` then signatures.policy_hash else excluded.policy_hash end,
			signed_at = case when `+stands+` then signatures.signed_at end,
			manifest = case when `+stands+` then signatures.manifest end
		returning signed_at is not null and exists (select from signing_keys k where k.id = signatures.key_id)
			and not exists (select from signing_key_revocations r where r.key = signatures.key_id)`, repository, digest, predicate, keyID, policyHash).Scan(&done)
	return done, translate(err)
}

// RecordSignature commits the outcome: the manifest that carries the signature. The statement signed goes to the ledger.
// It is a Conflict when the key was revoked meanwhile: another has to sign.
func (db *DB) RecordSignature(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, policyHash, manifest artifact.Digest) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if err := refuseRevoked(ctx, tx, repository, digest, keyID); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `update signatures set key_id = $4, policy_hash = $5, signed_at = now(), manifest = $6
			where repository = $1 and digest = $2 and predicate = $3 and (signed_at is null or key_id <> $4)`,
			repository, digest, predicate, keyID, policyHash, manifest)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		subject := keyID
		if predicate != "" {
			subject += " " + predicate
		}
		_, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindSigned, Actor: artifact.System.Name, Repository: repository, Digest: digest, PolicyHash: policyHash,
			Subject: subject, Evidence: []artifact.Digest{manifest}})
		return err
	})
}

// refuseRevoked is a Conflict when a key was revoked, and has it stay as it is until the transaction ends.
func refuseRevoked(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest, keyID string) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock_shared($1)`, int64(lockSignatures)); err != nil {
		return err
	}
	var revoked bool
	if err := tx.QueryRow(ctx, `select exists (select from signing_key_revocations where key = $1)`, keyID).Scan(&revoked); err != nil {
		return err
	}
	if revoked {
		return artifact.Errorf(artifact.Conflict, "key %.12s was revoked while it signed %s@%s; it is signed again by the key in force", keyID, repository, digest)
	}
	return nil
}

// Signatures returns what the service signed about a digest.
func (db *DB) Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.SignatureRecord, error) {
	rows, err := db.Pool.Query(ctx, `select predicate, key_id, policy_hash, signed_at, manifest, '' as name from signatures where repository = $1 and digest = $2 and predicate = '' and signed_at is not null
		union all select predicate, key_id, policy_hash, signed_at, manifest, name from attestations where repository = $1 and digest = $2 and signed_at is not null order by predicate, name`, repository, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.SignatureRecord])
	return all, translate(err)
}
