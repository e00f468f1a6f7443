package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// saveVerdict makes v the newest verdict of its digest in its repository.
func saveVerdict(ctx context.Context, tx pgx.Tx, v artifact.VerdictRecord, reference, actor string) error {
	batch := &pgx.Batch{}
	queueVerdict(batch, v, reference, actor)
	return tx.SendBatch(ctx, batch).Close()
}

func queueVerdict(batch *pgx.Batch, v artifact.VerdictRecord, reference, actor string) {
	batch.Queue(`insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor) values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict (repository, digest) do update set outcome = excluded.outcome, reasons = excluded.reasons, policy_hash = excluded.policy_hash,
		policies = excluded.policies, reference = excluded.reference, actor = excluded.actor, decided_at = now()`,
		v.Repository, v.Digest, v.Outcome, v.Reasons, v.PolicyHash, v.Policies, reference, actor)
}

// UpdateVerdict makes v the newest verdict of what is stored, and keeps who pushed it by which name.
func (db *DB) UpdateVerdict(ctx context.Context, v artifact.VerdictRecord) error {
	_, err := db.Pool.Exec(ctx, `update verdicts set outcome = $3, reasons = $4, policy_hash = $5, policies = $6, decided_at = now() where repository = $1 and digest = $2
		and (outcome, policy_hash) is distinct from ($3, $5)`, v.Repository, v.Digest, v.Outcome, v.Reasons, v.PolicyHash, v.Policies)
	return translate(err)
}

// ImagesAfter returns the images and indexes that come after one in the order of repository and digest, at most n.
func (db *DB) ImagesAfter(ctx context.Context, after artifact.Reference, n int) ([]artifact.Reference, error) {
	rows, err := db.Pool.Query(ctx, `select repository, digest from manifests where (is_image or is_index) and (repository, digest) > ($1, $2) order by repository, digest limit $3`,
		after.Repository.String(), after.Digest.String(), n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r artifact.Reference, err error) {
		err = row.Scan(&r.Repository, &r.Digest)
		return r, err
	})
	return all, translate(err)
}

// RefusedVerdict returns the newest stored verdict that a reference, a tag or digest as the pusher spelled it, got in a
// repository; NotFound when there is none. It answers for pushes that left no manifest.
func (db *DB) RefusedVerdict(ctx context.Context, repository artifact.Repository, reference string) (artifact.VerdictRecord, error) {
	v := artifact.VerdictRecord{Repository: repository}
	err := db.Pool.QueryRow(ctx, `select digest, outcome, reasons, policy_hash, policies from verdicts where repository = $1 and (reference = $2 or digest = $2)
		order by decided_at desc limit 1`, repository, reference).Scan(&v.Digest, &v.Outcome, &v.Reasons, &v.PolicyHash, &v.Policies)
	return v, orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "nothing called %s was ever pushed to %s", reference, repository))
}
