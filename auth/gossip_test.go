package auth_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// counted is a database that counts how often it is told of failed logins, and of how many keys at most.
type counted struct {
	*postgres.DB
	mu         sync.Mutex
	told, most int
}

func (c *counted) ShareFailures(ctx context.Context, own map[string]int, perMinute int, since time.Time) ([]auth.Failure, time.Time, error) {
	c.mu.Lock()
	if len(own) > 0 {
		c.told++
	}
	c.most = max(c.most, len(own))
	c.mu.Unlock()
	return c.DB.ShareFailures(ctx, own, perMinute, since)
}

// TestLockedOutOfAllReplicas: who guesses too often at one replica is locked out of the others, and out of one that starts
// later; nobody else is; and guesses are told of once a second, however many there are.
func TestLockedOutOfAllReplicas(t *testing.T) {
	t.Parallel()
	db := &counted{DB: pgtest.New(t)}
	replica := func() *auth.Service {
		return auth.NewService(auth.Config{Store: db, Failures: db, FailedLogins: 10, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	}
	one, other := replica(), replica()
	secret, _, err := one.Create(t.Context(), artifact.System, auth.Grant{Name: "ci", Role: artifact.Pusher, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	guesser := auth.WithAddress(t.Context(), "192.0.2.1")
	neighbour := auth.WithAddress(t.Context(), "192.0.2.2")
	_, err = other.Authenticate(guesser, secret)
	require.NoError(t, err)

	begun := time.Now()
	for range 20 {
		_, err = one.Authenticate(guesser, "wrong")
		require.Error(t, err)
	}
	require.Equal(t, artifact.TooMany, artifact.KindOf(err))
	locked := func(s *auth.Service) func() bool {
		return func() bool {
			_, err := s.Authenticate(guesser, secret)
			return artifact.KindOf(err) == artifact.TooMany
		}
	}
	require.Eventually(t, locked(other), 20*time.Second, 10*time.Millisecond, "with what is right, too: nothing is told")
	require.Eventually(t, locked(replica()), 20*time.Second, 10*time.Millisecond, "and one that starts later")
	for _, s := range []*auth.Service{one, other} {
		_, err = s.Authenticate(neighbour, secret)
		require.NoError(t, err)
	}

	// Of more addresses than are told at once, so many are.
	for i := range 1000 {
		_, err = one.Authenticate(auth.WithAddress(t.Context(), fmt.Sprintf("198.51.%d.%d", i/250, i%250)), "wrong")
		require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	require.LessOrEqual(t, db.most, 200)
	require.LessOrEqual(t, db.told, 2+3*int(time.Since(begun)/time.Second), "once a second of each replica")
}

// TestFailuresComeBack: what was counted together comes back within a minute, and is then dropped.
func TestFailuresComeBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	share := func(own map[string]int) map[string]float64 {
		all, now, err := db.ShareFailures(t.Context(), own, 30, time.Time{})
		require.NoError(t, err)
		spent := map[string]float64{}
		for _, f := range all {
			require.False(t, now.IsZero())
			require.Less(t, f.Age, 10*time.Minute)
			spent[f.Key] = f.Spent
		}
		return spent
	}
	require.Empty(t, share(nil))
	require.InDelta(t, 20, share(map[string]int{"a": 20, "b": 1})["a"], 0.001)
	require.InDelta(t, 30, share(map[string]int{"a": 20})["a"], 0.001, "no more than there is to spend")
	_, err := db.Pool.Exec(t.Context(), "update login_failures set at = at - interval '30 seconds'")
	require.NoError(t, err)
	require.InDelta(t, 16, share(map[string]int{"a": 1})["a"], 0.5)
	_, err = db.Pool.Exec(t.Context(), "update login_failures set at = at - interval '3 minutes'")
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"c": 1}, share(map[string]int{"c": 1}))
}
