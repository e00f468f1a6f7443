package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// RecordBases stores what an image was built on.
func (db *DB) RecordBases(ctx context.Context, all []artifact.BuiltOn) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		for _, b := range all {
			if _, err := tx.Exec(ctx, `insert into build_bases (repository, digest, base_repository, base_digest, base_tag) values ($1, $2, $3, $4, $5) on conflict do nothing`,
				b.Repository, b.Digest, b.BaseRepository, b.BaseDigest, b.BaseTag); err != nil {
				return err
			}
		}
		return nil
	})
}

// builtOn is what is known of a base by now. An index stands for each of its images.
// Denials are counted, too, so that no plan reads all of them first.
const builtOn = `select b.repository, b.digest, b.base_repository, b.base_digest, b.base_tag, b.at,
		exists (select from recalls r where r.repository = b.base_repository and (r.digest = b.base_digest
			or exists (select from manifest_references m where m.repository = r.repository and m.digest = b.base_digest and m.manifest = r.digest))) as recalled,
		coalesce((select v.outcome = 'deny' from verdicts v where v.repository = b.base_repository and v.digest = b.base_digest), false) as denied,
		not coalesce((select true from manifests m where m.repository = b.base_repository and m.digest = b.base_digest), false) as gone,
		coalesce((select t.digest from tags t where t.repository = b.base_repository and t.name = b.base_tag and t.digest <> b.base_digest
			and not exists (select from manifest_references m where m.repository = t.repository and m.digest = b.base_digest and m.manifest = t.digest)), '') as replaced_by
	from build_bases b where (select count(*) from manifests i where i.repository = b.repository and i.digest = b.digest) > 0 and `

// BuiltOn returns what images that are here were built on: the next n behind one, in the order of images and bases.
func (db *DB) BuiltOn(ctx context.Context, after artifact.BuiltOn, n int) ([]artifact.BuiltOn, error) {
	return db.builtOn(ctx, builtOn+`(b.repository, b.digest, b.base_repository, b.base_digest) > ($1, $2, $3, $4) order by b.repository, b.digest, b.base_repository, b.base_digest limit $5`,
		after.Repository.String(), after.Digest.String(), after.BaseRepository.String(), after.BaseDigest.String(), n)
}

// BasesOf returns what one image was built on.
func (db *DB) BasesOf(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.BuiltOn, error) {
	return db.builtOn(ctx, builtOn+`b.repository = $1 and b.digest = $2`, r, d)
}

func (db *DB) builtOn(ctx context.Context, sql string, args ...any) ([]artifact.BuiltOn, error) {
	rows, err := db.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.BuiltOn])
	return all, translate(err)
}
