package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// notAttested: allowed manifest m has no signature, or lacks a statement that could be made by now. That a scan is waited for is
// a row too. A document that no scanner could read has no SBOM, and nobody waits for one.
const notAttested = `exists (select from verdicts v where v.repository = m.repository and v.digest = m.digest and v.outcome = 'allow') and (
	not exists (select from signatures s where s.repository = m.repository and s.digest = m.digest and s.predicate = '' and s.signed_at is not null)
	or not exists (select from attestations a where a.repository = m.repository and a.digest = m.digest and a.predicate = $4)
	or (m.is_index or exists (select from scans where scans.digest = m.digest and scans.state = 'scanned'))
		and not exists (select from attestations a where a.repository = m.repository and a.digest = m.digest and a.predicate = $5 and a.signed_at is not null)
	or exists (select from builds b where b.repository = m.repository and b.digest = m.digest and b.state = 'done' and b.provenance is not null)
		and not exists (select from attestations a where a.repository = m.repository and a.digest = m.digest and a.predicate = $6 and a.signed_at is not null))`

// Unattested looks at images and indexes after one, in order, at most n, and at none that was pushed less than age ago: it has jobs
// of its own. It returns those of which something is not signed, and the last that it looked at; zero, when there are no more.
func (db *DB) Unattested(ctx context.Context, types artifact.PredicateTypes, after artifact.Reference, age time.Duration, n int) (all []artifact.Unattested, last artifact.Reference, err error) {
	rows, err := db.Pool.Query(ctx, `select m.repository, m.digest, m.pushed_at < now() - $8::interval and `+notAttested+`,
			case when m.pushed_at < now() - $8::interval and not exists (select from recalls r where r.repository = m.repository and r.digest = m.digest) then
				array(select distinct p.environment from promotions p where p.repository = m.repository and p.digest = m.digest and p.action in ('promote', 'rollback')
					and p.at < now() - $8::interval
					and not exists (select from attestations a where a.repository = m.repository and a.digest = m.digest and a.predicate = $7 and a.name = p.environment and a.signed_at is not null)
					order by 1) else '{}' end
		from (select repository, digest, is_index, pushed_at from manifests where (is_image or is_index) and (repository, digest) > ($1, $2)
			order by repository, digest limit $3) m order by m.repository, m.digest`,
		after.Repository.String(), after.Digest.String(), n, types.Scan, types.SBOM, types.Provenance, types.Verification, age)
	if err != nil {
		return nil, last, translate(err)
	}
	looked := 0
	var one artifact.Unattested
	_, err = pgx.ForEachRow(rows, []any{&one.Repository, &one.Digest, &one.Lacks, &one.Environments}, func() error {
		looked, last = looked+1, one.Reference
		if one.Lacks || len(one.Environments) > 0 {
			all = append(all, one)
		}
		one.Environments = nil
		return nil
	})
	if looked < n {
		last = artifact.Reference{}
	}
	return all, last, translate(err)
}
