package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestRecentPushesTo: the newest pushes to some repositories are found behind any number to others.
func TestRecentPushesTo(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.put("v1", tagged(t, "latest"))
	_, err := s.db.Pool.Exec(s.ctx, `insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor, decided_at)
		select case when n > 5 then 'bank/ledger' else 'shop/cart' end, 'sha256:' || lpad(to_hex(n), 64, '0'), 'deny', '[]', 'sha256:' || repeat('0', 64), '{}', 'v' || n, 'token:ci', now() + n * interval '1 second' from generate_series(1, 500) n`)
	require.NoError(t, err)
	to := []artifact.Repository{parsed(t, artifact.ParseRepository, "shop/cart"), s.repository, parsed(t, artifact.ParseRepository, "shop/empty")}
	found := func(o artifact.Outcome, limit int) (names []string) {
		all, err := s.db.RecentPushesTo(s.ctx, to, o, limit)
		require.NoError(t, err)
		for _, one := range all {
			names = append(names, one.Repository.String()+":"+one.Reference)
		}
		return names
	}
	require.Equal(t, []string{"shop/cart:v5", "shop/cart:v4", "shop/cart:v3"}, found(artifact.Deny, 3))
	require.Len(t, found(artifact.Deny, 100), 5)
	require.Len(t, found(artifact.Allow, 100), 1)
	newest, err := s.db.RecentPushes(s.ctx, artifact.Deny, 100)
	require.NoError(t, err)
	require.Len(t, newest, 100)
	require.Equal(t, "v500", newest[0].Reference)
}
