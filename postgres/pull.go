package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/storage"
)

// SavePulls records when manifests were last pulled, of those that are there, and who pulled how often on which day, of
// all. Of a manifest that is pulled all the time the first is written each minute. Its commit does not wait for the disk;
// when its answer is lost, the counts may be added twice.
func (db *DB) SavePulls(ctx context.Context, pulls []storage.Pull) error {
	var (
		repositories, digests, principals []string
		counts                            []int64
		first, at                         []time.Time
	)
	for _, p := range pulls {
		repositories, digests, principals = append(repositories, p.Repository.String()), append(digests, p.Digest.String()), append(principals, p.Principal)
		counts, first, at = append(counts, p.Count), append(first, p.First), append(at, p.At)
	}
	batch := &pgx.Batch{}
	batch.Queue(`insert into pulls (repository, digest, last_pulled_at)
		select repository, digest, max(at) from unnest($1::text[], $2::text[], $3::timestamptz[]) as noted (repository, digest, at) join manifests using (repository, digest)
		group by repository, digest order by repository, digest
		on conflict (repository, digest) do update set last_pulled_at = excluded.last_pulled_at where pulls.last_pulled_at < excluded.last_pulled_at - interval '1 minute'`,
		repositories, digests, at)
	// Rows are locked in one order, so that two writers do not wait for each other.
	batch.Queue(`insert into pull_days (repository, digest, day, principal, pulls, first_at, last_at)
		select repository, digest, (last_at at time zone 'UTC')::date as day, principal, pulls, first_at, last_at
		from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[]) as noted (repository, digest, principal, pulls, first_at, last_at)
		where principal <> '' and pulls > 0 order by repository, digest, day, principal
		on conflict (repository, digest, day, principal) do update
		set pulls = pull_days.pulls + excluded.pulls, first_at = least(pull_days.first_at, excluded.first_at), last_at = greatest(pull_days.last_at, excluded.last_at)`,
		repositories, digests, principals, counts, first, at)
	return translate(db.loose.SendBatch(ctx, batch).Close())
}

// How pull_days is read: what is asked for, and then the page of it.
const (
	pullColumns = `select repository, digest, principal, pulls, first_at, last_at, coalesce((select case when m.is_image then 'image' when m.is_index then 'index'
		when m.follows then 'attached' else 'artifact' end from manifests m where m.repository = pull_days.repository and m.digest = pull_days.digest), '') from pull_days where `
	pullPage = ` and day >= $4 and day <= $5 and (day, repository, digest, principal) > ($6::date, $7::text, $8::text, $9::text)
		order by day, repository, digest, principal limit $10`
	newestPulls = ` and day >= $4 and day <= $5 and ($6::date, $7::text, $8::text, $9::text) > (day, repository, digest, principal)
		order by day desc, repository desc, digest desc, principal desc limit $10`
)

// Pulls returns who pulled what, by day, repository, digest and principal, after a given row.
func (db *DB) Pulls(ctx context.Context, f artifact.PullFilter) ([]artifact.PullDay, error) {
	sql := pullColumns + `$1::text = '' and $2::text = '' and $3::text = ''` + pullPage
	if f.Newest && f.After.Day.IsZero() {
		f.After.Day = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	switch {
	case f.Newest && !f.Repository.IsZero():
		sql = pullColumns + `repository = $1 and ($2::text = '' or digest = $2) and ($3::text = '' or principal = $3)` + newestPulls
	case f.Newest && f.Principal != "":
		sql = pullColumns + `$1::text = '' and $2::text = '' and principal = $3` + newestPulls
	case f.Newest:
		sql = pullColumns + `$1::text = '' and $2::text = '' and $3::text = ''` + newestPulls
	case !f.Repository.IsZero():
		sql = pullColumns + `repository = $1 and ($2::text = '' or digest = $2) and ($3::text = '' or principal = $3)` + pullPage
	case f.Principal != "":
		sql = pullColumns + `$1::text = '' and $2::text = '' and principal = $3` + pullPage
	}
	rows, err := db.Pool.Query(ctx, sql, f.Repository.String(), f.Digest.String(), f.Principal, f.From, f.To,
		f.After.Day, f.After.Repository.String(), f.After.Digest.String(), f.After.Principal, f.Limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d artifact.PullDay, err error) {
		err = row.Scan(&d.Repository, &d.Digest, &d.Principal, &d.Pulls, &d.First, &d.Last, &d.Type)
		d.First, d.Last = d.First.UTC(), d.Last.UTC()
		d.Day = d.Last.Truncate(24 * time.Hour)
		return d, err
	})
	return all, translate(err)
}
