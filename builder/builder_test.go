package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

type buildCase struct {
	Name       string
	Files      map[string]string
	Links      map[string]string
	Dockerfile string
	Target     string
	Args       map[string]string
	Entries    []string
	Contents   map[string]string
	Config     struct {
		Env, Ports, Entrypoint, Cmd []string
		Labels                      map[string]string
		User, Workdir               string
	}
	Error string
}

// noBases has no image.
type noBases struct{}

func (noBases) Base(_ context.Context, _ artifact.Principal, ref artifact.Reference, _ artifact.Platform) (gcr.Image, artifact.Digest, error) {
	return nil, artifact.Digest{}, artifact.Errorf(artifact.NotFound, "there is no %s", ref)
}

// folder writes a context.
func folder(t *testing.T, c buildCase) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640))
	}
	for name, content := range c.Files {
		write(name, content)
	}
	write("Dockerfile", c.Dockerfile)
	for name, target := range c.Links {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	return dir
}

// build packs a folder, unpacks it as the server does, and builds it.
func build(t *testing.T, dir string, r Request) (gcr.Image, *Plan, error) {
	t.Helper()
	var packed bytes.Buffer
	require.NoError(t, Pack(dir, &packed))
	temp := t.TempDir()
	root, err := contextRoot(temp)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	require.NoError(t, unpack(&packed, root))
	plan, err := newPlan(context.Background(), artifact.System, r, root, noBases{})
	if err != nil {
		return nil, nil, err
	}
	image, err := plan.build(context.Background(), temp, io.Discard)
	return image, plan, err
}

func TestBuild(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/cases.yaml")
	require.NoError(t, err)
	var cases []buildCase
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.Greater(t, len(cases), 15)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			image, _, err := build(t, folder(t, c), Request{Target: c.Target, Args: c.Args})
			if c.Error != "" {
				require.ErrorContains(t, err, c.Error)
				require.NotEmpty(t, artifact.KindOf(err), "an answer, not a failure: %v", err)
				return
			}
			require.NoError(t, err)
			entries, contents := list(t, image)
			require.Equal(t, c.Entries, entries)
			for name, want := range c.Contents {
				require.Equal(t, want, contents[name])
			}
			file, err := image.ConfigFile()
			require.NoError(t, err)
			got := file.Config
			require.Equal(t, c.Config.Env, got.Env)
			require.Equal(t, c.Config.Entrypoint, got.Entrypoint)
			require.Equal(t, c.Config.Cmd, got.Cmd)
			require.Equal(t, c.Config.Labels, got.Labels)
			require.Equal(t, c.Config.User, got.User)
			require.Equal(t, c.Config.Workdir, got.WorkingDir)
			require.Equal(t, c.Config.Ports, slices.Sorted(maps.Keys(got.ExposedPorts)))
		})
	}
}

func list(t *testing.T, image gcr.Image) ([]string, map[string]string) {
	t.Helper()
	r := mutate.Extract(image)
	defer r.Close()
	var entries []string
	contents := map[string]string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		kind := map[byte]string{tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "symlink"}[h.Typeflag]
		line := fmt.Sprintf("%s %o %d:%d %s", kind, h.Mode, h.Uid, h.Gid, filepath.Clean(h.Name))
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		entries = append(entries, line)
		b, err := io.ReadAll(archive)
		require.NoError(t, err)
		contents[h.Name] = string(b)
	}
	slices.SortFunc(entries, func(a, b string) int {
		if field(a) < field(b) {
			return -1
		}
		return 1
	})
	return entries, contents
}

func field(line string) string {
	var kind, mode, owner, path string
	_, _ = fmt.Sscan(line, &kind, &mode, &owner, &path)
	return path
}

// TestReproducible: other times, another umask, another order of creation, the same bytes, on any machine: the digest
// stands here.
func TestReproducible(t *testing.T) {
	t.Parallel()
	c := buildCase{Files: map[string]string{"app": "binary", "conf/a": "A", "conf/b": "B"}, Dockerfile: "FROM scratch\nCOPY . /srv/\nUSER 1\nENTRYPOINT [\"/srv/app\"]\n"}
	one, two := folder(t, c), folder(t, c)
	require.NoError(t, filepath.Walk(two, func(p string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		mode := os.FileMode(0o666)
		if info.IsDir() {
			mode = 0o777
		}
		require.NoError(t, os.Chmod(p, mode))
		return os.Chtimes(p, time.Unix(1e9, 0), time.Unix(1e9, 0))
	}))
	first, plan, err := build(t, one, Request{})
	require.NoError(t, err)
	second, other, err := build(t, two, Request{})
	require.NoError(t, err)
	require.Equal(t, plan.Key(), other.Key())
	digest, err := first.Digest()
	require.NoError(t, err)
	again, err := second.Digest()
	require.NoError(t, err)
	require.Equal(t, digest, again)
	require.Equal(t, golden, digest.String(), "what the engine writes has changed: change its name too, so that keys differ")

	require.NoError(t, os.Chmod(filepath.Join(two, "app"), 0o755))
	changed, third, err := build(t, two, Request{})
	require.NoError(t, err)
	require.NotEqual(t, plan.Key(), third.Key())
	executable, err := changed.Digest()
	require.NoError(t, err)
	require.NotEqual(t, digest, executable)
}

// TestAdd: ADD unpacks an archive of the context; COPY does not.
func TestAdd(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "in/file", Mode: 0o600, Uid: 5, Gid: 6, Size: 1, Typeflag: tar.TypeReg}))
	_, _ = w.Write([]byte("x"))
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	files := map[string]string{"a.tgz": b.String()}
	image, _, err := build(t, folder(t, buildCase{Files: files, Dockerfile: "FROM scratch\nADD a.tgz /x/\nCOPY a.tgz /y/\n"}), Request{})
	require.NoError(t, err)
	entries, _ := list(t, image)
	require.Equal(t, []string{"dir 755 0:0 x", "dir 755 0:0 x/in", "file 600 5:6 x/in/file", "dir 755 0:0 y", "file 644 0:0 y/a.tgz"}, entries)
}

// FuzzUnpack: whatever a context holds, nothing is written outside its folder.
func FuzzUnpack(f *testing.F) {
	pack := func(headers ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			_ = w.WriteHeader(h)
		}
		_ = w.Close()
		return b.Bytes()
	}
	f.Add(pack(&tar.Header{Name: "../x", Typeflag: tar.TypeReg}))
	f.Add(pack(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, &tar.Header{Name: "l/x", Typeflag: tar.TypeReg}))
	f.Add(pack(&tar.Header{Name: "/x", Typeflag: tar.TypeDir}))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		root, err := contextRoot(outer)
		require.NoError(t, err)
		defer root.Close()
		_ = unpack(bytes.NewReader(b), root)
		entries, err := os.ReadDir(outer)
		require.NoError(t, err)
		require.Len(t, entries, 1, "something was written beside the context")
	})
}
