package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// stepProgram compiles what RUN runs here, static and small.
func stepProgram(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "step")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./builder/testdata/step")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	text, err := build.CombinedOutput()
	require.NoError(t, err, string(text))
	return out
}

// context makes a folder with a Dockerfile and the step program.
func stepContext(t *testing.T, program, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "step"), b, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	return dir
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("buildkitd mounts file systems and makes namespaces for steps, which takes root: run this test as root")
	}
}

// TestBuildRuns: a Dockerfile with RUN is built by a private BuildKit, followed, listed, cancelled, taken up after a kill,
// and built here with the same digest.
func TestBuildRuns(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	s := serve(t)
	program, ci := stepProgram(t), s.token("--role", "pusher", "--repository", "shop/**", "--repository", "base/**")
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{User: "7"}})
	require.NoError(t, err)
	base, err = mutate.AppendLayers(base, files(t, map[string]string{"etc/motd": "hello"}))
	require.NoError(t, err)
	baseDigest := s.pushed(ci, "base/os:1", base)
	dir := stepContext(t, program, "# syntax=docker/dockerfile:1\nFROM base/os:1\nCOPY step /step\nUSER 0\nRUN --mount=type=secret,id=key [\"/step\", \"print\", \"/run/secrets/key\"]\nRUN [\"/step\", \"copy\", \"/etc/motd\", \"/copied\"]\nUSER 7\n")
	secret := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(secret, []byte("s3cr3t-value\n"), 0o600))

	args := []string{"build", "-t", "shop/run:v1", "--secret", "id=key,src=" + secret, dir}
	out, log, code := s.waybill(ci, args...)
	require.Zero(t, code, log)
	require.Contains(t, log, "it is ***")
	require.NotContains(t, log, "s3cr3t")
	digest := strings.TrimPrefix(strings.TrimSpace(out), "shop/run@")
	out, log, code = s.waybill(ci, args...)
	require.Zero(t, code, log)
	require.Contains(t, log, "not built again")
	require.Contains(t, out, digest)
	out, log, code = s.waybill(ci, "build", "--local", "-t", "shop/run:local", "--secret", "id=key,src="+secret, dir)
	require.Zero(t, code, log)
	require.Contains(t, out, digest, "the same engine gives the same digest here")
	s.await("the signature", func() bool {
		_, _, code := s.waybill(ci, "verify", "shop/run@"+digest)
		return code == 0
	})

	var list server.BuildList
	s.json(ci, &list, "build", "list", "--repository", "shop/run")
	require.Len(t, list.Builds, 1)
	id := list.Builds[0].ID
	out, log, code = s.waybill(ci, "build", "logs", id)
	require.Zero(t, code, log)
	require.Contains(t, out, digest)
	require.Contains(t, log, "it is ***")
	require.NotContains(t, s.log.String(), "s3cr3t")

	// A queued one that fails says how.
	failing := stepContext(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"fail\", \"42\"]\n")
	_, log, code = s.waybill(ci, "build", "-t", "shop/fail:v1", failing)
	require.Equal(t, 1, code)
	require.Contains(t, log, "Dockerfile:3: exit code 42 of ")
	require.Contains(t, log, "line 199")

	s.cancelled(ci, program)
	s.killed(ci, program)

	// What it was built on, and what became of that.
	var bases server.BaseList
	s.json(ci, &bases, "bases", "shop/run@"+digest)
	require.Len(t, bases.Bases, 1)
	require.Equal(t, baseDigest, bases.Bases[0].BaseDigest.String())
	require.False(t, bases.Bases[0].Stale())
	s.ok(s.admin(), "recall", "base/os@"+baseDigest, "--reason", "it has a hole")
	s.json(ci, &bases, "bases", "--stale")
	require.Len(t, bases.Bases, 1)
	require.True(t, bases.Bases[0].Recalled)
}

var buildID = regexp.MustCompile(`(?m)^build ([A-Z0-9]+)$`)

// waiting starts a build whose step waits until it is killed, and returns its id when it does.
func (s *waybillServer) waiting(token, dir, tag string) (id string, ended func() (log string, code int)) {
	s.t.Helper()
	id, _, ended = s.waitingHere(token, dir, tag)
	return id, ended
}

// waitingHere is waiting, and returns the process of the command too.
func (s *waybillServer) waitingHere(token, dir, tag string) (id string, here *os.Process, ended func() (log string, code int)) {
	s.t.Helper()
	cmd := exec.Command("waybill", "build", "-t", tag, dir)
	cmd.Env = append(clean(), "WAYBILL_URL="+s.url, "WAYBILL_TOKEN="+token)
	var log logBuffer
	cmd.Stderr, cmd.Stdout = &log, &bytes.Buffer{}
	require.NoError(s.t, cmd.Start())
	s.await("the step to wait", func() bool { return strings.Contains(log.String(), "waiting") })
	return buildID.FindStringSubmatch(log.String())[1], cmd.Process, func() (string, int) {
		_ = cmd.Wait()
		return log.String(), cmd.ProcessState.ExitCode()
	}
}

// TestRevokedWhileQueued: a build that waits for its turn does not run when its asker's token is revoked meanwhile.
func TestRevokedWhileQueued(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	s := serve(t, "--config", config(t, "builder: {buildkit: {builds: 1}}\n"))
	program, ci := stepProgram(t), s.token("--role", "pusher")
	first, ended := s.waiting(ci, stepContext(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"wait\"]\n"), "shop/first:v1")
	var late struct{ Token, ID string }
	s.json(s.admin(), &late, "token", "create", "--role", "pusher", "--name", "late")
	said := make(chan string, 1)
	dir := stepContext(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"print\", \"/step\"]\n")
	go func() {
		_, log, _ := s.waybill(late.Token, "build", "-t", "shop/late:v1", dir)
		said <- log
	}()
	state := func() artifact.BuildState {
		var list server.BuildList
		s.json(ci, &list, "build", "list", "--repository", "shop/late")
		if len(list.Builds) == 0 {
			return ""
		}
		return list.Builds[0].State
	}
	s.await("the build to be queued", func() bool { return state() == artifact.BuildQueued })
	s.ok(s.admin(), "token", "revoke", late.ID)
	s.ok(ci, "build", "cancel", first)
	_, code := ended()
	require.Equal(t, 1, code)
	require.Contains(t, <-said, "nothing was built: token "+late.ID+" of token:late/"+late.ID+" was revoked meanwhile")
	require.Equal(t, artifact.BuildFailed, state())
}

func (s *waybillServer) cancelled(token, program string) {
	dir := stepContext(s.t.(*testing.T), program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"wait\"]\n")
	id, ended := s.waiting(token, dir, "shop/cancel:v1")
	s.ok(token, "build", "cancel", id)
	log, code := ended()
	require.Equal(s.t, 1, code)
	require.Contains(s.t, log, "cancelled by token:")
	require.Contains(s.t, log, "what ran last: ")
	_, log, code = s.waybill(token, "build", "cancel", id)
	require.Equal(s.t, 1, code)
	require.Contains(s.t, log, "has ended")

	// One who joined and leaves ends it for nobody; when who asked first does, it is begun anew for the others.
	state := func(id string) artifact.BuildState {
		var list server.BuildList
		s.json(token, &list, "build", "list", "--repository", "shop/cancel")
		for _, b := range list.Builds {
			if b.ID == id {
				return b.State
			}
		}
		return ""
	}
	dir = stepContext(s.t.(*testing.T), program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"wait\", \"shared\"]\n")
	id, first, endFirst := s.waitingHere(token, dir, "shop/cancel:s1")
	joined, second, endSecond := s.waitingHere(token, dir, "shop/cancel:s2")
	require.Equal(s.t, id, joined)
	require.NoError(s.t, second.Signal(os.Interrupt))
	log, code = endSecond()
	require.Equal(s.t, 1, code)
	require.Contains(s.t, log, "build "+id+" goes on for who asked for it first")
	require.Equal(s.t, artifact.BuildRunning, state(id))
	joined, _, endThird := s.waitingHere(token, dir, "shop/cancel:s3")
	require.Equal(s.t, id, joined)
	require.NoError(s.t, first.Signal(os.Interrupt))
	log, code = endFirst()
	require.Equal(s.t, 1, code)
	require.Contains(s.t, log, "interrupted; build "+id+" was cancelled")
	var again string
	s.await("the build to be begun anew", func() bool {
		var list server.BuildList
		s.json(token, &list, "build", "list", "--repository", "shop/cancel")
		again = list.Builds[0].ID
		return again != id && list.Builds[0].State == artifact.BuildRunning
	})
	require.Equal(s.t, artifact.BuildCancelled, state(id))
	s.ok(s.admin(), "build", "cancel", again)
	log, code = endThird()
	require.Equal(s.t, 1, code)
	require.Contains(s.t, log, "who asked for this first, cancelled it; it is begun anew")
	require.Contains(s.t, log, "cancelled by token:first-admin/")

	// So does Ctrl-C.
	dir = stepContext(s.t.(*testing.T), program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"wait\", \"interrupted\"]\n")
	id, here, ended := s.waitingHere(token, dir, "shop/cancel:v2")
	require.NoError(s.t, here.Signal(os.Interrupt))
	_, code = ended()
	require.NotZero(s.t, code)
	s.await("the build to be cancelled", func() bool {
		var list server.BuildList
		s.json(token, &list, "build", "list", "--repository", "shop/cancel")
		return list.Builds[0].ID == id && list.Builds[0].State == artifact.BuildCancelled
	})
}

// killed: a server that is killed in the middle of a build takes the build up when it is back, and its steps end with it.
func (s *waybillServer) killed(token, program string) {
	t := s.t.(*testing.T)
	dir := stepContext(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"wait\"]\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
	id, ended := s.waiting(token, dir, "shop/killed:v1")
	old := s.buildkitd()
	s.stop(syscall.SIGKILL)
	s.await("the end of what the server started", func() bool { return syscall.Kill(old, 0) != nil })
	s.start(s.host)
	var b artifact.Build
	s.await("the build to be taken up", func() bool {
		var list server.BuildList
		s.json(token, &list, "build", "list", "--repository", "shop/killed")
		b = list.Builds[0]
		return b.State == artifact.BuildRunning && b.Attempts == 2
	})
	require.Equal(t, id, b.ID)
	_, log, code := s.waybill(token, "show", "shop/killed:v1")
	require.Equal(t, 1, code, log)
	s.ok(token, "build", "cancel", id)
	log, code = ended()
	require.Equal(t, 1, code)
	require.Contains(t, log, "the connection broke")
	require.Contains(t, log, "cancelled by")
}

// buildkitd returns the process of the private daemon.
func (s *waybillServer) buildkitd() int {
	b, err := os.ReadFile(filepath.Join(s.data, "buildkit", "buildkitd.pid"))
	require.NoError(s.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(s.t, err)
	return pid
}

// TestBuildPython: examples/python installs packages on a Debian base, runs as somebody, and is built again to the same digest.
func TestBuildPython(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	s := serve(t)
	ci := s.token("--role", "pusher", "--repository", "shop/**", "--repository", "base/**")
	base := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(base, "Dockerfile"), read(t, filepath.Join(root, "examples/debian/Dockerfile")), 0o600))
	_, log, code := s.waybill(ci, "build", "-t", "shop/python:v1", filepath.Join(root, "examples/python"))
	require.NotZero(t, code)
	require.Contains(t, log, "base/debian has no tag 12; push or build it there first")
	require.NoError(t, os.Link(debian(t, ""), filepath.Join(base, "rootfs.tar")))
	s.ok(ci, "build", "-t", "base/debian:12", base)
	out, log, code := s.waybill(ci, "build", "-t", "shop/python:v1", filepath.Join(root, "examples/python"))
	require.Zero(t, code, log)
	require.Contains(t, out, "shop/python@sha256:")
	require.Contains(t, s.ok(ci, "verdict", "shop/python:v1"), "allow")
	out, log, code = s.waybill(ci, "build", "-t", "shop/python:v1", "--rebuild-check", filepath.Join(root, "examples/python"))
	require.Zero(t, code, "%s%s", out, log)
	require.Contains(t, out, "reproducible: yes")
}
