package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waybillServer is a running `waybill serve` and the folder it serves.
type waybillServer struct {
	t    testing.TB
	data string
	args []string
	via  []string // what the program is started through; nothing: as it is
	url  string   // http://127.0.0.1:port
	host string   // 127.0.0.1:port, as registry clients name it
	cmd  *exec.Cmd
	log  *logBuffer
	gone chan struct{}
}

// serve starts a server on a data folder of its own and waits until it is ready.
func serve(t testing.TB, args ...string) *waybillServer {
	t.Helper()
	return serveVia(t, nil, args...)
}

// serveVia is serve of a program that is started through another, which gets the data folder as $0 and ends by exec.
func serveVia(t testing.TB, via []string, args ...string) *waybillServer {
	t.Helper()
	dir, err := os.MkdirTemp(fixtures, "s")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	s := &waybillServer{t: t, data: filepath.Join(dir, "data"), args: args}
	if via != nil {
		s.via = append(slices.Clone(via), s.data)
	}
	s.start("127.0.0.1:0")
	t.Cleanup(func() {
		s.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// start starts the program on the folder; again after a stop, on the same address.
func (s *waybillServer) start(listen string) {
	s.t.Helper()
	line := append(slices.Clone(s.via), "waybill", "serve", "--data", s.data, "--listen", listen)
	line = append(line, s.args...)
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Env = clean()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := s.cmd.StdoutPipe()
	require.NoError(s.t, err)
	s.log, s.gone = &logBuffer{}, make(chan struct{})
	s.cmd.Stderr = s.log
	require.NoError(s.t, s.cmd.Start())
	address := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				address <- url
			}
		}
		_ = s.cmd.Wait()
		close(s.gone)
	}()
	select {
	case s.url = <-address:
		s.host = strings.TrimPrefix(s.url, "http://")
	case <-s.gone:
		s.t.Fatalf("waybill serve ended:\n%s", s.log)
	case <-time.After(time.Minute):
		s.t.Fatalf("waybill serve is not ready after a minute:\n%s", s.log)
	}
}

// stop ends the program by a signal and waits.
func (s *waybillServer) stop(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	<-s.gone
}

func (s *waybillServer) admin() string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.data, "admin.token"))
	require.NoError(s.t, err)
	return strings.TrimSpace(string(b))
}

// token makes a token.
func (s *waybillServer) token(args ...string) string {
	s.t.Helper()
	return strings.TrimSpace(s.ok(s.admin(), append([]string{"token", "create"}, args...)...))
}

// waybill runs a verb as the holder of token.
func (s *waybillServer) waybill(token string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return command(s.t, "", []string{"WAYBILL_URL=" + s.url, "WAYBILL_TOKEN=" + token}, "waybill", args...)
}

// ok runs a verb that must succeed and returns what it prints.
func (s *waybillServer) ok(token string, args ...string) string {
	s.t.Helper()
	stdout, stderr, code := s.waybill(token, args...)
	require.Zero(s.t, code, "waybill %s: %s%s", strings.Join(args, " "), stdout, stderr)
	return stdout
}

// json runs a verb with --output json and decodes what it prints.
func (s *waybillServer) json(token string, into any, args ...string) {
	s.t.Helper()
	out := s.ok(token, append(args, "--output", "json")...)
	require.NoError(s.t, json.Unmarshal([]byte(out), into), out)
}

// await asks until ok says yes; what it waits for is done by jobs, and each of those ends with a state that can be read.
func (s *waybillServer) await(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("waited two minutes for %s", what)
		case <-tick.C:
		}
	}
}

// get asks the server over HTTP, with a token as the password.
func (s *waybillServer) get(token, path string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+path, nil)
	require.NoError(s.t, err)
	req.SetBasicAuth("x", token)
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp.StatusCode, string(b)
}

// command runs a program and returns what it printed and its exit status.
func command(t testing.TB, dir string, env []string, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(clean(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a program that must succeed and returns everything it printed.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	stdout, stderr, code := command(t, "", nil, name, args...)
	require.Zero(t, code, "%s %s\n%s%s", name, strings.Join(args, " "), stdout, stderr)
	return stdout + stderr
}

// refused runs a program that must fail and returns everything it printed.
func refused(t testing.TB, name string, args ...string) string {
	t.Helper()
	stdout, stderr, code := command(t, "", nil, name, args...)
	require.NotZero(t, code, "%s %s must fail\n%s%s", name, strings.Join(args, " "), stdout, stderr)
	return stdout + stderr
}

// clean is the environment without what a developer's own Waybill or registry login would change.
func clean() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WAYBILL_") && !strings.HasPrefix(v, "DOCKER_") {
			env = append(env, v)
		}
	}
	return env
}

// onlyNoRoot has a policy of one rule take the baseline's place: what else images have in them is not what the test is about.
func (s *waybillServer) onlyNoRoot(admin string) {
	s.t.Helper()
	policy := filepath.Join(s.t.TempDir(), "policy.yaml")
	require.NoError(s.t, os.WriteFile(policy, []byte("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n"+
		"  match: {repositories: ['**']}\n  rules:\n    - {rule: no-root-user, action: deny}\n"), 0o600))
	s.ok(admin, "apply", "-f", policy)
}

// logBuffer is a server's standard error.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// resident is what of a process is in memory, in MiB.
type resident struct {
	resident, peak  int
	anonymous, file int // parts of resident: what it allocated, and pages of its program and other files
}

func (r resident) String() string {
	return fmt.Sprintf("%d MiB resident (%d anonymous, %d of files), %d at its peak", r.resident, r.anonymous, r.file, r.peak)
}

// memoryOf looks at a process.
func memoryOf(t testing.TB, pid int) (r resident) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		for format, to := range map[string]*int{"VmRSS: %d kB": &r.resident, "VmHWM: %d kB": &r.peak, "RssAnon: %d kB": &r.anonymous, "RssFile: %d kB": &r.file} {
			if n, _ := fmt.Sscanf(line, format, to); n == 1 {
				*to >>= 10
			}
		}
	}
	return r
}

// runQuiet runs a program; its output is shown only with its failure.
func runQuiet(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
