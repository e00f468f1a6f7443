package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// stands: the signature that is recorded is by this key, and neither what carries it nor the tag that leads there was
// deleted since.
const stands = `signatures.key_id = excluded.key_id and exists (select from manifests m join tags t on t.repository = m.repository
	where m.repository = signatures.repository and m.digest = signatures.manifest
	and t.name = replace(signatures.digest, ':', '-') || case signatures.predicate when '' then '.sig' else '.att' end)`

// IntendSignature commits that a digest will be signed by a key; done reports that it was already.
func (db *DB) IntendSignature(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, policyHash artifact.Digest) (done bool, err error) {
	err = db.Pool.QueryRow(ctx, `insert into signatures (repository, digest, predicate, key_id, policy_hash) values ($1, $2, $3, $4, $5)
		on conflict (repository, digest, predicate) do update set
			key_id = excluded.key_id, policy_hash = excluded.policy_hash, intended_at = now(),
			signed_at = case when `+stands+` then signatures.signed_at end,
			manifest = case when `+stands+` then signatures.manifest end
		returning signed_at is not null`, repository, digest, predicate, keyID, policyHash).Scan(&done)
	return done, translate(err)
}

// RecordSignature commits the outcome: the manifest that carries the signature. The statement signed goes to the ledger.
func (db *DB) RecordSignature(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, policyHash, manifest artifact.Digest) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `update signatures set signed_at = now(), manifest = $5 where repository = $1 and digest = $2 and predicate = $3 and key_id = $4 and signed_at is null`,
			repository, digest, predicate, keyID, manifest)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		subject := keyID
		if predicate != "" {
			subject += " " + predicate
		}
		_, err = appendLedger(ctx, tx, ledger.Entry{Kind: "signed", Actor: artifact.System.Name, Repository: repository, Digest: digest, PolicyHash: policyHash,
			Subject: subject, Evidence: []artifact.Digest{manifest}})
		return err
	})
}

// Signatures returns what the service signed about a digest.
func (db *DB) Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.SignatureRecord, error) {
	rows, err := db.Pool.Query(ctx, `select predicate, key_id, policy_hash, signed_at, manifest from signatures where repository = $1 and digest = $2 and predicate = '' and signed_at is not null
		union all select predicate, key_id, policy_hash, signed_at, manifest from attestations where repository = $1 and digest = $2 and signed_at is not null order by predicate`, repository, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.SignatureRecord])
	return all, translate(err)
}
