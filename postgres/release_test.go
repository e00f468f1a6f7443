package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
)

// TestRelease: all services of a release move, or none.
func TestRelease(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	returns := s.repository
	cart := parsed(t, artifact.ParseRepository, "shop/cart")
	v456 := s.release("v456")
	s.repository = cart
	v81 := s.release("v81")
	s.release("v82")
	s.repository = returns
	dev, staging := parsed(t, artifact.ParseEnvironment, "dev"), parsed(t, artifact.ParseEnvironment, "staging")
	create := func(p artifact.Principal, name string, versions ...promotion.Request) error {
		_, err := s.service.CreateRelease(s.ctx, p, name, "week 47", versions)
		return err
	}
	both := []promotion.Request{{Repository: returns, Version: "v456"}, {Repository: cart, Version: "v81"}}
	require.Equal(t, artifact.Invalid, artifact.KindOf(create(s.ada, "shop 1", both...)))
	require.Equal(t, artifact.Invalid, artifact.KindOf(create(s.ada, "empty")))
	require.Equal(t, artifact.Invalid, artifact.KindOf(create(s.ada, "twice", both[0], both[0])))
	require.Equal(t, artifact.NotFound, artifact.KindOf(create(s.ada, "missing", promotion.Request{Repository: cart, Version: "v99"})))
	require.Equal(t, artifact.Denied, artifact.KindOf(create(artifact.Principal{Name: "ci", Role: artifact.Pusher}, "no", both...)))
	require.NoError(t, create(s.ada, "shop-2026.47", both...))
	require.Equal(t, artifact.Conflict, artifact.KindOf(create(s.ada, "shop-2026.47", both[0])), "it never changes")
	release, err := s.service.Release(s.ctx, s.ada, "shop-2026.47")
	require.NoError(t, err)
	require.Equal(t, []artifact.ReleaseService{{Repository: cart, Digest: v81, Version: "v81"}, {Repository: returns, Digest: v456, Version: "v456"}}, release.Services)
	_, err = s.service.Release(s.ctx, artifact.Principal{Name: "x", Role: artifact.Reader, Repositories: []string{"shop/cart"}}, "shop-2026.47")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "who may not see all of it sees nothing")
	all, _, more, err := s.service.Releases(s.ctx, s.ada, artifact.Release{}, 10)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, all, 1)
	require.Len(t, all[0].Services, 2)

	promote := func(e artifact.Environment, dry bool) ([]promotion.Result, error) {
		return s.service.PromoteRelease(s.ctx, s.ada, "shop-2026.47", promotion.Request{Environment: e, Reason: "week 47", DryRun: dry})
	}
	_, err = promote(staging, false)
	require.Equal(t, []string{"after", "after"}, rules(t, err), "every gate of every service")
	require.ErrorContains(t, err, "shop/cart: it was not promoted to dev")
	require.ErrorContains(t, err, "shop/returns: it was not promoted to dev")
	dry, err := promote(dev, true)
	require.NoError(t, err)
	require.Len(t, dry, 2)
	require.Zero(t, s.current("dev"))
	done, err := promote(dev, false)
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.Equal(t, "shop-2026.47", done[0].Release)
	require.Equal(t, v456, s.current("dev"))
	again, err := promote(dev, false)
	require.NoError(t, err)
	require.True(t, again[0].Unchanged && again[1].Unchanged)

	// One that may not go holds the other back, before its gates are evaluated or after.
	s.mustPromote("v456", "staging")
	s.judge.denied[v81] = true
	_, err = promote(staging, false)
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	delete(s.judge.denied, v81)
	moves := make([]promotion.Move, 2)
	for i, one := range release.Services {
		verdict, err := s.judge.JudgeStored(s.ctx, one.Repository, one.Digest)
		require.NoError(t, err)
		pass, err := verdict.Promotion()
		require.NoError(t, err)
		moves[i] = s.to(artifact.Promotion{Action: "promote", Repository: one.Repository, Environment: parsed(t, artifact.ParseEnvironment, "production"), Digest: one.Digest, Actor: "user:ada", PolicyHash: pass.PolicyHash()}, pass)
	}
	moves[1].Previous = v456 // somebody moved it meanwhile
	_, err = s.db.Promote(s.ctx, moves...)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	for _, one := range release.Services {
		_, ok, err := s.db.Current(s.ctx, one.Repository, parsed(t, artifact.ParseEnvironment, "production"))
		require.NoError(t, err)
		require.False(t, ok, "%s went, though the other did not", one.Repository)
	}
	_, err = s.db.Pool.Exec(s.ctx, "update release_services set digest = 'x'")
	require.ErrorContains(t, err, "append-only")
	s.sound()
}
