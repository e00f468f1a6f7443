package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// startDaemon finds the buildkitd that `make tools` builds, else one that is installed.
func startDaemon(t *testing.T, idle time.Duration) *Daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the private buildkitd mounts file systems and makes namespaces for steps, which takes root: run this test as root")
	}
	folder, err := os.MkdirTemp("", "wb") // a socket's path is short
	require.NoError(t, err)
	d, err := FindDaemon(DaemonConfig{Folder: folder, Cache: 1 << 30, Parallel: 2, Idle: idle, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		if built, missing := filepath.Abs("../internal/tools/bin/buildkitd"); missing == nil {
			d = &Daemon{cfg: DaemonConfig{Folder: folder, Cache: 1 << 30, Parallel: 2, Idle: idle, Logger: slog.New(slog.DiscardHandler)}, program: built}
			for _, name := range []string{"crun", "runc"} {
				if path, err := lookRuntime(name); err == nil {
					d.runtime = path
				}
			}
			if _, missing := os.Stat(built); missing == nil && d.runtime != "" {
				err = nil
			}
		}
	}
	if err != nil {
		_ = os.Remove(folder)
		require.NoError(t, err, "BuildKit cannot run here: make deps tools brings a runtime and builds it")
	}
	t.Cleanup(func() {
		d.Close()
		require.NoError(t, os.RemoveAll(folder))
	})
	return d
}

func startBuildKit(t *testing.T) *BuildKit {
	t.Helper()
	return NewBuildKit(BuildKitConfig{Daemon: startDaemon(t, time.Minute), Timeout: 5 * time.Minute, Network: "none", MaxImage: 1 << 30})
}

// stepProgram is what RUN runs.
var stepProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "waybill-step-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "step")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/step")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, errors.New(string(text))
	}
	return os.ReadFile(out)
})

// inputs is a context with the step program in it.
func inputs(t *testing.T, dockerfile string) Inputs {
	t.Helper()
	program, err := stepProgram()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "step"), program, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600))
	return Inputs{File: "Dockerfile", Dockerfile: []byte(dockerfile), Context: dir, Platform: artifact.Platform{OS: "linux", Architecture: "amd64"}, At: time.Unix(1e9, 0)}
}

func TestBuildKit(t *testing.T) {
	t.Parallel()
	b := startBuildKit(t)
	ctx := context.Background()
	t.Run("steps that always do the same give the same digest", func(t *testing.T) {
		in := inputs(t, "# syntax=docker/dockerfile:1.99-nobody-has-it\n# escape=`\nFROM scratch AS made\nCOPY step /step\nARG WHO=world\nRUN [\"/step\", \"write\", \"/greeting\", \"hello\"]\nRUN [\"/step\", \"environment\", \"/env\", \"WHO\"]\n"+
			"FROM scratch\nCOPY --from=made /greeting /env /out/\nUSER 7\n")
		in.Args = map[string]string{"WHO": "you"}
		in.NoCache = true
		first, err := b.Solve(ctx, in, t.TempDir(), Private{}, io.Discard)
		require.NoError(t, err)
		entries, contents := list(t, first)
		require.Equal(t, []string{"dir 755 0:0 out", "file 644 0:0 out/env", "file 644 0:0 out/greeting"}, entries)
		require.Equal(t, "hello", contents["out/greeting"])
		require.Equal(t, "you", contents["out/env"])
		config, err := first.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, "7", config.Config.User)
		require.Equal(t, in.At.UTC(), config.Created.UTC())
		again, err := b.Solve(ctx, in, t.TempDir(), Private{}, io.Discard)
		require.NoError(t, err)
		_, same := list(t, again)
		require.Equal(t, contents, same)
		require.Equal(t, digestOf(t, first), digestOf(t, again))
	})
	t.Run("a base is taken from here, as it is", func(t *testing.T) {
		in := inputs(t, "FROM base/os:1\nCOPY step /step\nRUN [\"/step\", \"write\", \"/x\", \"x\"]\n")
		base, err := random.Image(3<<20, 2)
		require.NoError(t, err)
		base, err = mutate.ConfigFile(base, platformed(t, base))
		require.NoError(t, err)
		in.Bases = map[string]gcr.Image{"base/os:1": base}
		image, err := b.Solve(ctx, in, t.TempDir(), Private{}, io.Discard)
		require.NoError(t, err)
		below, err := base.Layers()
		require.NoError(t, err)
		layers, err := image.Layers()
		require.NoError(t, err)
		require.Len(t, layers, len(below)+2)
		for i, l := range below {
			want, err := l.Digest()
			require.NoError(t, err)
			got, err := layers[i].Digest()
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
	t.Run("nothing is pulled that was not given", func(t *testing.T) {
		_, err := b.Solve(ctx, inputs(t, "FROM debian:13\nRUN true\n"), t.TempDir(), Private{}, io.Discard)
		require.ErrorContains(t, err, "denied by policy")
	})
	t.Run("a step that fails", func(t *testing.T) {
		var log bytes.Buffer
		_, err := b.Solve(ctx, inputs(t, "FROM scratch\nCOPY step /\nRUN [\"/step\", \"fail\", \"42\"]\n"), t.TempDir(), Private{}, &log)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err))
		require.ErrorContains(t, err, "Dockerfile:3: exit code 42 of ")
		require.ErrorContains(t, err, "\n  line 199")
		require.Contains(t, log.String(), "line 0")
	})
	t.Run("secrets are there, and in no log", func(t *testing.T) {
		var log bytes.Buffer
		in := inputs(t, "FROM scratch\nCOPY step /\nRUN --mount=type=secret,id=key [\"/step\", \"print\", \"/run/secrets/key\"]\n"+
			"RUN --mount=type=secret,id=key [\"/step\", \"fail\", \"3\"]\n")
		_, err := b.Solve(ctx, in, t.TempDir(), Private{Secrets: map[string][]byte{"key": []byte("s3cr3t-value")}}, &log)
		require.ErrorContains(t, err, "exit code 3")
		require.Contains(t, log.String(), "it is ***")
		require.NotContains(t, log.String(), "s3cr3t")
	})
	t.Run("a build that is cancelled ends, and says what ran", func(t *testing.T) {
		ending, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		log := writer(func(p []byte) {
			if bytes.Contains(p, []byte("waiting")) {
				cancel(errCancelled{"ada"})
			}
		})
		_, err := b.Solve(ending, inputs(t, "FROM scratch\nCOPY step /\nRUN [\"/step\", \"wait\"]\n"), t.TempDir(), Private{}, log)
		require.Equal(t, artifact.Conflict, artifact.KindOf(err))
		require.ErrorContains(t, err, "cancelled by ada; what ran last: [2/2] RUN")
		require.ErrorContains(t, err, "waiting")
	})
	t.Run("a build that takes too long ends, and says what ran", func(t *testing.T) {
		quick := NewBuildKit(b.cfg)
		quick.cfg.Timeout = 6 * time.Second
		_, err := quick.Solve(ctx, inputs(t, "FROM scratch\nCOPY step /\nRUN [\"/step\", \"wait\"]\n"), t.TempDir(), Private{}, io.Discard)
		require.Equal(t, artifact.TimedOut, artifact.KindOf(err))
		require.ErrorContains(t, err, "more than 6s (builder.buildkit.timeout); what ran last: [2/2] RUN")
		require.ErrorContains(t, err, "waiting")
	})
	t.Run("a step has the memory and the processors that it is given", func(t *testing.T) {
		bound := NewBuildKit(b.cfg)
		bound.cfg.Memory, bound.cfg.Processors = 64<<20, 0.5
		ending, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var memory, processors string
		log := writer(func(p []byte) {
			if bytes.Contains(p, []byte("waiting")) && memory == "" {
				memory, processors = limitsOf(t, "/step\x00wait\x00bounded\x00")
				cancel(errCancelled{"ada"})
			}
		})
		_, err := bound.Solve(ending, inputs(t, "FROM scratch\nCOPY step /\nRUN [\"/step\", \"wait\", \"bounded\"]\n"), t.TempDir(), Private{}, log)
		require.Equal(t, artifact.Conflict, artifact.KindOf(err), "%v", err)
		require.Equal(t, "67108864", memory)
		require.Contains(t, []string{"50000 100000", "50000"}, processors)
	})
	t.Run("a platform that steps cannot run on", func(t *testing.T) {
		in := inputs(t, "FROM scratch\nRUN x\n")
		in.Platform.Architecture, in.Runs = "mips64le", true
		_, err := b.Solve(ctx, in, t.TempDir(), Private{}, io.Discard)
		require.Equal(t, artifact.Unsupported, artifact.KindOf(err))
		require.ErrorContains(t, err, "machine runs linux/386, linux/amd64")
	})
	t.Run("an image that is too large", func(t *testing.T) {
		small := NewBuildKit(b.cfg)
		small.cfg.MaxImage = 1 << 10
		_, err := small.Solve(ctx, inputs(t, "FROM scratch\nCOPY step /\n"), t.TempDir(), Private{}, io.Discard)
		require.Equal(t, artifact.TooLarge, artifact.KindOf(err))
	})
}

// limitsOf returns what the control groups of a process, which its command line tells, allow: bytes of memory, and
// microseconds of processors in 100 ms. Groups are of version 2, or of 1, where each thing has a hierarchy of its own.
func limitsOf(t *testing.T, commandLine string) (memory, processors string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range lines {
		if is, err := os.ReadFile(path); err != nil || string(is) != commandLine {
			continue
		}
		groups, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		require.NoError(t, err)
		for line := range strings.Lines(string(groups)) {
			_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			kind, group, _ := strings.Cut(rest, ":")
			for name, to := range map[string]*string{"memory.max": &memory, "cpu.max": &processors, "memory.limit_in_bytes": &memory, "cpu.cfs_quota_us": &processors} {
				if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.Split(kind, ",")[0], group, name)); err == nil {
					*to = strings.TrimSpace(string(b))
				}
			}
		}
	}
	return memory, processors
}

func platformed(t *testing.T, image gcr.Image) *gcr.ConfigFile {
	t.Helper()
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	return config
}

type writer func(p []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// TestEnginesAgree: what both engines can build has the same files and the same config, and is what the table says.
func TestEnginesAgree(t *testing.T) {
	t.Parallel()
	b := startBuildKit(t)
	for _, c := range dockerfileCases(t) {
		t.Run(c.name, func(t *testing.T) {
			native, plan, err := build(t, c.folder, c.request())
			require.NoError(t, err)
			fresh, err := plan.anew(context.Background(), artifact.System, planning{bases: testBases{}})
			require.NoError(t, err)
			fresh.engine = b
			built, release, err := fresh.build(context.Background(), t.TempDir(), Limits{}, io.Discard)
			require.NoError(t, err)
			defer release()
			other := built.(gcr.Image)
			c.check(t, plan, other)
			want, wantContents := list(t, other)
			got, contents := list(t, native.(gcr.Image))
			require.Equal(t, want, got)
			require.Equal(t, wantContents, contents)
			require.JSONEq(t, configOf(t, other), configOf(t, native.(gcr.Image)))
		})
	}
}

// configOf is what a runtime reads of a config.
func configOf(t *testing.T, image gcr.Image) string {
	t.Helper()
	raw, err := image.RawConfigFile()
	require.NoError(t, err)
	var file map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &file))
	b, err := json.Marshal(map[string]json.RawMessage{"os": file["os"], "architecture": file["architecture"], "config": file["config"]})
	require.NoError(t, err)
	return string(b)
}

// TestDaemonLife: it ends when nobody builds, starts again when somebody does, and a new one takes its folder up however
// it ended.
func TestDaemonLife(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, time.Millisecond)
	pid := func() int {
		c, release, err := d.Use(context.Background())
		require.NoError(t, err)
		defer release()
		_, err = c.ListWorkers(context.Background())
		require.NoError(t, err)
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.p.Cmd.Process.Pid
	}
	first := pid()
	require.Eventually(t, func() bool { return !alive(first) }, time.Minute, 5*time.Millisecond, "it is idle")
	second := pid()
	require.NotEqual(t, first, second)
	third := &Daemon{cfg: d.cfg, program: d.program, runtime: d.runtime}
	third.cfg.Idle = time.Minute
	t.Cleanup(third.Close)
	c, release, err := d.Use(context.Background())
	require.NoError(t, err)
	_ = c
	defer release()
	d.mu.Lock()
	killed := d.p
	d.mu.Unlock()
	require.NoError(t, killed.Cmd.Process.Signal(syscall.SIGKILL)) // as when its server is killed
	_, done, err := third.Use(context.Background())
	require.NoError(t, err)
	done()
	third.Close()
	third.Close()
	_, _, err = third.Use(context.Background())
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestOwnSyntax(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"FROM scratch\n", "FROM scratch\n"},
		{"# syntax=a/b:1\nFROM scratch\n", "#\nFROM scratch\n"},
		{"# syntax=a/b:1\n# escape=`\nFROM x\n", "# escape=`\n#\nFROM x\n"},
		{"# escape=`\n#SYNTAX = a/b\n# check=skip=all\nFROM x\n", "# escape=`\n# check=skip=all\n#\nFROM x\n"},
		{"# syntax=a/b:1", "#\n"},
	} {
		got := string(ownSyntax([]byte(c.in)))
		require.Equal(t, c.want, got)
		require.NotContains(t, strings.ToLower(got), "syntax")
	}
}
