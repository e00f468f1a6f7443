package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// postgresTool returns the path of a program of PostgreSQL's: a distribution's folder, else PATH.
func postgresTool(t *testing.T, name string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	path, err := exec.LookPath(name)
	require.NoError(t, err, "PostgreSQL is not installed")
	return path
}

// outside is a PostgreSQL that is not Waybill's own.
type outside struct {
	t   *testing.T
	dir string
	as  *syscall.Credential // PostgreSQL refuses to be root
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	dir, err := os.MkdirTemp(fixtures, "pg")
	require.NoError(t, err)
	d := &outside{t: t, dir: dir}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		require.NoError(t, err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		d.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		require.NoError(t, os.Chown(dir, uid, gid))
	}
	d.run("initdb", "-D", dir+"/data", "-U", "waybill", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
	t.Cleanup(func() {
		_ = d.try("pg_ctl", "-D", dir+"/data", "-m", "immediate", "-w", "stop")
		_ = os.RemoveAll(dir)
	})
	d.start()
	return d
}

func (d *outside) try(name string, args ...string) error {
	cmd := exec.Command(postgresTool(d.t, name), args...)
	cmd.Dir, cmd.SysProcAttr = d.dir, &syscall.SysProcAttr{Credential: d.as}
	log, err := os.CreateTemp(d.t.TempDir(), name)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log // a file: the server keeps it open
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w\n%s", name, err, said)
	}
	return nil
}

func (d *outside) run(name string, args ...string) {
	d.t.Helper()
	require.NoError(d.t, d.try(name, args...))
}

func (d *outside) start() {
	d.t.Helper()
	d.run("pg_ctl", "-D", d.dir+"/data", "-w", "-l", d.dir+"/log", "-o", "-c listen_addresses= -k "+d.dir, "start")
}

func (d *outside) url() string { return "host=" + d.dir + " user=waybill dbname=postgres" }

func (d *outside) sql(statement string) {
	d.t.Helper()
	d.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", d.dir, "-U", "waybill", "-d", "postgres", "-c", statement)
}

// TestDatabaseRestarts: a database of its own, stopped in the middle of everything and started again, thrice.
func TestDatabaseRestarts(t *testing.T) {
	t.Parallel()
	d := newOutside(t)
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("database: {url: '"+d.url()+"'}\n"), 0o600))
	s := serve(t, "--config", config)
	h := newHarrier(s)
	for range 3 {
		h.through("the database was stopped",
			func() { d.run("pg_ctl", "-D", d.dir+"/data", "-m", "immediate", "-w", "stop") },
			func() { h.refused(); d.start() })
	}
	// What it remembers is what the database says, also when it is told on a new line.
	first, second := s.current(h.admin, "shop/a:first"), s.current(h.admin, "shop/a:second")
	require.NotEqual(t, first, second)
	for _, digest := range []string{second, first, second} {
		d.sql("update tags set digest = '" + digest + "' where repository = 'shop/a' and name = 'first'")
		s.await("the tag as it stands now", func() bool { return s.current(h.admin, "shop/a:first") == digest })
	}
	h.complete()
}

// signal reaches the postmaster, and all that it started.
func (d *outside) signal(s syscall.Signal) {
	d.t.Helper()
	b, err := os.ReadFile(d.dir + "/data/postmaster.pid")
	require.NoError(d.t, err)
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	require.NoError(d.t, err)
	_ = syscall.Kill(pid, s)
	for _, child := range children(pid) {
		_ = syscall.Kill(child, s)
	}
}

// TestDatabaseHangs: a database that takes connections and answers nothing; requests are refused in time, and when it goes on
// so does everything.
func TestDatabaseHangs(t *testing.T) {
	t.Parallel()
	d := newOutside(t)
	t.Cleanup(func() { d.signal(syscall.SIGCONT) })
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("database: {url: '"+d.url()+"', timeout: 2s}\n"), 0o600))
	s := serve(t, "--config", config)
	h := newHarrier(s)
	for range 2 {
		h.through("the database hung",
			func() { d.signal(syscall.SIGSTOP) },
			func() {
				h.refused()
				h.looks() // each is answered, or the test would end here
				d.signal(syscall.SIGCONT)
			})
	}
	h.complete()
}

// TestPostmasterKilled: the private PostgreSQL is killed, whole and in part, and comes back by itself.
func TestPostmasterKilled(t *testing.T) {
	t.Parallel()
	s := serve(t)
	h := newHarrier(s)
	for range 2 {
		before := s.postmaster()
		h.through("the postmaster was killed", func() { require.NoError(t, syscall.Kill(before, syscall.SIGKILL)) }, func() {})
		require.NotEqual(t, before, s.postmaster())
	}
	for range 2 {
		before := s.postmaster()
		h.through("a backend was killed", func() { require.NoError(t, syscall.Kill(backend(t, before), syscall.SIGKILL)) }, func() {})
		require.Equal(t, before, s.postmaster())
	}
	h.complete()
	require.Contains(t, s.log.String(), "PostgreSQL runs again")
}

// postmaster is the process id of the private PostgreSQL.
func (s *waybillServer) postmaster() int {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", s.cmd.Process.Pid, filepath.Join(s.data, "postgres", "data", "postmaster.pid")))
	require.NoError(s.t, err)
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	require.NoError(s.t, err)
	return pid
}

// backend is the process id of a session of a postmaster's.
func backend(t *testing.T, postmaster int) int {
	t.Helper()
	for _, pid := range children(postmaster) {
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if rest, ok := strings.CutPrefix(string(title), "postgres: waybill_service "); ok && strings.HasPrefix(rest, "waybill ") {
			return pid
		}
	}
	t.Fatal("nobody is connected to PostgreSQL")
	return 0
}

// harrier pushes and pulls all the time, and looks at each answer.
type harrier struct {
	s             *waybillServer
	admin, pusher string
	digest        string

	mu           sync.Mutex
	acknowledged map[string]string // reference: digest
	unavailable  atomic.Int64
}

func newHarrier(s *waybillServer) *harrier {
	s.t.Helper()
	h := &harrier{s: s, admin: s.admin(), pusher: s.token("--role", "pusher"), acknowledged: map[string]string{}}
	h.digest = s.pushed(h.pusher, "shop/a:first", configured(s.t, "1000", files(s.t, map[string]string{"a": "1"})))
	s.pushed(h.pusher, "shop/a:second", configured(s.t, "1000", files(s.t, map[string]string{"a": "2"})))
	return h
}

// through breaks something while everybody works, mends it, and waits until all is well again.
func (h *harrier) through(what string, breaks, mends func()) {
	h.s.t.Helper()
	stop, worked := make(chan struct{}), make(chan struct{}, 1000)
	var work sync.WaitGroup
	for worker := range 3 {
		work.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				h.pushes(fmt.Sprintf("shop/w%d:t%d-%d", worker, len(h.known()), i))
				select {
				case worked <- struct{}{}:
				default:
				}
			}
		})
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					h.looks()
				}
			}
		})
	}
	for range 5 {
		<-worked
	}
	breaks()
	mends()
	h.s.await("/readyz to be green again after "+what, func() bool { status, _ := h.s.get("", "/readyz"); return status == http.StatusOK })
	before := len(h.known())
	h.s.await("pushes that work again after "+what, func() bool { return len(h.known()) > before+3 })
	close(stop)
	work.Wait()
	select {
	case <-h.s.gone:
		h.s.t.Fatalf("%s, and the server ended", what)
	default:
	}
}

func (h *harrier) known() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string]string, len(h.acknowledged))
	for ref, digest := range h.acknowledged {
		all[ref] = digest
	}
	return all
}

func (h *harrier) pushes(ref string) {
	img := configured(h.s.t, "1000", files(h.s.t, map[string]string{"app": ref, "noise": noise(10 << 10)}))
	digest, err := img.Digest()
	if err != nil || h.s.push(h.pusher, ref, img) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acknowledged[ref] = digest.String()
}

// looks asks for a few things. Each is answered, or refused with 503, what to do, and nothing of what is inside.
func (h *harrier) looks() {
	for _, ask := range []struct{ method, path string }{
		{http.MethodGet, "/v2/shop/a/manifests/first"},
		{http.MethodGet, "/v2/shop/a/manifests/" + h.digest},
		{http.MethodGet, "/v2/shop/a/tags/list"},
		{http.MethodPost, "/v2/shop/a/blobs/uploads/"},
		{http.MethodGet, "/v2/_catalog"},
		{http.MethodGet, "/api/v1/status"},
		{http.MethodGet, "/api/v1/ledger/entries"},
		{http.MethodGet, "/token?service=waybill&scope=repository:shop/a:pull"},
	} {
		h.one(ask.method, ask.path)
	}
}

// one asks for one thing and reports whether it was there.
func (h *harrier) one(method, path string) bool {
	req, err := http.NewRequestWithContext(context.Background(), method, h.s.url+path, nil)
	if err != nil {
		panic(err)
	}
	req.SetBasicAuth("x", h.admin)
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.s.t.Errorf("%s %s: %v", method, path, err)
		return false
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode < 300 {
		return true
	}
	h.unavailable.Add(1)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !json.Valid(body) || !strings.Contains(string(body), "the database") {
		h.s.t.Errorf("%s %s answers %s, %v: %s", method, path, resp.Status, resp.Header, body)
	}
	for _, inside := range []string{"SQLSTATE", "pgx", "dial", "goroutine", "unexpected EOF", "socket", "conn closed", h.s.data} {
		if strings.Contains(string(body), inside) {
			h.s.t.Errorf("%s %s tells of %q: %s", method, path, inside, body)
		}
	}
	return false
}

// refused: with the database away everything is refused, what is remembered too, and /readyz says so.
func (h *harrier) refused() {
	h.s.t.Helper()
	h.s.await("/readyz to be red", func() bool { status, _ := h.s.get("", "/readyz"); return status == http.StatusServiceUnavailable })
	h.s.await("nothing to be remembered", func() bool { return !h.one(http.MethodGet, "/v2/shop/a/manifests/"+h.digest) })
	status, _ := h.s.get("", "/healthz")
	require.Equal(h.s.t, http.StatusOK, status)
	_, stderr, code := h.s.waybill(h.admin, "status")
	require.Equal(h.s.t, 1, code)
	require.Contains(h.s.t, stderr, "the database does not answer; try again")
}

// complete: all that was acknowledged is there, what follows a push was done, and the ledger holds.
func (h *harrier) complete() {
	h.s.t.Helper()
	require.Positive(h.s.t, h.unavailable.Load(), "somebody must have noticed")
	for ref, digest := range h.known() {
		require.Equal(h.s.t, digest, h.s.current(h.pusher, ref))
		repository, _, _ := strings.Cut(ref, ":")
		h.s.signed(h.pusher, repository+"@"+digest)
	}
	require.Contains(h.s.t, h.s.ok(h.admin, "audit"), "ok")
	// A push that the kill cut short leaves at most bytes without a row, which are collected.
	found, stderr, code := h.s.waybill(h.admin, "fsck")
	for line := range strings.Lines(stderr + found) {
		if code != 0 && strings.Contains(line, "sha256:") {
			require.Contains(h.s.t, line, "no row knows its file")
		}
	}
	h.s.t.Logf("%d pushes acknowledged, %d answers were 503", len(h.known()), h.unavailable.Load())
}
