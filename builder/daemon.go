package builder

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"

	"waybill/artifact"
	"waybill/internal/child"
)

// DaemonConfig says how a private BuildKit daemon runs.
type DaemonConfig struct {
	Folder   string        // its own: cache, socket, pid file
	Cache    int64         // bytes of cache that it keeps
	Parallel int           // steps that it runs at once
	Idle     time.Duration // after so long without a build it is ended
	Here     bool          // it is for a build on the caller's own machine, rather than on a server
	Logger   *slog.Logger
}

// Daemon is a private buildkitd, a child process that is started when a build needs it and ended when none does. It runs
// in process and mount namespaces of its own, so that with it everything ends that it started, and nothing stays mounted.
type Daemon struct {
	cfg              DaemonConfig
	program, runtime string

	mu     sync.Mutex // guards all below; held while it starts
	p      *child.Process
	socket string
	users  int
	spoilt bool        // what it keeps is to be dropped
	expiry *time.Timer // while there are no users
	closed bool
}

// FindDaemon returns a daemon that is not started yet, or says why this machine cannot run one.
func FindDaemon(cfg DaemonConfig) (*Daemon, error) {
	whose, there := "the server's", "there"
	instead := ", or set builder.buildkit.address in its configuration to a BuildKit daemon elsewhere"
	if cfg.Here {
		whose, there = "this machine's", "here"
		instead = ", or name a BuildKit daemon elsewhere with --builder"
	}
	d := &Daemon{cfg: cfg}
	var err error
	if d.program, err = exec.LookPath("buildkitd"); err != nil {
		return nil, fmt.Errorf("buildkitd is not on %s PATH: install it %s, with runc or crun%s", whose, there, instead)
	}
	for _, name := range []string{"runc", "crun"} {
		if d.runtime, err = lookRuntime(name); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("neither runc nor crun, with which buildkitd runs steps, is on %s PATH: install one %s%s", whose, there, instead)
	case os.Getuid() != 0:
		return nil, fmt.Errorf("a private buildkitd needs root to run steps, and %s waybill does not run as root: have it do so%s", whose, instead)
	}
	return d, nil
}

// lookRuntime looks where Debian puts runc too, which PATH may lack.
func lookRuntime(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// Use starts the daemon unless it runs, and keeps it until release is called.
func (d *Daemon) Use(ctx context.Context) (c *client.Client, release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, artifact.Errorf(artifact.Unavailable, "the server is stopping; build again when it is back")
	}
	if d.expiry != nil {
		d.expiry.Stop()
	}
	if d.p == nil || d.p.Dead() {
		if err := d.start(ctx); err != nil {
			return nil, nil, fmt.Errorf("start buildkitd in %s: %w", d.cfg.Folder, err)
		}
	}
	if c, err = client.New(ctx, "unix://"+d.socket); err != nil {
		return nil, nil, fmt.Errorf("buildkitd: %w", err)
	}
	d.users++
	return c, sync.OnceFunc(func() { _ = c.Close(); d.leave() }), nil
}

func (d *Daemon) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	switch {
	case d.users > 0:
	case d.spoilt:
		d.end()
		d.spoilt = false
		if err := os.RemoveAll(d.root()); err != nil {
			d.cfg.Logger.Warn("what buildkitd kept is not dropped", "folder", d.root(), "error", err)
		}
	default:
		d.expiry = time.AfterFunc(d.cfg.Idle, d.expire)
	}
}

// Spoil has all that the daemon keeps of builds dropped, which can be made again, once nobody uses it: on a full disk it cannot
// do so itself, and half of what it wrote last is in the way of the next build.
func (d *Daemon) Spoil() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spoilt = true
}

func (d *Daemon) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users == 0 {
		d.end()
	}
}

// Close ends the daemon, whoever uses it. Safe to call twice.
func (d *Daemon) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.end()
}

// stopping is how long a daemon may take to end by itself.
const stopping = 10 * time.Second

func (d *Daemon) end() {
	if d.p == nil {
		return
	}
	// unshare passes no signal on: the daemon itself is asked, and its parent ends with it.
	if pid, err := d.daemonPID(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	d.p.Stop(0, stopping)
	d.p = nil
	_ = os.Remove(d.pidFile())
}

func (d *Daemon) root() string { return filepath.Join(d.cfg.Folder, "root") }

func (d *Daemon) pidFile() string { return filepath.Join(d.cfg.Folder, "buildkitd.pid") }

// daemonPID is the only child of the unshare that was started.
func (d *Daemon) daemonPID() (int, error) {
	pid := d.p.Cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// start starts a daemon and waits until it answers.
func (d *Daemon) start(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.Folder, 0o700); err != nil {
		return err
	}
	if err := d.endPredecessor(ctx); err != nil {
		return err
	}
	d.socket = filepath.Join(d.cfg.Folder, "buildkitd.sock")
	if len(d.socket) > 100 { // sockaddr_un takes 107 bytes
		short, err := os.MkdirTemp("", "waybill-bk-")
		if err != nil {
			return err
		}
		d.socket = filepath.Join(short, "buildkitd.sock")
	}
	cmd := exec.Command("unshare", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--", d.program,
		"--config", "/dev/null", "--root", d.root(), "--addr", "unix://"+d.socket,
		"--oci-worker=true", "--containerd-worker=false", "--oci-worker-net", "host", "--oci-worker-binary", d.runtime,
		"--oci-worker-gc=true", "--oci-worker-gc-keepstorage", strconv.FormatInt(d.cfg.Cache>>20, 10), "--oci-max-parallelism", strconv.Itoa(d.cfg.Parallel))
	cmd.Dir = d.cfg.Folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin:/usr/bin:/bin", "HOME=" + d.cfg.Folder, "TZ=UTC"}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} { // for ADD of what is elsewhere
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // unshare's end is the daemon's and that of all its steps
	p, err := child.Start(cmd, 8192)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		p.Stop(syscall.SIGKILL, stopping)
		return err
	}
	d.p = p
	if err := d.awaitReady(ctx); err != nil {
		d.end()
		return err
	}
	d.cfg.Logger.Info("started buildkitd", "pid", cmd.Process.Pid)
	return nil
}

// endPredecessor waits for the daemon of a server that was killed, which ends with that.
func (d *Daemon) endPredecessor(ctx context.Context) error {
	text, err := os.ReadFile(d.pidFile())
	if err != nil {
		return nil //nolint:nilerr // there was none
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil //nolint:nilerr // nobody's
	}
	for deadline := time.Now().Add(stopping); ; {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(line), d.cfg.Folder) {
			return nil //nolint:nilerr // it is gone, or the number is another's by now
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another buildkitd (process %d) still uses this folder; is another waybill serve running on it?", pid)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitReady waits until the daemon has a worker to build with.
func (d *Daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := client.New(ctx, "unix://"+d.socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for {
		asking, done := context.WithTimeout(ctx, time.Second)
		workers, err := c.ListWorkers(asking)
		done()
		if err == nil && len(workers) > 0 {
			return nil
		}
		if d.p.Dead() {
			return fmt.Errorf("it ended at once: %w", d.p.End())
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("it does not answer: %s", d.p.Output)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
