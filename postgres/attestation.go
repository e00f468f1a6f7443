package postgres

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// attestationStands: what is recorded is by this key, or by one before it that was not revoked, and for this basis, young enough, and neither what carries it nor the tag that
// leads there was deleted since. Provenance and summaries of an older release have no basis.
const attestationStands = `(attestations.key_id = excluded.key_id or exists (select from signing_keys k where k.id = attestations.key_id))
	and not exists (select from signing_key_revocations r where r.key = attestations.key_id) and attestations.basis = excluded.basis
	and ($8::interval = '0' or attestations.signed_at > now() - $8::interval)
	and exists (select from manifests m where m.repository = attestations.repository and m.digest = attestations.manifest)
	and exists (select from tags t where t.repository = attestations.repository and t.name = replace(attestations.digest, ':', '-') || '.att')`

// IntendAttestation commits that a statement will be signed by a key; done reports that it was already, for the basis,
// and less than keep ago (zero: at any time).
func (db *DB) IntendAttestation(ctx context.Context, a artifact.Attestation, keep time.Duration) (done bool, err error) {
	err = db.Pool.QueryRow(ctx, `insert into attestations (repository, digest, predicate, name, key_id, policy_hash, basis) values ($1, $2, $3, $4, $5, $6, $7)
		on conflict (repository, digest, predicate, name) do update set
			key_id = case when `+attestationStands+` then attestations.key_id else excluded.key_id end,
			policy_hash = case when `+attestationStands+` then attestations.policy_hash else excluded.policy_hash end, basis = excluded.basis, intended_at = now(),
			signed_at = case when `+attestationStands+` then attestations.signed_at end,
			manifest = case when `+attestationStands+` then attestations.manifest end,
			envelope = case when `+attestationStands+` then attestations.envelope end
		returning signed_at is not null`, a.Repository, a.Digest, a.Predicate, a.Name, a.KeyID, a.PolicyHash, a.Basis, keep).Scan(&done)
	return done, translate(err)
}

// RecordAttestations commits the outcome of statements about one digest, by one key, in one transaction with the ledger
// entry. It is a Conflict when the key was revoked meanwhile: another has to sign.
func (db *DB) RecordAttestations(ctx context.Context, all []artifact.Attestation) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		var (
			types    []string
			evidence []artifact.Digest
		)
		if len(all) > 0 {
			if err := refuseRevoked(ctx, tx, all[0].Repository, all[0].Digest, all[0].KeyID); err != nil {
				return err
			}
		}
		for _, a := range all {
			tag, err := tx.Exec(ctx, `update attestations set signed_at = now(), manifest = $6, envelope = $7
				where repository = $1 and digest = $2 and predicate = $3 and name = $4 and key_id = $5 and signed_at is null`,
				a.Repository, a.Digest, a.Predicate, a.Name, a.KeyID, a.Manifest, a.Envelope)
			if err != nil {
				return err
			}
			if tag.RowsAffected() > 0 {
				types, evidence = append(types, a.Predicate), append(evidence, a.Manifest)
			}
		}
		if len(types) == 0 {
			return nil
		}
		a := all[0]
		_, err := appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindSigned, Actor: artifact.System.Name, Repository: a.Repository, Digest: a.Digest, PolicyHash: a.PolicyHash,
			Subject: a.KeyID + " " + strings.Join(types, " "), Evidence: evidence})
		return err
	})
}

// Attestations returns the statements that the service signed about a digest.
func (db *DB) Attestations(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Attestation, error) {
	rows, err := db.Pool.Query(ctx, `select repository, digest, predicate, name, key_id, policy_hash, basis, signed_at, manifest, envelope from attestations
		where repository = $1 and digest = $2 and signed_at is not null order by predicate, name`, repository, digest)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.Attestation])
	return all, translate(err)
}

// LockAttestations waits until no other replica writes attestations of a digest, and keeps it so until release is called.
func (db *DB) LockAttestations(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (release func(), err error) {
	return hold(ctx, db.holds.attestations, "attestations/"+repository.String()+"@"+digest.String())
}

// RemoveSuperseded removes what the service attached to a digest before and that others replace: referrers of the types
// and names of kept that are not kept themselves, and manifests that the tag stood at. What somebody else attached stays,
// and so do other people's attestations: the tag holds them still. Grants of what goes end with it.
func (db *DB) RemoveSuperseded(ctx context.Context, repository artifact.Repository, digest artifact.Digest, tag artifact.Tag, kept []artifact.Attestation, typeAnnotation, nameAnnotation string) error {
	defer db.hot.forget(repository)
	var manifests, kinds []string
	for _, a := range kept {
		manifests, kinds = append(manifests, a.Manifest.String()), append(kinds, a.Predicate+" "+a.Name)
	}
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if err := lockGrants(ctx, tx, repository); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select m.digest from manifests m where m.repository = $1 and m.subject = $2 and m.pushed_by = $3 and not m.is_image
				and (m.annotations ->> $6) || ' ' || coalesce(m.annotations ->> $7, '') = any($4) and m.digest <> all($5)
			union
			select m.digest from tag_history h join manifests m on m.repository = $1 and m.digest = h.digest and m.pushed_by = $3 and not m.is_image
			where h.repository = $1 and h.name = $8 and not exists (select from tags t where t.repository = $1 and t.digest = m.digest)
			order by 1`, repository, digest, artifact.System.Name, kinds, manifests, typeAnnotation, nameAnnotation, tag)
		if err != nil {
			return err
		}
		old, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Digest])
		if err != nil {
			return err
		}
		for _, d := range old {
			if _, err := tx.Exec(ctx, `delete from grants g where g.repository = $1 and (g.digest = $2 or g.digest in (select r.digest from manifest_references r
				where r.repository = $1 and r.manifest = $2 and r.kind <> 'manifest' and not exists (select from manifest_references other
					where other.repository = $1 and other.digest = r.digest and other.manifest <> $2)))`, repository, d); err != nil {
				return err
			}
			if _, err := deleteManifest(ctx, tx, repository, d, artifact.System.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// scanBasis is what scans of the images of digest $2 in repository $1 come to: hashes of what was found, of each, and whether all are done.
const scanBasis = indexTree + `select 'sha256:' || encode(sha256(coalesce(string_agg(coalesce(s.vulnerabilities, ''), ''::bytea order by m.digest), '')), 'hex') as basis,
		count(*) > 0 and bool_and(coalesce(s.state = 'scanned', false)) as scanned, coalesce(max(s.scanned_at), '-infinity') as at
	from tree t join manifests m on m.repository = $1 and m.digest = t.digest and m.is_image left join scans s on s.digest = m.digest`

// ScanBasis identifies what was found in an image, or in the images of an index; scanned is false until each is scanned.
func (db *DB) ScanBasis(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (basis string, scanned bool, err error) {
	err = db.Pool.QueryRow(ctx, `select basis, scanned from (`+scanBasis+`) found`, repository, digest).Scan(&basis, &scanned)
	return basis, scanned, translate(err)
}

// AwaitScan has ScanAttestations return a digest that is to be attested when its images are scanned.
func (db *DB) AwaitScan(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate string) error {
	_, err := db.Pool.Exec(ctx, `insert into attestations (repository, digest, predicate, key_id, policy_hash) values ($1, $2, $3, '', '') on conflict do nothing`, repository, digest, predicate)
	return translate(err)
}

// ScanAttestations returns digests after one that have a scan attestation or wait for one, at most n, in order.
func (db *DB) ScanAttestations(ctx context.Context, predicate string, after artifact.Reference, n int) ([]artifact.Reference, error) {
	rows, err := db.Pool.Query(ctx, `select repository, digest from attestations a where predicate = $1 and (repository, digest) > ($2, $3)
		and exists (select from manifests m where m.repository = a.repository and m.digest = a.digest) order by repository, digest limit $4`,
		predicate, after.Repository.String(), after.Digest.String(), n)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r artifact.Reference, err error) {
		return r, row.Scan(&r.Repository, &r.Digest)
	})
	return all, translate(err)
}

// ScanAttestationStands reports whether a scan attestation says what was found by now, and was signed less than keep ago
// or after the newest scan.
func (db *DB) ScanAttestationStands(ctx context.Context, predicate string, ref artifact.Reference, keep time.Duration) (stands bool, err error) {
	err = db.Pool.QueryRow(ctx, `select coalesce((select found.scanned and a.signed_at is not null and a.basis = found.basis and (a.signed_at > now() - $4::interval or a.signed_at > found.at)
		from (`+scanBasis+`) found, attestations a where a.repository = $1 and a.digest = $2 and a.predicate = $3 and a.name = ''), false)`,
		ref.Repository, ref.Digest, predicate, keep).Scan(&stands)
	return stands, translate(err)
}

// Provenance returns how a digest was built, as the predicate of the first build that made it; ok is false when none here did.
func (db *DB) Provenance(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (predicate json.RawMessage, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select provenance from builds where repository = $1 and digest = $2 and state = 'done' and provenance is not null order by ended_at limit 1`, repository, digest).Scan(&predicate)
	return predicate, err == nil, ignoreNoRows(err)
}

// LastPromotion returns the newest promotion or rollback of a digest to an environment; ok is false when there was none.
func (db *DB) LastPromotion(ctx context.Context, repository artifact.Repository, digest artifact.Digest, environment artifact.Environment) (p artifact.Promotion, ok bool, err error) {
	rows, err := db.Pool.Query(ctx, `select `+promotionColumns+` from promotions where repository = $1 and digest = $2 and environment = $3 and action in ('promote', 'rollback') order by id desc limit 1`,
		repository, digest, environment)
	if err != nil {
		return p, false, translate(err)
	}
	p, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[artifact.Promotion])
	return p, err == nil, ignoreNoRows(err)
}
