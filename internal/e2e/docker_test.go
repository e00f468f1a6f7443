package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDocker: the daemon of Debian's docker.io logs in, pushes, is refused with every reason, and pulls.
func TestDocker(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	docker := dockerd(t)

	out, code := docker(pusher, "login", "-u", "ci", "--password-stdin", s.host)
	require.Zero(t, code, out)
	out, code = docker("wrong", "login", "-u", "ci", "--password-stdin", s.host)
	require.NotZero(t, code, out)
	out, code = docker(pusher, "login", "-u", "ci", "--password-stdin", s.host)
	require.Zero(t, code, out)

	good, bad := s.host+"/shop/returns:v1", s.host+"/shop/returns:bad"
	out, code = docker("", "load", "-i", archive(t, good, image(t, debian(t, ""), "65532:65532")))
	require.Zero(t, code, out)
	out, code = docker("", "push", good)
	require.Zero(t, code, out)
	out, code = docker("", "load", "-i", archive(t, bad, image(t, debian(t, "openssh-server"), "root")))
	require.Zero(t, code, out)
	out, code = docker("", "push", bad)
	require.NotZero(t, code, out)
	require.Contains(t, out, "no-root-user")
	require.Contains(t, out, "no-sshd")
	out, code = docker("", "pull", bad)
	require.NotZero(t, code, out)

	// Whose token is for another repository is told what it would take.
	elsewhere := s.token("--role", "pusher", "--repository", "tools/**")
	out, code = docker(elsewhere, "login", "-u", "ci", "--password-stdin", s.host)
	require.Zero(t, code, out)
	out, code = docker("", "push", good)
	require.NotZero(t, code, out)
	require.Contains(t, out, "is bound to tools/**; that takes one of role pusher or admin that is bound to shop/returns")
	out, code = docker(pusher, "login", "-u", "ci", "--password-stdin", s.host)
	require.Zero(t, code, out)

	out, code = docker("", "rmi", "-f", good)
	require.Zero(t, code, out)
	out, code = docker("", "pull", good)
	require.Zero(t, code, out)
	require.Contains(t, out, s.current(pusher, "shop/returns:v1"))

	// A deployer's daemon pulls by the environment's name.
	promoter := s.token("--role", "promoter")
	s.signed(pusher, "shop/returns@"+s.current(pusher, "shop/returns:v1"))
	s.ok(promoter, "promote", "returns", "v1", "dev")
	deployer := s.token("--role", "deployer", "--environment", "dev")
	out, code = docker(deployer, "login", "-u", "node", "--password-stdin", s.host)
	require.Zero(t, code, out)
	out, code = docker("", "pull", s.host+"/shop/returns:dev")
	require.Zero(t, code, out)
}

// dockerd starts a private daemon, and returns the client; its standard input is the first argument.
func dockerd(t *testing.T) func(stdin string, args ...string) (string, int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wbd") // a Unix socket's path is short
	require.NoError(t, err)
	socket := "unix://" + filepath.Join(dir, "d.sock")
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", socket, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dockerd:\n%s", log)
		}
		_ = os.RemoveAll(dir)
	})
	config := filepath.Join(dir, "config")
	deadline := time.After(time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", filepath.Join(dir, "d.sock")); err == nil {
			c.Close()
			break
		}
		select {
		case <-deadline:
			t.Fatalf("dockerd is not ready after a minute:\n%s", log)
		case <-tick.C:
		}
	}
	return func(stdin string, args ...string) (string, int) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", socket, "--config", config}, args...)...)
		cmd.Env, cmd.Stdin = clean(), strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
}
