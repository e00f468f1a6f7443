package jobs

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivertype"
)

// lost finds jobs that this process worked on while the database went away: what became of them could not be written, so
// that they stand as running, and River itself would take them up only when jobTimeout has passed.
type lost struct {
	pool   *pgxpool.Pool
	logger *slog.Logger

	mu      sync.Mutex
	running map[int64]bool
}

// Times of lost. A job that was fetched begins at once, and one that ended is written within moments.
const (
	lookForLost = 5 * time.Second
	lostAfter   = 20 * time.Second
)

// IsMiddleware makes it a rivertype.Middleware.
func (*lost) IsMiddleware() bool { return true }

// Work notes which jobs are at work here.
func (l *lost) Work(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) error {
	l.note(job.ID, true)
	defer l.note(job.ID, false)
	return work(ctx)
}

func (l *lost) note(id int64, running bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if running {
		l.running[id] = true
	} else {
		delete(l.running, id)
	}
}

// watch has jobs of this client that it does not work on tried again, until ctx is done.
func (l *lost) watch(ctx context.Context, client string) {
	for tick := time.NewTicker(lookForLost); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		n, err := l.takeUp(ctx, client)
		switch {
		case err != nil && ctx.Err() == nil:
			l.logger.DebugContext(ctx, "cannot look for lost jobs", "error", err)
		case n > 0:
			l.logger.WarnContext(ctx, "jobs were cut short while the database was away; they are tried again", "jobs", n)
		}
	}
}

func (l *lost) takeUp(ctx context.Context, client string) (int64, error) {
	l.mu.Lock()
	here := make([]int64, 0, len(l.running))
	for id := range l.running {
		here = append(here, id)
	}
	l.mu.Unlock()
	tag, err := l.pool.Exec(ctx, `update river_job set state = 'available', scheduled_at = now() where state = 'running' and attempted_at < now() - $1::interval
		and attempted_by[array_upper(attempted_by, 1)] = $2 and id <> all($3)`, lostAfter, client, here)
	return tag.RowsAffected(), err
}
