package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// TestSettled: who withdraws something waits for the other replicas, which answer at once, and for a second for one that does not.
func TestSettled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	settles := func() time.Duration {
		began := time.Now()
		db.Settled(t.Context())
		return time.Since(began)
	}
	quickly := func(what string) {
		t.Helper()
		require.Eventually(t, func() bool { return settles() < artifact.HeardFor }, 20*time.Second, time.Millisecond, what)
	}
	replicas := func() []string {
		rows, err := db.Pool.Query(t.Context(), `select id from replicas order by id`)
		require.NoError(t, err)
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return all
	}
	quickly("it is alone")

	other, err := postgres.Open(t.Context(), postgres.Config{URL: db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	done := make(chan struct{})
	other.OnWithdrawn(func(artifact.Repository) func() { return func() { <-done } })
	require.Eventually(t, func() bool { return len(replicas()) == 2 }, 10*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, settles(), artifact.HeardFor, "the other is not done")
	require.Len(t, replicas(), 2)
	close(done)
	quickly("the other is done")
	other.Close()
	require.Len(t, replicas(), 1, "one that ends leaves")
	quickly("it is alone again")

	_, err = db.Pool.Exec(t.Context(), `insert into replicas (id, seen_at) values ('just killed', now()), ('killed', now() - interval '2 minutes')`)
	require.NoError(t, err)
	require.GreaterOrEqual(t, settles(), artifact.HeardFor)
	require.Len(t, replicas(), 2, "one that was killed long ago is waited for once")
	require.NotContains(t, replicas(), "killed")
	require.GreaterOrEqual(t, settles(), artifact.HeardFor)

	// Nobody knows what is there.
	stopped := pgtest.New(t)
	stopped.Pool.Close()
	began := time.Now()
	stopped.Settled(t.Context())
	require.GreaterOrEqual(t, time.Since(began), artifact.HeardFor)
}
