package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// archive writes an image as `docker save` would.
func archive(t *testing.T, tag string, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	ref, err := name.NewTag(tag)
	require.NoError(t, err)
	require.NoError(t, tarball.WriteToFile(path, ref, img))
	return path
}

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

// TestSkopeoPodmanCrane: push, list, copy, delete and pull with the other command-line clients.
func TestSkopeoPodmanCrane(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	img := archive(t, "localhost/returns:v1", configured(t, "1000", files(t, map[string]string{"app": "v1"})))
	rootImage := archive(t, "localhost/returns:root", configured(t, "", files(t, map[string]string{"app": "v1"})))
	creds := "ci:" + pusher

	t.Run("skopeo", func(t *testing.T) {
		must(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", creds, "docker-archive:"+img, "docker://"+s.host+"/shop/skopeo:v1")
		out := refused(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", creds, "docker-archive:"+rootImage, "docker://"+s.host+"/shop/skopeo:v2")
		require.Contains(t, out, "no-root-user")
		must(t, "skopeo", "copy", "--src-tls-verify=false", "--src-creds", creds, "docker://"+s.host+"/shop/skopeo:v1", "dir:"+t.TempDir())
		require.Contains(t, must(t, "skopeo", "list-tags", "--tls-verify=false", "--creds", creds, "docker://"+s.host+"/shop/skopeo"), "v1")
		require.Contains(t, refused(t, "skopeo", "inspect", "--tls-verify=false", "--creds", "ci:wrong", "docker://"+s.host+"/shop/skopeo:v1"), "nauthorized")
	})
	t.Run("podman", func(t *testing.T) {
		storage := t.TempDir()
		podman := []string{"--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--storage-driver", "vfs"}
		run := func(args ...string) string { return must(t, "podman", append(podman, args...)...) }
		authfile := filepath.Join(storage, "auth.json")
		run("login", "--authfile", authfile, "--tls-verify=false", "-u", "ci", "-p", pusher, s.host)
		run("load", "-i", img)
		run("push", "--authfile", authfile, "--tls-verify=false", "localhost/returns:v1", s.host+"/shop/podman:v1")
		run("pull", "--authfile", authfile, "--tls-verify=false", s.host+"/shop/podman:v1")
		run("load", "-i", rootImage)
		out := refused(t, "podman", append(podman, "push", "--authfile", authfile, "--tls-verify=false", "localhost/returns:root", s.host+"/shop/podman:v2")...)
		require.Contains(t, out, "no-root-user")
	})
	t.Run("crane", func(t *testing.T) {
		env := []string{"DOCKER_CONFIG=" + s.dockerConfig(pusher)}
		crane := func(args ...string) (string, int) {
			stdout, stderr, code := command(t, "", env, "crane", append(args, "--insecure")...)
			return stdout + stderr, code
		}
		out, code := crane("push", img, s.host+"/shop/crane:v1")
		require.Zero(t, code, out)
		out, code = crane("push", rootImage, s.host+"/shop/crane:v2")
		require.NotZero(t, code, out)
		require.Contains(t, out, "no-root-user")
		out, code = crane("copy", s.host+"/shop/crane:v1", s.host+"/shop/copied:v1") // mounts the blobs
		require.Zero(t, code, out)
		out, code = crane("pull", s.host+"/shop/copied:v1", filepath.Join(t.TempDir(), "pulled.tar"))
		require.Zero(t, code, out)
		out, code = crane("catalog", s.host)
		require.Zero(t, code, out)
		require.Contains(t, out, "shop/copied")
	})
}

// TestORAS: an artifact that is no image, and what refers to it, by the oras library.
func TestORAS(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := serve(t)
	repository, err := remote.NewRepository(s.host + "/charts/returns")
	require.NoError(t, err)
	repository.PlainHTTP = true
	repository.Client = &auth.Client{Credential: auth.StaticCredential(s.host, auth.Credential{Username: "ci", Password: s.token("--role", "pusher")})}

	store := memory.New()
	chart := []byte("a chart")
	layer := ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", Digest: digest.FromBytes(chart), Size: int64(len(chart))}
	require.NoError(t, store.Push(ctx, layer, bytes.NewReader(chart)))
	manifest, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, "application/vnd.cncf.helm.config.v1+json", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
	require.NoError(t, err)
	require.NoError(t, store.Tag(ctx, manifest, "1.0.0"))
	_, err = oras.Copy(ctx, store, "1.0.0", repository, "1.0.0", oras.DefaultCopyOptions)
	require.NoError(t, err)

	notes, err := oras.PackManifest(ctx, repository, oras.PackManifestVersion1_1, "text/markdown", oras.PackManifestOptions{Subject: &manifest})
	require.NoError(t, err)
	var referrers []ocispec.Descriptor
	require.NoError(t, repository.Referrers(ctx, manifest, "text/markdown", func(page []ocispec.Descriptor) error {
		referrers = append(referrers, page...)
		return nil
	}))
	require.Len(t, referrers, 1)
	require.Equal(t, notes.Digest, referrers[0].Digest)
	got, err := oras.Copy(ctx, repository, "1.0.0", memory.New(), "1.0.0", oras.DefaultCopyOptions)
	require.NoError(t, err)
	b, _ := json.Marshal(got)
	require.Equal(t, manifest.Digest, got.Digest, string(b))
}
