package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// strait is a way to a database that can be closed: bytes that are on it, in either direction, then arrive when it is opened again, and
// nobody is told.
type strait struct {
	net.Listener
	to string

	mu   sync.Mutex // guards all below
	open chan struct{}
	ends []net.Conn
}

func newStrait(t *testing.T, to string) *strait {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &strait{Listener: l, to: to}
	s.pass(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(context.Background(), "unix", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			s.mu.Lock()
			s.ends = append(s.ends, near, far)
			s.mu.Unlock()
			wg.Go(func() { s.carry(far, near) })
			wg.Go(func() { s.carry(near, far) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.pass(true)
		s.mu.Lock()
		for _, c := range s.ends {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *strait) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		<-open
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// pass opens the strait, or closes it.
func (s *strait) pass(open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !open:
		s.open = make(chan struct{})
	case s.open == nil:
		s.open = make(chan struct{})
		close(s.open)
	default:
		select {
		case <-s.open:
		default:
			close(s.open)
		}
	}
}

// dribbling reads a blob on and on, slowly enough to be at it for some seconds; what it returns waits for the end.
func (r *replica) dribbling(who string, d artifact.Digest) (rest func() (n int64, err error)) {
	r.t.Helper()
	answer, err := r.get(who, "/blobs/"+d.String())
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, answer.StatusCode)
	var n int64
	done := make(chan error, 1)
	go func() {
		defer answer.Body.Close()
		for {
			some, err := io.CopyN(io.Discard, answer.Body, 64<<10)
			if n += some; err != nil {
				done <- err
				return
			}
			<-time.After(8 * time.Millisecond)
		}
	}()
	return func() (int64, error) { err := <-done; return n, err }
}

// TestRecallBehindPartition: a replica that hears nothing from the database, and does not know, serves nothing of what was recalled after the
// recall's answer; nor does it of anything else that it would have to ask for. Afterwards it goes on by itself.
func TestRecallBehindPartition(t *testing.T) {
	t.Parallel()
	folder, db := t.TempDir(), pgtest.New(t)
	here := newReplica(t, db, folder)
	config := db.Pool.Config().ConnConfig
	way := newStrait(t, filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port)))
	_, port, err := net.SplitHostPort(way.Addr().String())
	require.NoError(t, err)
	second, err := postgres.Open(t.Context(), postgres.Config{URL: db.Pool.Config().ConnString() + " host=127.0.0.1 port=" + port, MaxConnections: 4, Timeout: time.Second})
	require.NoError(t, err)
	defer second.Close()
	there := newReplica(t, second, folder)

	bad, badLayer := here.image("bad", mark, held)
	good, goodLayer := here.image("good", "YYYYYYYY", held)
	stopped, dribbling, reader := there.slow("node", badLayer), there.dribbling("node", badLayer), there.slow("reader", goodLayer)
	asks := func(d artifact.Digest) int {
		answer, err := there.get("node", "/manifests/"+d.String())
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode
	}
	require.Equal(t, http.StatusOK, asks(bad), "which is remembered there")

	way.pass(false)
	began := time.Now()
	require.NoError(t, db.Recall(t.Context(), here.shop, bad, "user:ada", "CVE", ""))
	db.Settled(t.Context())
	there.listens.answered.Store(true)
	require.Less(t, time.Since(began), 5*time.Second, "who cannot be heard holds up no recall")
	for name, rest := range map[string]func() (int64, error){"one that stopped": stopped, "one that reads on": dribbling} {
		n, err := rest()
		require.Error(t, err, name)
		require.NotErrorIs(t, err, io.EOF, name)
		require.Less(t, n, int64(held), name)
	}
	require.Equal(t, http.StatusServiceUnavailable, asks(bad))
	require.Equal(t, http.StatusServiceUnavailable, asks(good))
	n, err := reader()
	require.NoError(t, err, "who may pull at will")
	require.GreaterOrEqual(t, n, int64(held))

	way.pass(true)
	require.Eventually(t, func() bool { return asks(good) == http.StatusOK }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, http.StatusForbidden, asks(bad))
	require.Zero(t, there.listens.late.Load())
}
