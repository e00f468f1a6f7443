// Package postgres holds every SQL statement, a file per noun. Public methods own their transaction; unexported
// functions take one.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"waybill/artifact"
	"waybill/migrations"
)

// DB is the database. It is safe for concurrent use; Close ends it.
type DB struct {
	Pool *pgxpool.Pool
	// OnAccepted is told of each accepted image and index in the transaction that stores it; the wiring sets it once,
	// before the first push, to insert the jobs that follow. Nil tells nobody.
	OnAccepted func(ctx context.Context, tx pgx.Tx, e artifact.Event) error
	// OnPolicy is told likewise when a policy or a waiver is put in force, or a waiver ends: stored verdicts are out of
	// date.
	OnPolicy func(ctx context.Context, tx pgx.Tx) error
	// OnWaiver is told likewise of each new waiver, so that somebody wakes when it expires.
	OnWaiver func(ctx context.Context, tx pgx.Tx, w artifact.Waiver) error
	// OnAttached is told likewise of a digest when a manifest that refers to it, or its attestations, come or go by somebody
	// else's hand than Waybill's, and of one that waits for a signature when anything is attached to it.
	OnAttached func(ctx context.Context, tx pgx.Tx, ref artifact.Reference) error
	// OnScanned is told likewise of scans that say something new; nil tells nobody, and nothing is compared.
	OnScanned func(ctx context.Context, tx pgx.Tx, e artifact.ScanEvent) error
	// OnBuild is told of each build that is queued, in the transaction that stores it.
	OnBuild func(ctx context.Context, tx pgx.Tx, id string) error
	// OnBuilt is told likewise of what was built, when its provenance is known; nil tells nobody.
	OnBuilt func(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error
	// OnPromoted is told likewise of each promotion and rollback, and again (without a version) when something arrives
	// that refers to a digest which an environment may pull.
	OnPromoted func(ctx context.Context, tx pgx.Tx, p artifact.Promotion) error

	// OnKeyRevoked is told likewise of a signing key that is revoked, so that what it signed is made anew.
	OnKeyRevoked func(ctx context.Context, tx pgx.Tx, keyID string) error

	// Now is the clock that waivers end by; nil is time.Now. The wiring sets it once, if at all.
	Now func() time.Time

	// loose is for what may be lost with the last half second before a power cut, and is then done again: how far an
	// upload is, what was learned of a layer. Its commits do not wait for the disk.
	loose   *pgxpool.Pool
	holds   holds
	hot     *hot
	told    atomic.Pointer[func(artifact.Repository) func()] // see OnWithdrawn
	replica *replica
	changes *changes
	builds  *followers
	cells   cells
	unwatch context.CancelFunc
	watched chan struct{}
}

// Config says where the database is and how many connections to hold.
type Config struct {
	URL            string // a libpq URL or key=value string
	OwnerURL       string // likewise, of the role that owns the tables; empty: that of URL does
	MaxConnections int32  // 0: 16
	// Timeout is how long a statement that somebody waits for (artifact.Answering) may take, and a new connection. 0: 15s.
	Timeout time.Duration
}

// Open connects and brings the schema up to date; several replicas may do so at once, one migrates.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	poolConfig, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errors.New("database.url is not a PostgreSQL connection string; see the libpq manual, section Connection Strings")
	}
	poolConfig.MaxConns = cfg.MaxConnections
	if poolConfig.MaxConns == 0 {
		poolConfig.MaxConns = 16
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if poolConfig.ConnConfig.ConnectTimeout == 0 {
		poolConfig.ConnConfig.ConnectTimeout = cfg.Timeout
	}
	poolConfig.ConnConfig.Tracer = bound{cfg.Timeout}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	looseConfig := poolConfig.Copy()
	looseConfig.MaxConns = max(2, poolConfig.MaxConns/4)
	looseConfig.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	loose, err := pgxpool.NewWithConfig(ctx, looseConfig)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	holds, err := openHolds(ctx, poolConfig, cfg.Timeout)
	if err != nil {
		pool.Close()
		loose.Close()
		return nil, err
	}
	db := &DB{Pool: pool, loose: loose, holds: holds, hot: newHot(), replica: newReplica(), changes: newChanges(), builds: newFollowers(), watched: make(chan struct{})}
	if cfg.OwnerURL != "" {
		err = migrateAs(ctx, cfg.OwnerURL, poolConfig)
	} else {
		err = migrate(ctx, db.Pool)
	}
	if err != nil {
		pool.Close()
		loose.Close()
		holds.close()
		return nil, fmt.Errorf("migrate database: %w", err)
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	db.unwatch = unwatch
	go db.watch(watching, poolConfig.ConnConfig)
	return db, nil
}

func (db *DB) now() time.Time {
	if db.Now != nil {
		return db.Now()
	}
	return time.Now()
}

// Close waits for connections in use and ends them.
func (db *DB) Close() {
	db.unwatch()
	<-db.watched
	db.leave()
	db.loose.Close()
	db.holds.close()
	db.Pool.Close()
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return db.Pool.Ping(ctx) }

// Held is how many connections requests and jobs hold.
func (db *DB) Held() int {
	return int(db.Pool.Stat().AcquiredConns() + db.loose.Stat().AcquiredConns() + db.holds.held())
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	sqlDB := stdlib.OpenDBFromPool(pool)
	defer sqlDB.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, sqlDB, migrations.FS, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// Advisory lock keys of pg_advisory_xact_lock and pg_advisory_lock, with why each is needed.
const (
	lockLedger = 0x7761795f6c656467 // one appender at a time: an entry's index is the tree's size
	lockPolicy = 0x7761795f706f6c69 // no promotion under policies that are replaced, or by a key that is revoked, meanwhile
	lockRoles  = 0x7761795f726f6c65 // one replica gives the service's role its rights
	lockKeys   = 0x7761795f6b657973 // one rotation or revocation of a signing key at a time
	lockBlob   = 0x626c6f62         // with bits of a digest: no collector comes between a blob's bytes and its row

	// No signature is recorded of a key that is revoked meanwhile: shared by those, alone by the revocation.
	lockSignatures = 0x7761795f7369676e
)

// Transact runs f in a transaction and commits it. Serialization failures and deadlocks run f again, so f may run
// more than once and must not act outside the transaction.
func (db *DB) Transact(ctx context.Context, f func(tx pgx.Tx) error) error {
	return db.transact(ctx, "begin", f)
}

// transact is Transact that begins with more than "begin", in the same exchange with the database.
func (db *DB) transact(ctx context.Context, begin string, f func(tx pgx.Tx) error) error {
	for attempt := 0; ; attempt++ {
		err := pgx.BeginTxFunc(ctx, db.pool(ctx), pgx.TxOptions{BeginQuery: begin}, f)
		if attempt >= 5 || !retryable(err) {
			return translate(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt+1) * 5 * time.Millisecond):
		}
	}
}

// pool returns where a write goes.
func (db *DB) pool(ctx context.Context) *pgxpool.Pool {
	if artifact.IsDoneAgain(ctx) {
		return db.loose
	}
	return db.Pool
}

// retryable: SQLSTATE class 40 is transaction rollback (PostgreSQL manual, appendix A).
func retryable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// translate gives a database that is away, or has no room, its kind; all else stays as it is.
func translate(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil, artifact.KindOf(err) != "":
		return err
	case !errors.As(err, &pg):
		if lost(err) {
			return &artifact.Error{Kind: artifact.Unavailable, Message: "the database does not answer; try again", Err: err}
		}
	case pg.Code == "22021", pg.Code == "22P05": // what JSON can spell and a text cannot hold: NUL
		return artifact.Errorf(artifact.Invalid, "a text holds a character that cannot be stored")
	case pg.Code == "53100":
		return &artifact.Error{Kind: artifact.Full, Message: "the database's disk is full; when its operator has made room, try again", Err: err}
	case unwritable(pg):
		return &artifact.Error{Kind: artifact.Unavailable, Message: "the database cannot write; its operator must see to its disk, then try again", Err: err}
	case slices.Contains([]string{"08", "53", "57"}, pg.Code[:min(2, len(pg.Code))]):
		return &artifact.Error{Kind: artifact.Unavailable, Message: "the database does not answer; try again", Err: err}
	}
	return err
}

// lost reports whether an error is of the way to the database: it does not listen, or the connection broke.
func lost(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, net.ErrClosed)
}

// unwritable: an error of the disk (58030), a server that only reads (25006), or a read-only file system, which PostgreSQL
// tells as a lack of privilege (errcode_for_file_access in its elog.c).
func unwritable(pg *pgconn.PgError) bool {
	return pg.Code == "58030" || pg.Code == "25006" || pg.Code == "42501" && strings.Contains(strings.ToLower(pg.Message), syscall.EROFS.Error())
}

// orNotFound turns pgx.ErrNoRows into the given answer.
func orNotFound(err error, notFound *artifact.Error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound
	}
	return translate(err)
}

// isUniqueViolation: SQLSTATE 23505.
func isUniqueViolation(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505"
}
