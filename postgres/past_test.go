package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
)

// TestPast: the board at any instant is what it was then, and a lead counts what the other has not had.
func TestPast(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	changed := db.Changed(time.Now())
	_, err := db.Pool.Exec(ctx, `insert into repositories (name) values ('shop/returns')`)
	require.NoError(t, err)
	repository, _ := artifact.ParseRepository("shop/returns")
	repositories := []artifact.Repository{repository}
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	digest := map[string]artifact.Digest{}
	for _, version := range []string{"v1", "v2", "v3", "v4"} {
		digest[version] = artifact.DigestOf([]byte(version))
		_, err := db.Pool.Exec(ctx, `insert into manifests (repository, digest, media_type, is_image, is_index, body, pushed_by) values ('shop/returns', $1, 'm', true, false, '', 'ci')`, digest[version])
		require.NoError(t, err)
	}
	for minute, p := range []struct{ action, environment, version string }{
		{"promote", "production", "v1"}, {"promote", "staging", "v1"}, {"promote", "staging", "v2"}, {"promote", "staging", "v3"}, {"recall", "staging", "v2"},
		{"promote", "staging", "v4"}, {"recall", "staging", "v4"}, {"rollback", "staging", "v3"}, {"promote", "development", "v4"}, {"retire", "development", "v4"},
	} {
		_, err := db.Pool.Exec(ctx, `insert into promotions (action, repository, environment, digest, version, actor, ledger_index, at) values ($1, 'shop/returns', $2, $3, $4, 'ada', 0, $5)`,
			p.action, p.environment, digest[p.version], p.version, noon.Add(time.Duration(minute)*time.Minute))
		require.NoError(t, err)
	}
	_, err = db.Pool.Exec(ctx, `insert into deployments (repository, environment, digest, promotion) select repository, environment, digest, id from promotions where (environment, id) in (('production', 1), ('staging', 8))`)
	require.NoError(t, err)

	for minute, want := range []string{"production=v1", "production=v1 staging=v1", "production=v1 staging=v2", "production=v1 staging=v3", "production=v1 staging=v3",
		"production=v1 staging=v4", "production=v1", "production=v1 staging=v3", "development=v4 production=v1 staging=v3", "production=v1 staging=v3"} {
		at := noon.Add(time.Duration(minute) * time.Minute)
		all, err := db.DeploymentsAt(ctx, repositories, at)
		require.NoError(t, err)
		got := ""
		for i, d := range all {
			if i > 0 {
				got += " "
			}
			got += d.Environment.String() + "=" + d.Version
		}
		require.Equal(t, want, got, "%d minutes after noon", minute)
	}
	all, err := db.DeploymentsAt(ctx, repositories, noon.Add(-time.Second))
	require.NoError(t, err)
	require.Empty(t, all)

	for _, version := range []string{"v2", "v4"} {
		_, err := db.Pool.Exec(ctx, `insert into recalls (repository, digest, actor, reason) values ('shop/returns', $1, 'ada', 'CVE')`, digest[version])
		require.NoError(t, err)
	}
	for minute, want := range map[int]string{4: "", 5: "", 6: "staging=v4", 7: ""} { // v2 was not what staging ran when it was recalled
		all, err := db.Withdrawn(ctx, noon.Add(time.Duration(minute)*time.Minute))
		require.NoError(t, err)
		got := ""
		for _, w := range all {
			got += w.Environment.String() + "=" + w.Version
			require.Equal(t, "ada", w.RecalledBy)
			require.True(t, w.Since.Equal(noon.Add(5*time.Minute)) && w.RecalledAt.Equal(noon.Add(6*time.Minute)))
		}
		require.Equal(t, want, got, "%d minutes after noon", minute)
	}

	staging, _ := artifact.ParseEnvironment("staging")
	production, _ := artifact.ParseEnvironment("production")
	leads, err := db.Leads(ctx, repositories, [][2]artifact.Environment{{staging, production}})
	require.NoError(t, err)
	require.Len(t, leads, 1)
	require.Equal(t, 4, leads[0].By, "v2, v3, v4 and v3 again")

	first, ok, err := db.FirstPromotion(ctx)
	require.NoError(t, err)
	require.True(t, ok && first.Equal(noon))
	recent, err := db.PromotionsUntil(ctx, time.Now(), 2)
	require.NoError(t, err)
	require.Equal(t, "retire", recent[0].Action)
	require.Len(t, recent, 2)

	_, err = db.Pool.Exec(ctx, `insert into signatures (repository, digest, predicate, key_id, policy_hash) values ('shop/returns', $1, '', 'k', 'h')`, digest["v1"])
	require.NoError(t, err)
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told")
	}
}
