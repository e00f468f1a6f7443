package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// saveVerdict makes v the newest verdict of its digest in its repository.
func saveVerdict(ctx context.Context, tx pgx.Tx, v artifact.VerdictRecord, reference, actor string) error {
	batch := &pgx.Batch{}
	queueVerdict(batch, v, reference, actor)
	return tx.SendBatch(ctx, batch).Close()
}

// saveNewVerdict makes v the verdict of its digest in its repository, if that has none.
func saveNewVerdict(ctx context.Context, tx pgx.Tx, v artifact.VerdictRecord, reference, actor string) error {
	_, err := tx.Exec(ctx, `insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor) values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict (repository, digest) do nothing`, v.Repository, v.Digest, v.Outcome, v.Reasons, v.PolicyHash, v.Policies, reference, actor)
	return err
}

func queueVerdict(batch *pgx.Batch, v artifact.VerdictRecord, reference, actor string) {
	batch.Queue(`insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor, until, waivers) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		on conflict (repository, digest) do update set outcome = excluded.outcome, reasons = excluded.reasons, policy_hash = excluded.policy_hash,
		policies = excluded.policies, reference = excluded.reference, actor = excluded.actor, decided_at = now(),
		until = excluded.until, waivers = excluded.waivers`,
		v.Repository, v.Digest, v.Outcome, v.Reasons, v.PolicyHash, v.Policies, reference, actor, orNull(v.Until), orNone(v.Waivers))
}

// RefusedVerdict returns the newest stored verdict that a reference, a tag or digest as the pusher spelled it, got in a
// repository; NotFound when there is none. It answers for pushes that left no manifest. One that has outlived a waiver is
// pending.
func (db *DB) RefusedVerdict(ctx context.Context, repository artifact.Repository, reference string) (artifact.VerdictRecord, error) {
	v := artifact.VerdictRecord{Repository: repository}
	var until *time.Time
	err := db.Pool.QueryRow(ctx, `select digest, outcome, reasons, policy_hash, policies, until from verdicts where repository = $1 and (reference = $2 or digest = $2)
		order by decided_at desc limit 1`, repository, reference).Scan(&v.Digest, &v.Outcome, &v.Reasons, &v.PolicyHash, &v.Policies, &until)
	if until != nil {
		v.Until = *until
	}
	return v.At(db.now()), orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "nothing called %s was ever pushed to %s", reference, repository))
}
