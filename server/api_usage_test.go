package server_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

// TestStorageIsOfTheCallersRepositories: who may not look at all of them learns nothing of the others, and not from what is
// shared with them either.
func TestStorageIsOfTheCallersRepositories(t *testing.T) {
	t.Parallel()
	s, _ := newWorld(t).start(t)
	said := func(who, query string) (all []string, usage server.StorageUsage) {
		call(t, s, who, "GET", "/storage"+query, "", "").decode(t, &usage)
		for _, r := range usage.Repositories {
			own := "unknown"
			if r.Own != nil {
				own = fmt.Sprint(*r.Own)
			}
			all = append(all, fmt.Sprint(r.Repository, " ", r.Bytes, " ", own))
		}
		return all, usage
	}
	all, usage := said("auditor", "")
	require.Len(t, all, 2)
	require.Equal(t, &server.StorageTotal{Blobs: 5, Bytes: 1037, Shared: 1000, Loose: 7, Uploads: 3, Quota: 5000}, usage.Total)
	require.Contains(t, all[0], " 1020 20", "the largest first")
	all, usage = said("auditor", "?sort=name&limit=1&page=2")
	require.Len(t, all, 1)
	require.Equal(t, 2, usage.Of)
	all, usage = said("auditor", "?page=1000000&limit=1000")
	require.Empty(t, all)
	require.Equal(t, 2, usage.Of)
	all, _ = said("auditor", "?match=SHOP")
	require.Equal(t, []string{"shop/returns 1010 10"}, all)
	all, usage = said("scoped-reader", "?sort=own")
	require.Len(t, all, 1)
	require.Contains(t, all[0], "1020 unknown")
	require.Nil(t, usage.Total)
	for _, query := range []string{"?limit=0", "?limit=1001", "?sort=digest", "?page=0", "?other=1"} {
		require.Equal(t, 422, call(t, s, "admin", "GET", "/storage"+query, "", "").status, query)
	}
	require.Equal(t, 422, call(t, s, "admin", "GET", "/storage/runs?kind=other", "", "").status)
}

func TestAdvisoryCoverage(t *testing.T) {
	t.Parallel()
	s, _ := newWorld(t).start(t)
	var whole, some server.AdvisoryStatus
	call(t, s, "auditor", "GET", "/advisories", "", "").decode(t, &whole)
	require.Equal(t, int64(7), whole.Images.Matched)
	require.Equal(t, "k9", whole.Key)
	require.Equal(t, int64(6*3600), whole.IntervalSeconds)
	call(t, s, "scoped-reader", "GET", "/advisories", "", "").decode(t, &some)
	require.Nil(t, some.Images, "how many images there are is for who sees them all")
}
