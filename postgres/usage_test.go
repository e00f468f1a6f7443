package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/storage"
)

// stored puts blobs of so many bytes into repositories; a blob of none is loose.
func stored(t testing.TB, db *postgres.DB, blobs map[string][]string, sizes map[string]int64) {
	t.Helper()
	for name, repositories := range blobs {
		digest := artifact.DigestOf([]byte(name)).String()
		_, err := db.Pool.Exec(t.Context(), `insert into blobs (digest, size) values ($1, $2)`, digest, sizes[name])
		require.NoError(t, err)
		for _, r := range repositories {
			_, err := db.Pool.Exec(t.Context(), `insert into repositories (name) values ($1) on conflict do nothing`, r)
			require.NoError(t, err)
			_, err = db.Pool.Exec(t.Context(), `insert into repository_blobs (repository, digest) values ($1, $2)`, r, digest)
			require.NoError(t, err)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a, _, err := db.CountedUsage(t.Context())
	require.NoError(t, err)
	require.Zero(t, a, "nothing was counted yet")
	stored(t, db, map[string][]string{"base": {"shop/a", "shop/b", "shop/c"}, "a": {"shop/a"}, "b": {"shop/b"}, "empty": {"shop/b"}, "loose": nil},
		map[string]int64{"base": 1000, "a": 10, "b": 20, "loose": 7})
	_, err = db.Pool.Exec(t.Context(), `insert into uploads (id, repository, offset_, created_by) values (gen_random_uuid(), 'shop/a', 3, 'ci')`)
	require.NoError(t, err)
	require.NoError(t, db.CountUsage(t.Context()))
	a, ago, err := db.CountedUsage(t.Context())
	require.NoError(t, err)
	require.Less(t, ago, time.Minute)
	require.Positive(t, a.Took)
	require.Equal(t, []int64{5, 1037, 1000, 7, 3, 30}, []int64{a.Blobs, a.Bytes, a.Shared, a.Loose, a.Uploads, a.Own()})
	say := func() (all []string) {
		for _, h := range a.Repositories {
			all = append(all, fmt.Sprint(h.Repository, " ", h.Blobs, " ", h.Bytes, " ", h.Own))
		}
		return all
	}
	require.Equal(t, []string{"shop/b 3 1020 20", "shop/a 2 1010 10", "shop/c 1 1000 0"}, say())

	// What goes is counted out, and what is shared no longer becomes somebody's own.
	_, err = db.Pool.Exec(t.Context(), `delete from repository_blobs where repository in ('shop/a', 'shop/c')`)
	require.NoError(t, err)
	require.NoError(t, db.CountUsage(t.Context()))
	a, _, err = db.CountedUsage(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"shop/b 3 1020 1020"}, say())
	require.Equal(t, int64(17), a.Loose)

	// While another replica counts, nobody waits.
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = tx.Exec(t.Context(), `select pg_advisory_xact_lock(hashtextextended('only/a count of what is stored', 0))`)
	require.NoError(t, err)
	stored(t, db, map[string][]string{"c": {"shop/c"}}, map[string]int64{"c": 1})
	require.NoError(t, db.CountUsage(t.Context()))
	a, _, err = db.CountedUsage(t.Context())
	require.NoError(t, err)
	require.Len(t, a.Repositories, 1)
}

func TestRuns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	shop, err := artifact.ParseRepository("shop/a")
	require.NoError(t, err)
	found := storage.Outcome{Blobs: 5, Findings: 1, Found: []storage.Damage{{Kind: "bytes", Digest: artifact.DigestOf(nil), Detail: "others", Repositories: []artifact.Repository{shop}}}}
	require.NoError(t, db.SaveRun(t.Context(), storage.Run{Kind: storage.RunCheck, Actor: "ada", BeganAt: at, EndedAt: at.Add(time.Second), Outcome: found, Problem: "cut short"}, 3))
	for i := range 5 {
		require.NoError(t, db.SaveRun(t.Context(), storage.Run{Kind: storage.RunCollection, Actor: "system", BeganAt: at, EndedAt: at, Outcome: storage.Outcome{Removed: int64(i)}}, 3))
	}
	all, err := db.Runs(t.Context(), storage.RunCollection, 10)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, int64(4), all[0].Outcome.Removed, "the newest first")
	all, err = db.Runs(t.Context(), storage.RunCheck, 10)
	require.NoError(t, err)
	require.Len(t, all, 1, "each kind by itself")
	require.Equal(t, found, all[0].Outcome)
	require.Equal(t, "cut short", all[0].Problem)
	require.True(t, all[0].EndedAt.Equal(at.Add(time.Second)))
}

// BenchmarkUsage counts, and reads what was counted, of 100,000 images of five blobs in 1,000 repositories.
func BenchmarkUsage(b *testing.B) {
	db := pgtest.New(b)
	for _, sql := range []string{
		`insert into repositories (name) select 'team' || n % 50 || '/service' || n from generate_series(0, 999) n`,
		`insert into blobs (digest, size) select 'sha256:' || encode(sha256(n::text::bytea), 'hex'), 1000 + n % 100000 from generate_series(1, 300000) n`,
		// Three blobs of each image are its own, two are of the 2,000 that all share.
		`insert into repository_blobs (repository, digest) select 'team' || n % 1000 % 50 || '/service' || n % 1000, 'sha256:' || encode(sha256(n::text::bytea), 'hex') from generate_series(2001, 300000) n`,
		`insert into repository_blobs (repository, digest) select distinct 'team' || n % 1000 % 50 || '/service' || n % 1000, 'sha256:' || encode(sha256((n * 7919 % 2000 + 1)::text::bytea), 'hex') from generate_series(1, 200000) n`,
		`analyze repository_blobs`, `analyze blobs`} {
		_, err := db.Pool.Exec(b.Context(), sql)
		require.NoError(b, err)
	}
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, db.CountUsage(b.Context()))
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			a, _, err := db.CountedUsage(b.Context())
			require.NoError(b, err)
			require.Len(b, a.Repositories, 1000)
		}
	})
}
