package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/internal/child"
)

// broken is a PostgreSQL whose program does as the script says, and notes each start in a file.
func broken(t *testing.T, script string) (e *Embedded, starts func() int) {
	t.Helper()
	dir := t.TempDir()
	noted := filepath.Join(dir, "starts")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho >> "+noted+"\n"+script+"\n"), 0o700))
	e = &Embedded{dir: dir, bin: dir, url: "host='" + dir + "'", wait: time.Microsecond, logger: slog.New(slog.DiscardHandler), done: make(chan struct{})}
	e.running, e.stop = context.WithCancel(t.Context())
	return e, func() int {
		b, _ := os.ReadFile(noted)
		return len(b)
	}
}

func TestGivenUp(t *testing.T) {
	t.Parallel()
	e, starts := broken(t, "echo 'FATAL: the folder is damaged' >&2; exit 1")
	row := 0
	require.Nil(t, e.again(&row, errors.New("it was killed")))
	require.Equal(t, restarts, starts())
	require.ErrorContains(t, e.Err(), "12 times did not help")
	require.ErrorContains(t, e.Err(), "the folder is damaged")
}

func TestNotGivenUpWhileDiskIsFull(t *testing.T) {
	t.Parallel()
	e, starts := broken(t, "echo 'FATAL: could not write lock file: No space left on device' >&2; exit 1")
	ended := make(chan *child.Process)
	go func() {
		row := 0
		ended <- e.again(&row, errors.New("it was killed"))
	}()
	require.Eventually(t, func() bool { return starts() > restarts }, time.Minute, time.Millisecond)
	e.stop()
	require.Nil(t, <-ended)
	require.NoError(t, e.Err(), "it was asked to")
}

// TestStartedAgain: the postmaster is killed; meanwhile there is one kind of error, and then the watch hears it again.
func TestStartedAgain(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "waybill-supervise-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711))
	e, err := StartEmbedded(t.Context(), filepath.Join(dir, "pg"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer e.Stop()
	db, err := Open(t.Context(), Config{URL: e.URL(), MaxConnections: 4})
	require.NoError(t, err)
	defer db.Close()
	hash := artifact.DigestOf([]byte("a policy"))
	_, _, err = db.ApplyDocument(t.Context(), "Policy", "kept", hash, "a policy", "ann")
	require.NoError(t, err)
	lock := filepath.Join(dir, "pg", "data", "postmaster.pid")
	for range 2 {
		heard := db.hot.heard.Load()
		before, err := os.ReadFile(lock)
		require.NoError(t, err)
		var pid int
		_, err = fmt.Sscan(string(before), &pid)
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool {
			kept, err := db.CurrentDocuments(t.Context(), "Policy")
			if err != nil && artifact.KindOf(err) != artifact.Unavailable {
				t.Errorf("it is told as %v", err)
			}
			now, _ := os.ReadFile(lock)
			return err == nil && len(kept) == 1 && kept[0].Hash == hash && len(now) > 0 && string(now) != string(before) && db.hot.heard.Load() > heard && db.hot.fresh()
		}, time.Minute, 10*time.Millisecond, "it runs again, and is heard again")
	}
}

// TestTranslate: what a client is told of what goes wrong with the database.
func TestTranslate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		kind artifact.Kind
	}{
		{nil, ""},
		{pgx.ErrNoRows, ""},
		{errors.New("a bug"), ""},
		{context.Canceled, ""},
		{io.EOF, ""},
		{&pgconn.PgError{Code: "42601"}, ""}, // a syntax error
		{&pgconn.PgError{Code: "23505"}, ""},
		{&pgconn.PgError{Code: "42501", Message: "permission denied for table tags"}, ""},
		{&pgconn.PgError{Code: "22021"}, artifact.Invalid},
		{&pgconn.PgError{Code: "53100"}, artifact.Full},
		{&pgconn.PgError{Code: "42501", Message: "could not open file \"base/1/2\": Read-only file system"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "58030"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "25006"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "57P01"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "57P03"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "53300"}, artifact.Unavailable},
		{&pgconn.PgError{Code: "08006"}, artifact.Unavailable},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, artifact.Unavailable},
		{io.ErrUnexpectedEOF, artifact.Unavailable},
		{pgconn.ErrConnClosed, artifact.Unavailable},
		{context.DeadlineExceeded, artifact.Unavailable},
		{artifact.Errorf(artifact.Denied, "no"), artifact.Denied},
	} {
		got := translate(c.err)
		require.Equal(t, c.kind, artifact.KindOf(got), "%v", c.err)
		if c.err != nil && c.kind != artifact.Invalid {
			require.ErrorIs(t, got, c.err, "the log has it")
		}
		var shown *artifact.Error
		if errors.As(got, &shown) {
			require.NotContains(t, shown.Message, "SQLSTATE")
		}
	}
}
