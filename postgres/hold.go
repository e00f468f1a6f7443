package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// holds are connections of those who hold a lock while they work: pools beside the main one, since what holds a lock
// needs connections of that while it does. Each kind of lock has its own: a build has layers inspected while it holds its
// lock, and if builds had all the connections, none would get on.
type holds struct{ builds, attestations, layers *pgxpool.Pool }

// openHolds opens them as cfg says. A wait for a lock is asked again twice within timeout, so that to wait for another
// replica is told from a database that hangs.
func openHolds(ctx context.Context, cfg *pgxpool.Config, timeout time.Duration) (h holds, err error) {
	cfg = cfg.Copy()
	cfg.MaxConns = max(8, cfg.MaxConns)
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = strconv.FormatInt(max(1, timeout.Milliseconds()/2), 10)
	for _, pool := range []**pgxpool.Pool{&h.builds, &h.attestations, &h.layers} {
		if *pool, err = pgxpool.NewWithConfig(ctx, cfg.Copy()); err != nil {
			h.close()
			return h, fmt.Errorf("open database: %w", err)
		}
	}
	return h, nil
}

func (h holds) close() {
	for _, pool := range []*pgxpool.Pool{h.builds, h.attestations, h.layers} {
		if pool != nil {
			pool.Close()
		}
	}
}

func (h holds) held() int32 {
	return h.builds.Stat().AcquiredConns() + h.attestations.Stat().AcquiredConns() + h.layers.Stat().AcquiredConns()
}

// hold takes an advisory lock of the database's, with a connection of its own until release is called. A replica that is
// killed lets go of it.
func hold(ctx context.Context, pool *pgxpool.Pool, name string) (release func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, translate(err)
	}
	for {
		_, err := conn.Exec(ctx, `select pg_advisory_lock(hashtextextended($1, 0))`, name)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55P03" { // lock_timeout: somebody else has it still
			continue
		}
		if err != nil {
			conn.Release()
			return nil, translate(err)
		}
		break
	}
	return func() {
		_, err := conn.Exec(context.WithoutCancel(ctx), `select pg_advisory_unlock(hashtextextended($1, 0))`, name)
		if err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx)) // ends the session, and with it the lock
		}
		conn.Release()
	}, nil
}
