package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// TestFindEntries: entries are found by who, what, which kind and when, page by page, newest first.
func TestFindEntries(t *testing.T) {
	t.Parallel()
	db, ctx := pgtest.New(t), t.Context()
	shop, bank := parsed(t, artifact.ParseRepository, "shop/returns"), parsed(t, artifact.ParseRepository, "bank/core")
	a := artifact.DigestOf([]byte("a"))
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var all []int64
	for i, e := range []ledger.Entry{
		{Kind: "push.accepted", Actor: "token:ci/1", Repository: shop, Digest: a, Version: "v1"},
		{Kind: "push.accepted", Actor: "token:ci/1", Repository: bank, Digest: a},
		{Kind: "promotion", Actor: "token:ada/2", Repository: shop, Digest: a, Reason: "because"},
		{Kind: "token.created", Actor: "token:ada/2", Subject: "k3v9"},
		{Kind: "push.denied", Actor: "token:ci/1", Repository: shop, Reasons: []string{"no-sshd: x"}},
	} {
		e.At = noon.Add(time.Duration(i/2) * time.Hour) // two at each instant
		index, err := db.Record(ctx, e)
		require.NoError(t, err)
		all = append(all, index)
	}
	for name, c := range map[string]struct {
		filter artifact.LedgerFilter
		want   []int
	}{
		"all":                         {artifact.LedgerFilter{From: noon}, []int{4, 3, 2, 1, 0}},
		"by somebody":                 {artifact.LedgerFilter{Actor: "token:ci/1"}, []int{4, 1, 0}},
		"of a repository":             {artifact.LedgerFilter{Repository: shop}, []int{4, 2, 0}},
		"of a repository, by one":     {artifact.LedgerFilter{Repository: shop, Actor: "token:ada/2"}, []int{2}},
		"of a digest anywhere":        {artifact.LedgerFilter{Digest: a}, []int{2, 1, 0}},
		"of a digest in a repository": {artifact.LedgerFilter{Digest: a, Repository: bank}, []int{1}},
		"of a kind":                   {artifact.LedgerFilter{Kind: "push.accepted"}, []int{1, 0}},
		"of a kind, by somebody":      {artifact.LedgerFilter{Kind: "token.created", Actor: "token:ada/2"}, []int{3}},
		"of a digest, by one, a kind": {artifact.LedgerFilter{Digest: a, Kind: "promotion", Actor: "token:ada/2"}, []int{2}},
		"from an instant on":          {artifact.LedgerFilter{From: noon.Add(time.Hour)}, []int{4, 3, 2}},
		"before an instant":           {artifact.LedgerFilter{From: noon, To: noon.Add(time.Hour)}, []int{1, 0}},
		"by nobody":                   {artifact.LedgerFilter{Actor: "token:x/1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var want, got []int64
			for _, i := range c.want {
				want = append(want, all[i])
			}
			f := c.filter
			for f.Limit = 2; ; {
				page, err := db.FindEntries(ctx, f)
				require.NoError(t, err)
				for _, l := range page {
					got = append(got, l.Index)
					f.Before = l
				}
				if len(page) < f.Limit {
					break
				}
			}
			require.Equal(t, want, got)
		})
	}
	found, err := db.FindEntries(ctx, artifact.LedgerFilter{Kind: "promotion", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, artifact.LedgerLine{Index: all[2], At: noon.Add(time.Hour), Kind: "promotion", Actor: "token:ada/2", Repository: shop, Digest: a, Reason: "because"}, found[0])
}

// TestBuildRunPages: builds are found by repository and state, page by page, newest first, with where their source is.
func TestBuildRunPages(t *testing.T) {
	t.Parallel()
	db, ctx := pgtest.New(t), t.Context()
	shop, bank := parsed(t, artifact.ParseRepository, "shop/returns"), parsed(t, artifact.ParseRepository, "bank/core")
	for i := range 5 {
		r := shop
		if i == 2 {
			r = bank
		}
		request := `{"Tags": ["v1"], "Source": {"uri": "https://git.example/shop", "commit": "3f9c1d2"}}`
		if i == 0 {
			request = `{"Source": {}}`
		}
		_, err := db.AddBuildRun(ctx, postgres.BuildRun{Build: artifact.Build{ID: fmt.Sprintf("B%d", i), Repository: r, Key: artifact.DigestOf([]byte{byte(i)})}, Request: []byte(request), Owner: "me"})
		require.NoError(t, err)
	}
	require.NoError(t, db.EndBuildRun(ctx, "me", artifact.Build{ID: "B3", State: artifact.BuildFailed, Failure: "it broke"}))
	ids := func(f artifact.BuildFilter) (all []string) {
		for f.Limit = 2; ; {
			page, err := db.BuildRuns(ctx, f)
			require.NoError(t, err)
			for _, b := range page {
				all = append(all, b.ID)
				f.After = b
			}
			if len(page) < f.Limit {
				return all
			}
		}
	}
	require.Equal(t, []string{"B4", "B3", "B2", "B1", "B0"}, ids(artifact.BuildFilter{}))
	require.Equal(t, []string{"B4", "B3", "B1", "B0"}, ids(artifact.BuildFilter{Repository: shop}))
	require.Equal(t, []string{"B3"}, ids(artifact.BuildFilter{State: artifact.BuildFailed}))
	require.Equal(t, []string{"B4", "B1", "B0"}, ids(artifact.BuildFilter{Repository: shop, State: artifact.BuildRunning}))
	page, err := db.BuildRuns(ctx, artifact.BuildFilter{Repository: bank, Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "https://git.example/shop@3f9c1d2", page[0].Source)
	first, err := db.BuildRun(ctx, "B0")
	require.NoError(t, err)
	require.Empty(t, first.Source)
}
