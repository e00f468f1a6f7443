package scanner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/scanner"
)

// TestMain: this program, built again, is also the scanner of its tests. A client starts it without arguments, in an environment that
// nobody else makes.
func TestMain(m *testing.M) {
	if strings.Contains(os.Getenv("TMPDIR"), "waybill-scanner-") {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	os.RemoveAll(programs.dir)
	os.Exit(code)
}

// child does to each layer what its bytes say.
func child() error {
	files, err := net.FileConn(os.NewFile(3, "files"))
	if err != nil {
		return err
	}
	hello := scanner.Hello{Protocol: scanner.Protocol, Version: "test"}
	if err := scanner.Confine(os.TempDir(), os.Getenv(scanner.Database)); err != nil {
		hello.Unconfined = err.Error()
	}
	if err := scanner.Write(os.Stdout, hello); err != nil {
		return err
	}
	for {
		var request scanner.Request
		if err := scanner.Read(os.Stdin, &request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		response := scanner.Response{Failed: "an unknown request"}
		switch {
		case request.Analyse != nil:
			file, err := scanner.ReceiveFile(files.(*net.UnixConn))
			if err != nil {
				return err
			}
			content, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
			if err != nil {
				return err
			}
			file.Close()
			response = act(string(content), request.Analyse.Digest)
		case request.Match != nil:
			b, err := os.ReadFile(filepath.Join(os.Getenv(scanner.Database), "trivy.db"))
			response = scanner.Response{Match: &scanner.MatchResult{OS: fmt.Sprintf("%d %s %v", os.Getpid(), b, err)}}
		case request.Database != nil:
			response = scanner.Response{Refused: "it is no database"}
		}
		if err := scanner.Write(os.Stdout, response); err != nil {
			return err
		}
	}
}

func act(what string, digest artifact.Digest) scanner.Response {
	said := func(text string) scanner.Response {
		return scanner.Response{Analysis: &scanner.Analysis{Facts: artifact.LayerFacts{Digest: digest}, Analyser: text}}
	}
	switch what {
	case "crash":
		panic("a scanner that crashes")
	case "hang":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "garbage":
		_, _ = os.Stdout.WriteString("\x00\x00\x00\x02no")
	case "endless":
		_, _ = os.Stdout.WriteString("\xff\xff\xff\xff")
	case "hog":
		return said(fmt.Sprint(len(bytes.Repeat([]byte{1}, 3<<30))))
	case "flood":
		inner := filepath.Join(os.TempDir(), "inner")
		if err := errors.Join(os.WriteFile(inner, nil, 0o600), os.Truncate(inner, 5<<30)); err == nil {
			return said("it could")
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is ended
	case "refuse":
		return scanner.Response{Refused: strings.Repeat("é", 1<<20)}
	case "lie":
		return scanner.Response{Analysis: &scanner.Analysis{Facts: artifact.LayerFacts{Digest: artifact.DigestOf([]byte("other"))}}}
	case "brief":
		<-time.After(50 * time.Millisecond) // stands for work
	case "pid":
		return said(fmt.Sprint(os.Getpid()))
	case "environment":
		return said(strings.Join(os.Environ(), "\n"))
	}
	if rest, ok := strings.CutPrefix(what, "confined "); ok {
		key, address, _ := strings.Cut(rest, " ")
		return said(strings.Join(attempts(key, address), "\n"))
	}
	return said(what)
}

// attempts lists what this process could do and should not be able to. key is a file of the server's, address where
// somebody listens.
func attempts(key, address string) []string {
	var could []string
	try := func(what string, err error) {
		if err == nil {
			could = append(could, what)
		}
	}
	_, err := os.ReadFile("/etc/passwd")
	try("read /etc/passwd", err)
	_, err = os.ReadFile(key)
	try("read the server's key", err)
	_, err = os.ReadFile(fmt.Sprintf("/proc/%d/root%s", os.Getppid(), key))
	try("read the server's key by way of its process", err)
	_, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	try("read the server's environment", err)
	try("signal the server", syscall.Kill(os.Getppid(), 0))
	try("trace the server", syscall.PtraceAttach(os.Getppid()))
	_, err = net.Dial("tcp", address)
	try("connect out", err)
	_, err = net.Dial("unix", key+".socket")
	try("connect to a Unix socket", err)
	_, err = syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	try("open a socket", err)
	_, err = os.ReadDir("/")
	try("list /", err)
	try("write elsewhere", os.WriteFile("/var/tmp/waybill-scanner-escape", nil, 0o600))
	_, err = net.Listen("tcp", "127.0.0.1:0")
	try("listen", err)
	_, err = net.Dial("udp", "127.0.0.1:53")
	try("open a UDP socket", err)
	try("run a program", exec.Command("/bin/true").Run())
	own := filepath.Join(os.TempDir(), "own")
	if err := os.WriteFile(own, []byte("#!/bin/true"), 0o700); err != nil {
		could = append(could, "not write its own folder: "+err.Error())
	}
	try("run its own file", syscall.Exec(own, nil, nil))
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		could = append(could, "read /proc: "+string(status))
	}
	return could
}

// programs holds this program built as the scanner is, without cgo: with it Go cannot confine all threads.
var programs struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func build() {
	if programs.dir, programs.err = os.MkdirTemp("", "waybill-test-"); programs.err != nil {
		return
	}
	programs.path = filepath.Join(programs.dir, "child")
	cmd := exec.Command("go", "test", "-c", "-o", programs.path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		programs.err = fmt.Errorf("%w: %s", err, out)
		return
	}
	programs.err = os.Chmod(programs.dir, 0o711)
}

func client(t *testing.T, change func(*scanner.Config)) *scanner.Client {
	t.Helper()
	programs.once.Do(build)
	require.NoError(t, programs.err)
	folder, err := os.MkdirTemp(programs.dir, "")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(folder, 0o711))
	cfg := scanner.Config{Program: programs.path, Version: "test", Folder: folder, Processes: 1, Memory: 100 << 20, Idle: time.Minute, Timeout: time.Minute,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&cfg)
	}
	c := scanner.New(cfg)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		left, _ := filepath.Glob(filepath.Join(folder, "*"))
		require.Empty(t, left, "a scanner's folder was left behind")
	})
	return c
}

func analyse(t *testing.T, c *scanner.Client, ctx context.Context, content string) (string, error) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "layer")
	require.NoError(t, err)
	defer file.Close()
	_, err = file.WriteString(content)
	require.NoError(t, err)
	a, err := c.Analyse(ctx, file, artifact.Descriptor{Digest: artifact.DigestOf([]byte(content))})
	return a.Analyser, err
}

// TestAnswers: whatever a layer does to its scanner is an answer about that layer, and the next is inspected as if
// nothing had been.
func TestAnswers(t *testing.T) {
	t.Parallel()
	c := client(t, func(cfg *scanner.Config) { cfg.Timeout = 5 * time.Second })
	for what, want := range map[string]string{
		"crash":   "died of it",
		"hang":    "longer than 5s",
		"garbage": "died of it",
		"endless": "died of it",
		"hog":     "died of it",
		"flood":   "died of it",
		"refuse":  "éééé",
		"lie":     "other bytes",
	} {
		_, err := analyse(t, c, t.Context(), what)
		require.Equal(t, artifact.Denied, artifact.KindOf(err), "%s: %v", what, err)
		require.ErrorContains(t, err, "cannot be inspected: ", what)
		require.ErrorContains(t, err, want, what)
		require.Less(t, len(err.Error()), 4<<10, what)
		said, err := analyse(t, c, t.Context(), "good")
		require.NoError(t, err, "after %s", what)
		require.Equal(t, "good", said)
	}
	_, err := c.CheckDatabase(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "cannot be inspected: it is no database")
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
}

// TestConfined: the process that parses hostile bytes can do nothing but that.
func TestConfined(t *testing.T) {
	t.Parallel()
	c := client(t, nil)
	folder, err := os.MkdirTemp(programs.dir, "data")
	require.NoError(t, err)
	// Open to everybody, and listened at: nothing but its confinement keeps the process away.
	require.NoError(t, os.Chmod(folder, 0o755))
	key := filepath.Join(folder, "signing.key")
	require.NoError(t, os.WriteFile(key, []byte("secret"), 0o644))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	local, err := net.Listen("unix", key+".socket")
	require.NoError(t, err)
	defer local.Close()
	require.NoError(t, os.Chmod(key+".socket", 0o777))
	said, err := analyse(t, c, t.Context(), "confined "+key+" "+listener.Addr().String())
	require.NoError(t, err)
	require.Empty(t, said, "what the scanner could do")
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*scanner.Config){
		"missing":       func(cfg *scanner.Config) { cfg.Program = "/nowhere/waybill-scanner" },
		"not a program": func(cfg *scanner.Config) { cfg.Program = "/etc/passwd" },
		"no scanner":    func(cfg *scanner.Config) { cfg.Program = "/bin/true" },
		"other version": func(cfg *scanner.Config) { cfg.Version = "another" },
		"no folder":     func(cfg *scanner.Config) { cfg.Folder = "/nowhere" },
	} {
		_, err := analyse(t, client(t, change), t.Context(), "good")
		require.Equal(t, artifact.Unavailable, artifact.KindOf(err), "%s: %v", what, err)
	}
	c := client(t, nil)
	_, err := c.Match(t.Context(), scanner.MatchRequest{Database: "/nowhere"})
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
	require.NoError(t, c.Close())
	_, err = analyse(t, c, t.Context(), "good")
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
}

// TestReuse: one process answers again and again, ends when it has nothing to do, and is replaced when it died meanwhile.
func TestReuse(t *testing.T) {
	t.Parallel()
	c := client(t, nil)
	first, err := analyse(t, c, t.Context(), "pid")
	require.NoError(t, err)
	second, err := analyse(t, c, t.Context(), "pid")
	require.NoError(t, err)
	require.Equal(t, first, second)

	process := find(t, first)
	require.NoError(t, process.Kill())
	ended(t, first)
	third, err := analyse(t, c, t.Context(), "pid")
	require.NoError(t, err, "a process that died while it waited says nothing about the next layer")
	require.NotEqual(t, first, third)

	short := client(t, func(cfg *scanner.Config) { cfg.Idle = time.Millisecond })
	idle, err := analyse(t, short, t.Context(), "pid")
	require.NoError(t, err)
	ended(t, idle)
	require.NoError(t, c.Close())
	ended(t, third)
}

// TestPatience: work waits for a process that will soon be free, and does not wait for one that will not.
func TestPatience(t *testing.T) {
	t.Parallel()
	for what, patience := range map[string]time.Duration{"brief": time.Minute, "hang": time.Millisecond} {
		c := client(t, func(cfg *scanner.Config) { cfg.Processes, cfg.Patience = 2, patience })
		pid, err := analyse(t, c, t.Context(), "pid")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := analyse(t, c, ctx, what)
			ended <- err
		}()
		// Until the one process is at work, this takes it.
		require.Eventually(t, func() bool { return c.Working() > 0 || len(ended) > 0 }, 20*time.Second, time.Millisecond)
		other, err := analyse(t, c, t.Context(), "pid")
		require.NoError(t, err)
		require.Equal(t, what == "brief", pid == other)
		cancel()
		require.Equal(t, what == "brief", <-ended == nil)
	}
}

// TestCancelled: who asked went away; the process ends, and nothing is said about the layer.
func TestCancelled(t *testing.T) {
	t.Parallel()
	c := client(t, nil)
	pid, err := analyse(t, c, t.Context(), "pid")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := analyse(t, c, ctx, "hang")
		failed <- err
	}()
	// The one slot is taken now or soon; who waits for it gives up with its own context.
	waiting, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	for waiting.Err() == nil {
		_, err = analyse(t, c, waiting, "good")
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	ended(t, pid)
}

// TestDatabase: a process sees one database in its life, and one process is enough for each.
func TestDatabase(t *testing.T) {
	t.Parallel()
	c := client(t, nil)
	folders := [2]string{}
	for i := range folders {
		dir, err := os.MkdirTemp(programs.dir, "db")
		require.NoError(t, err)
		require.NoError(t, os.Chmod(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "trivy.db"), fmt.Append(nil, "database ", i), 0o644))
		folders[i] = dir
	}
	match := func(folder string) (pid, content string) {
		t.Helper()
		r, err := c.Match(t.Context(), scanner.MatchRequest{Database: folder})
		require.NoError(t, err)
		pid, content, _ = strings.Cut(r.OS, " ")
		return pid, content
	}
	first, content := match(folders[0])
	require.Equal(t, "database 0 <nil>", content)
	again, _ := match(folders[0])
	require.Equal(t, first, again)
	layer, err := analyse(t, c, t.Context(), "pid")
	require.NoError(t, err)
	require.Equal(t, first, layer, "a layer needs no database")
	second, content := match(folders[1])
	require.Equal(t, "database 1 <nil>", content)
	require.NotEqual(t, first, second)
	ended(t, first) // one at a time, as configured
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	said, err := analyse(t, client(t, nil), t.Context(), "environment")
	require.NoError(t, err)
	var names []string
	for line := range strings.Lines(said) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	require.Equal(t, []string{"PATH", "HOME", "TMPDIR", "TZ", "GOMEMLIMIT", "GOGC", "GOMAXPROCS"}, names)
}

func find(t *testing.T, pid string) *os.Process {
	t.Helper()
	var n int
	_, err := fmt.Sscan(pid, &n)
	require.NoError(t, err)
	process, err := os.FindProcess(n)
	require.NoError(t, err)
	return process
}

// ended waits for the end of a process, which its parent has reaped then.
func ended(t *testing.T, pid string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	}, 20*time.Second, 10*time.Millisecond, "process %s still runs", pid)
}

func FuzzReadMessage(f *testing.F) {
	var b bytes.Buffer
	require.NoError(f, scanner.Write(&b, scanner.Hello{Protocol: 1, Version: "x"}))
	f.Add(b.Bytes())
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Add([]byte("\x00\x00\x00\x09{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var response scanner.Response
		if scanner.Read(bytes.NewReader(b), &response) != nil {
			return
		}
		var again bytes.Buffer
		require.NoError(t, scanner.Write(&again, response))
		var same scanner.Response
		require.NoError(t, scanner.Read(&again, &same))
	})
}
