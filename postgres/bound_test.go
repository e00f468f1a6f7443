package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"waybill/artifact"
)

// freezer is a PostgreSQL that can be made to hang: it takes connections, and answers nothing.
type freezer struct {
	*Embedded
	t   *testing.T
	dir string
}

func newFreezer(t *testing.T) *freezer {
	t.Helper()
	dir, err := os.MkdirTemp("", "waybill-freezer-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711))
	e, err := StartEmbedded(t.Context(), filepath.Join(dir, "pg"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	f := &freezer{e, t, dir}
	t.Cleanup(func() { f.signal(syscall.SIGCONT); e.Stop() })
	return f
}

func (f *freezer) open(timeout time.Duration) *DB {
	f.t.Helper()
	db, err := Open(f.t.Context(), Config{URL: f.URL(), MaxConnections: 3, Timeout: timeout})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { f.signal(syscall.SIGCONT); db.Close() })
	return db
}

// signal reaches the postmaster first, so that it starts nobody meanwhile, and then all that it started.
func (f *freezer) signal(s syscall.Signal) {
	b, err := os.ReadFile(filepath.Join(f.dir, "pg", "data", "postmaster.pid"))
	if err != nil {
		return // it has ended
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	require.NoError(f.t, err)
	_ = syscall.Kill(pid, s)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, _ := os.ReadFile(path)
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && len(fields) > 1 && fields[1] == first {
			_ = syscall.Kill(child, s)
		}
	}
}

// TestHangs: what a request waits for ends soon, and says why; what takes its time waits; and all goes on with the database.
func TestHangs(t *testing.T) {
	t.Parallel()
	f := newFreezer(t)
	db := f.open(700 * time.Millisecond)
	answering := artifact.Answering(t.Context())
	layer := artifact.DigestOf([]byte("layer"))
	asks := map[string]func(ctx context.Context) error{
		"row":   func(ctx context.Context) error { _, _, err := db.LayerFacts(ctx, layer); return err },
		"rows":  func(ctx context.Context) error { _, err := db.Tokens(ctx); return err },
		"write": func(ctx context.Context) error { return db.SaveLayerFailure(ctx, artifact.DigestOf(nil), "a bomb") },
		"loose": func(ctx context.Context) error {
			return db.SaveLayer(ctx, artifact.LayerFacts{Digest: layer}, "test", nil)
		},
		"transaction": func(ctx context.Context) error {
			_, _, err := db.ApplyDocument(ctx, "Policy", "one", layer, "a policy", "ann")
			return err
		},
		"batch": func(ctx context.Context) error {
			return db.addWhereabouts(ctx, []artifact.Affected{{Digest: layer}})
		},
		"lock": func(ctx context.Context) error {
			release, err := db.LockLayer(ctx, layer)
			if err == nil {
				release()
			}
			return err
		},
	}
	for what, ask := range asks {
		require.NoError(t, ask(answering), what)
	}
	for range 2 {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		f.signal(syscall.SIGSTOP)
		begun := time.Now()
		var all errgroup.Group
		for what, ask := range asks {
			for range 5 { // more than there are connections
				all.Go(func() error {
					if err := ask(answering); artifact.KindOf(err) != artifact.Unavailable {
						return fmt.Errorf("%s: %w", what, err)
					}
					return nil
				})
			}
		}
		long := make(chan error, 1)
		go func() {
			_, err := tx.Exec(artifact.TakesTime(answering), "select count(*) from layer_facts")
			long <- errors.Join(err, tx.Commit(t.Context()))
		}()
		require.NoError(t, all.Wait())
		require.Less(t, time.Since(begun), 30*time.Second, "patience is bounded")
		var known *artifact.Error
		require.ErrorAs(t, asks["row"](answering), &known)
		require.Equal(t, "the database does not answer; try again", known.Message)
		require.Empty(t, long, "what takes its time waits for the database")

		f.signal(syscall.SIGCONT)
		for what, ask := range asks {
			require.Eventually(t, func() bool { return ask(answering) == nil }, time.Minute, 10*time.Millisecond, what)
		}
		require.NoError(t, <-long)
		require.Eventually(t, db.hot.fresh, time.Minute, 10*time.Millisecond, "changes are heard of again")
	}
}

// TestLockOutlastsTimeout: to wait for another replica's lock is not to wait for a database that hangs.
func TestLockOutlastsTimeout(t *testing.T) {
	t.Parallel()
	f := newFreezer(t)
	const timeout = 400 * time.Millisecond
	one, other := f.open(timeout), f.open(timeout)
	layer := artifact.DigestOf([]byte("layer"))
	release, err := one.LockLayer(t.Context(), layer)
	require.NoError(t, err)
	taken := make(chan error, 1)
	go func() {
		release, err := other.LockLayer(artifact.Answering(t.Context()), layer)
		if err == nil {
			defer release()
		}
		taken <- err
	}()
	var first, last time.Time
	require.Eventually(t, func() bool {
		err := one.Pool.QueryRow(t.Context(), `select query_start from pg_stat_activity where wait_event = 'advisory'`).Scan(&last)
		if err == nil && first.IsZero() {
			first = last
		}
		return last.Sub(first) > 3*timeout
	}, time.Minute, 10*time.Millisecond, "it asks again and again")
	require.Empty(t, taken)
	release()
	require.NoError(t, <-taken)

	// Who gives up leaves nothing behind.
	release, err = one.LockLayer(t.Context(), layer)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err = other.LockLayer(short, layer)
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	release()
	release, err = other.LockLayer(t.Context(), layer)
	require.NoError(t, err)
	release()
}

// TestLocksLeaveConnections: however many layers and builds are locked at a time, and however few connections there are, who
// has a lock finds what it needs to get on.
func TestLocksLeaveConnections(t *testing.T) {
	t.Parallel()
	f := newFreezer(t)
	db := f.open(time.Minute)
	shop, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	layers := func(i int) error {
		layer := artifact.DigestOf(fmt.Appendf(nil, "layer %d", i))
		release, err := db.LockLayer(ctx, layer)
		if err != nil {
			return err
		}
		defer release()
		if _, _, err := db.LayerFacts(ctx, layer); err != nil {
			return err
		}
		return db.SaveLayer(ctx, artifact.LayerFacts{Digest: layer}, "test", nil)
	}
	var all errgroup.Group
	for i := range 100 {
		all.Go(func() error { return layers(i % 60) })
		all.Go(func() error { // a build has its layers inspected before it ends
			release, err := db.LockBuild(ctx, shop, artifact.DigestOf(fmt.Appendf(nil, "build %d", i%60)))
			if err != nil {
				return err
			}
			defer release()
			return layers(i % 60)
		})
	}
	require.NoError(t, all.Wait())
	require.Zero(t, db.Held())
}
