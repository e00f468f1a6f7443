package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// debian returns a gzip-compressed Debian root file system, plain bookworm without its security updates, and with
// the given package beside; each is made once.
func debian(t testing.TB, extra string) string {
	t.Helper()
	once, _ := debians.LoadOrStore(extra, sync.OnceValues(func() (string, error) { return bootstrap(extra) }))
	path, err := once.(func() (string, error))()
	require.NoError(t, err)
	return path
}

var debians sync.Map

func bootstrap(extra string) (string, error) {
	path := filepath.Join(fixtures, "debian-"+extra+".tar.gz")
	args := []string{"--variant=minbase", "--quiet"}
	if extra != "" {
		args = append(args, "--include="+extra)
	}
	// The mirror alone is plain bookworm; by itself mmdebstrap adds the security updates.
	site, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Release: bookworm").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets (run apt-get update first): %w", err)
	}
	mirror, _, _ := strings.Cut(string(site), "\n")
	return path, runQuiet("mmdebstrap", append(args, "bookworm", path, "deb "+mirror+" bookworm main")...)
}

// image is a Debian image: the layer, and a config that runs as user.
func image(t testing.TB, layerPath, user string) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromFile(layerPath)
	require.NoError(t, err)
	return configured(t, user, layer)
}

func configured(t testing.TB, user string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(t, err)
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config.User, cfg.Config.Cmd = user, []string{"/bin/sh"}
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	return img
}

// files makes a layer of small files.
func files(t testing.TB, content map[string]string) v1.Layer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.tar.gz")
	f, err := os.Create(path)
	require.NoError(t, err)
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	for name, text := range content {
		require.NoError(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(tw, text)
		require.NoError(t, err)
	}
	require.NoError(t, tw.Close())
	require.NoError(t, zw.Close())
	require.NoError(t, f.Close())
	layer, err := tarball.LayerFromFile(path)
	require.NoError(t, err)
	return layer
}

// push writes an image with go-containerregistry's client.
func (s *waybillServer) push(token, ref string, img v1.Image) error {
	s.t.Helper()
	tag, err := name.ParseReference(s.host + "/" + ref)
	require.NoError(s.t, err)
	return remote.Write(tag, img, s.auth(token))
}

func (s *waybillServer) pushed(token, ref string, img v1.Image) string {
	s.t.Helper()
	require.NoError(s.t, s.push(token, ref, img))
	d, err := img.Digest()
	require.NoError(s.t, err)
	return d.String()
}

func (s *waybillServer) auth(token string) remote.Option {
	return remote.WithAuth(&authn.Basic{Username: "x", Password: token})
}

// dockerConfig writes the login file of docker, skopeo, crane and cosign.
func (s *waybillServer) dockerConfig(token string) string {
	s.t.Helper()
	dir := s.t.(interface{ TempDir() string }).TempDir()
	b, err := json.Marshal(map[string]any{"auths": map[string]any{s.host: map[string]string{"username": "x", "password": token}}})
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600))
	return dir
}
