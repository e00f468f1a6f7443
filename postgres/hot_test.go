package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
)

// TestReplicas: what one server changes, another that remembered it forgets within a second.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	other, err := postgres.Open(t.Context(), postgres.Config{URL: s.db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	defer other.Close()
	environments := []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}
	v1, v2 := s.put("v1", tagged(t, "latest")), s.release("v2")
	s.mustPromote("v2", "dev")
	latest := parsed(t, artifact.ParseTag, "latest")

	stands := func() artifact.Digest {
		d, err := other.ResolveTag(t.Context(), s.repository, latest)
		require.NoError(t, err)
		return d
	}
	granted := func() bool {
		ok, err := other.Granted(t.Context(), environments, s.repository, v2)
		require.NoError(t, err)
		return ok
	}
	has := func() bool {
		_, err := other.Manifest(t.Context(), s.repository, v1)
		return err == nil
	}
	for range 3 { // by now they are remembered
		require.Equal(t, v1, stands())
		require.True(t, granted())
		require.True(t, has())
	}
	seen := func(what string, check func() bool) {
		require.Eventually(t, check, time.Second, 5*time.Millisecond, what)
	}
	s.put("v2", tagged(t, "latest"))
	seen("a tag that moved", func() bool { return stands() == v2 })
	require.NoError(t, s.db.Recall(t.Context(), s.repository, v2, "user:ada", "CVE", ""))
	seen("a recall", func() bool { return !granted() })
	seen("an environment that has nothing now", func() bool {
		_, err := other.ResolveTag(t.Context(), s.repository, environments[0].Tag())
		return artifact.KindOf(err) == artifact.NotFound
	})
	require.NoError(t, s.db.DeleteManifest(t.Context(), s.repository, v1, "user:ada"))
	seen("a deleted manifest", func() bool { return !has() })
}
