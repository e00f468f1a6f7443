package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"waybill/artifact"
)

const (
	watchEvery = 300 * time.Millisecond // how often the database is asked whether it is still there
	watchAgain = 200 * time.Millisecond // before a lost connection is tried again
)

// watch listens for what others change, on a connection of its own, until ctx is done.
func (db *DB) watch(ctx context.Context, cfg *pgx.ConnConfig) {
	defer close(db.watched)
	for ctx.Err() == nil {
		_ = db.listen(ctx, cfg.Copy()) // while it is away nothing remembered is used, so that all goes on, slower
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

// listen returns when the connection is lost.
func (db *DB) listen(ctx context.Context, cfg *pgx.ConnConfig) error {
	cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) {
		switch n.Channel {
		case "board":
			db.changes.tell()
			return
		case "builds":
			db.builds.tell(n.Payload)
			return
		case "settle":
			db.settle(ctx, n.Payload)
			return
		case "settled":
			db.replica.settled(n.Payload)
			return
		}
		repository, err := artifact.ParseRepository(n.Payload)
		if err != nil && n.Payload != "" {
			return
		}
		db.heard(repository)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "listen changed; listen board; listen builds; listen settle; listen settled"); err != nil {
		return err
	}
	db.hot.forgetAll() // what changed while nobody listened is not known
	db.replica.unlisted()
	go db.tell(artifact.Repository{})()
	db.changes.tell()
	db.builds.tellAll()
	for {
		asked := time.Now()
		if err := ping(ctx, conn); err != nil {
			return err
		}
		if err := db.enlist(ctx); err != nil {
			return err
		}
		// The answer came after every notification of what was committed before the question.
		db.hot.hear(asked)
		for asked.Add(watchEvery).After(time.Now()) {
			waiting, cancel := context.WithDeadline(ctx, asked.Add(watchEvery))
			err := conn.PgConn().WaitForNotification(waiting)
			cancel()
			if ctx.Err() != nil || conn.IsClosed() {
				return err
			}
		}
	}
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	return conn.Ping(bounded)
}
