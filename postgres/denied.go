package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// Bounds of what is kept of denied pushes: whoever may push can have as many denied as they like.
const (
	maxDeniedBody = 512 << 10 // bytes of a manifest and its config together
	maxDenied     = 500       // manifests of a repository, the last ones
)

// SaveDenied records that a push was refused, and what it was of.
func (db *DB) SaveDenied(ctx context.Context, p artifact.Push) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		save := saveVerdict
		if p.Verdict.DeniesTags() {
			save = saveNewVerdict // what the digest got by another name stays
		}
		if err := save(ctx, tx, p.Verdict, p.Reference, p.PushedBy); err != nil {
			return err
		}
		if err := keepDenied(ctx, tx, p); err != nil {
			return err
		}
		var reasons []string
		for _, r := range p.Verdict.Denials() {
			reasons = append(reasons, r.String())
		}
		_, err := appendLedger(ctx, tx, ledger.Entry{Kind: ledgerDenied, Actor: p.PushedBy, Repository: p.Repository, Digest: p.Digest,
			Version: p.Reference, PolicyHash: p.Verdict.PolicyHash, Reasons: reasons})
		return err
	})
}

const ledgerDenied = "push.denied"

// keepDenied keeps what there is to look at of a denied manifest, and lets go of what is old.
func keepDenied(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	batch := &pgx.Batch{}
	if len(p.Body)+len(p.Config) <= maxDeniedBody {
		batch.Queue(`insert into denied_manifests (repository, digest, media_type, is_image, platform, body, config) values ($1, $2, $3, $4, $5, $6, $7)
			on conflict (repository, digest) do update set at = now()`, p.Repository, p.Digest, p.Manifest.MediaType, p.IsImage, p.Platform, p.Body, p.Config)
		batch.Queue(`delete from denied_manifests where repository = $1 and digest in
			(select digest from denied_manifests where repository = $1 order by at desc, digest offset $2)`, p.Repository, maxDenied)
	}
	var findings []artifact.Finding
	if p.Scan != nil {
		var err error
		if findings, err = queueScan(batch, *p.Scan); err != nil {
			return err
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return saveFindings(ctx, tx, p.Digest, findings)
}

// DeniedPush returns what is known of a digest that a repository refused and does not have; NotFound when there is no
// such push.
func (db *DB) DeniedPush(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.DeniedPush, error) {
	d := artifact.DeniedPush{Verdict: artifact.VerdictRecord{Repository: repository, Digest: digest}, Manifest: artifact.StoredManifest{Repository: repository, Digest: digest}}
	v, m := &d.Verdict, &d.Manifest
	var mediaType string
	err := db.Pool.QueryRow(ctx, `select v.outcome, v.reasons, v.policy_hash, v.policies, v.reference, e.actor, e.at, e.index, coalesce(k.media_type, ''), coalesce(k.is_image, false), coalesce(k.platform, ''), k.body, k.config
		from verdicts v cross join lateral (select actor, at, index from ledger_entries e where e.digest = v.digest and e.repository = v.repository and e.kind = '`+ledgerDenied+`' order by index desc limit 1) e
		left join denied_manifests k on k.repository = v.repository and k.digest = v.digest
		where v.repository = $1 and v.digest = $2 and v.outcome = 'deny' and not exists (select from manifests m where m.repository = $1 and m.digest = $2)`, repository, digest).
		Scan(&v.Outcome, &v.Reasons, &v.PolicyHash, &v.Policies, &d.Reference, &d.Actor, &d.At, &d.LedgerIndex, &mediaType, &m.IsImage, &m.Platform, &m.Body, &d.Config)
	if err != nil {
		return d, orNotFound(err, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest %s", repository, digest))
	}
	m.PushedBy, m.PushedAt = d.Actor, d.At
	if d.Kept() {
		m.Manifest, err = artifact.ParseManifest(mediaType, m.Body)
	}
	return d, err
}

// DeniedTag returns the digest that was pushed last with a tag and refused; false when none was.
func (db *DB) DeniedTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (digest artifact.Digest, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select digest from verdicts where repository = $1 and reference = $2 and outcome = 'deny' order by decided_at desc limit 1`, repository, tag).Scan(&digest)
	if errors.Is(err, pgx.ErrNoRows) {
		return digest, false, nil
	}
	return digest, err == nil, translate(err)
}

// DeniedByPrefix returns the digests whose push was denied, which the repository does not have and whose hexadecimal digits begin so, eleven
// at most.
func (db *DB) DeniedByPrefix(ctx context.Context, repository artifact.Repository, hex string) ([]artifact.Digest, error) {
	rows, err := db.Pool.Query(ctx, `select v.digest from verdicts v where v.repository = $1 and v.outcome = 'deny' and starts_with(v.digest, 'sha256:' || $2)
		and not exists (select from manifests m where m.repository = v.repository and m.digest = v.digest) order by v.digest limit 11`, repository, hex)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
	return all, translate(err)
}

// DeniedPushes returns the newest denied pushes of a repository, newest first.
func (db *DB) DeniedPushes(ctx context.Context, repository artifact.Repository, limit int) ([]artifact.PushRecord, error) {
	rows, err := db.Pool.Query(ctx, `select v.repository, v.digest, v.reference, v.outcome, v.reasons, v.actor, v.decided_at from verdicts v
		where v.repository = $1 and v.outcome = 'deny' and not exists (select from manifests m where m.repository = v.repository and m.digest = v.digest) order by v.decided_at desc limit $2`, repository, limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.PushRecord])
	return all, translate(err)
}

// RecallOf returns by whom a digest was recalled, when and why; false when nobody did.
func (db *DB) RecallOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (r artifact.Recall, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select actor, reason, at, advisory from recalls where repository = $1 and digest = $2`, repository, digest).Scan(&r.Actor, &r.Reason, &r.At, &r.Advisory)
	return r, err == nil, ignoreNoRows(err)
}
