package postgres_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
)

// walk reads a list in pages of n to its end.
func walk[T any](t *testing.T, n int, fetch func(after T, n int) ([]T, error), name func(T) string) (all []string) {
	t.Helper()
	var after T
	for {
		page, err := fetch(after, n)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), n)
		for _, one := range page {
			all = append(all, name(one))
		}
		if len(page) < n {
			return all
		}
		after = page[n-1]
	}
}

// TestPagesOfBuildsReleasesAndCopies: pages hold every row once and in order, also of those of one instant.
func TestPagesOfBuildsReleasesAndCopies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, err := db.Pool.Exec(t.Context(), `insert into build_runs (id, repository, key, request, principal, state, asked_at)
		select 'b' || lpad(i::text, 3, '0'), case i % 3 when 0 then 'shop/cart' else 'shop/returns' end, '`+artifact.DigestOf(nil).String()+`', '{"Tags": []}', '{"name": "token:ci"}', 'failed',
			'2026-10-01T12:00:00.123456Z'::timestamptz - (i / 7) * interval '1 microsecond' from generate_series(0, 99) i`)
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `insert into releases (name, actor, at, ledger_index)
		select 'r' || lpad(i::text, 3, '0'), 'user:ada', '2026-10-01T12:00:00.123456Z'::timestamptz + (i / 7) * interval '1 microsecond', i from generate_series(0, 99) i`)
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `insert into replications (target, repository, digest, environment, state, since)
		select 'edge' || i % 2, case i % 3 when 0 then 'shop/cart' else 'shop/returns' end, 'sha256:' || lpad(i::text, 64, '0'), 'dev', 'copied',
			'2026-10-01T12:00:00.123456Z'::timestamptz + (i / 7) * interval '1 microsecond' from generate_series(0, 99) i`)
	require.NoError(t, err)
	shop, err := artifact.ParseRepository("shop/cart")
	require.NoError(t, err)

	for _, n := range []int{1, 3, 7, 8, 100, 101} {
		builds := func(r artifact.Repository) []string {
			return walk(t, n, func(after artifact.Build, n int) ([]artifact.Build, error) {
				return db.BuildRuns(t.Context(), artifact.BuildFilter{Repository: r, After: after, Limit: n})
			}, func(b artifact.Build) string { return b.ID })
		}
		all := builds(artifact.Repository{})
		require.Len(t, all, 100)
		require.True(t, slices.IsSorted(all), "the newest first, and those of one instant by their ids")
		require.Len(t, builds(shop), 34)
		for r, want := range map[artifact.Repository]int{{}: 100, shop: 34} {
			copies := walk(t, n, func(after artifact.Replication, n int) ([]artifact.Replication, error) {
				return db.Replications(t.Context(), r, after, n)
			},
				func(r artifact.Replication) string { return r.Digest.String() })
			slices.Sort(copies)
			require.Len(t, slices.Compact(copies), want)
		}
		releases := walk(t, n, func(after artifact.Release, n int) ([]artifact.Release, error) {
			return db.Releases(t.Context(), after, n)
		}, func(r artifact.Release) string { return r.Name })
		require.Len(t, releases, 100)
		require.True(t, slices.IsSortedFunc(releases, func(x, y string) int { return strings.Compare(y, x) }))
	}
}
