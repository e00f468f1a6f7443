package jobs

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"waybill/postgres/pgtest"
)

// TestLost: what stands as running and is not worked on is tried again; what is worked on, here or elsewhere, is not.
func TestLost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := pgtest.New(t).Pool
	require.NoError(t, migrate(ctx, pool))
	job := func(by string, age time.Duration, state string) (id int64) {
		require.NoError(t, pool.QueryRow(ctx, `insert into river_job (kind, state, args, attempt, max_attempts, attempted_at, attempted_by, queue)
			values ('sign', $1::river_job_state, '{}', 1, 25, now() - $2::interval, array['another', $3], 'default') returning id`, state, age, by).Scan(&id))
		return id
	}
	gone, working, elsewhere, young := job("me", time.Minute, "running"), job("me", time.Minute, "running"), job("you", time.Minute, "running"), job("me", time.Second, "running")
	l := &lost{pool: pool, logger: slog.New(slog.DiscardHandler), running: map[int64]bool{}}
	states := func() map[int64]string {
		all := map[int64]string{}
		for _, id := range []int64{gone, working, elsewhere, young} {
			var state string
			require.NoError(t, pool.QueryRow(ctx, `select state from river_job where id = $1`, id).Scan(&state))
			all[id] = state
		}
		return all
	}
	require.NoError(t, l.Work(ctx, &rivertype.JobRow{ID: working}, func(ctx context.Context) error {
		n, err := l.takeUp(ctx, "me")
		require.EqualValues(t, 1, n)
		return err
	}))
	require.Equal(t, map[int64]string{gone: "available", working: "running", elsewhere: "running", young: "running"}, states())
	n, err := l.takeUp(ctx, "me") // it ended, and that was not written
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Equal(t, "available", states()[working])
}
