package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

type buildCase struct {
	Name       string
	Files      map[string]string
	Links      map[string]string
	Dockerfile string
	Target     string
	Platform   string
	Args       map[string]string
	Error      string
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
func build(t *testing.T, dir string, r Request) (Artifact, *Plan, error) {
	t.Helper()
	var packed bytes.Buffer
	require.NoError(t, Pack(dir, r.Dockerfile, &packed))
	return buildTar(t, &packed, r, Limits{})
}

func buildTar(t *testing.T, packed io.Reader, r Request, limits Limits) (Artifact, *Plan, error) {
	t.Helper()
	temp := t.TempDir()
	service := NewService(Config{Bases: testBases{}, Limits: limits})
	plan, err := service.plan(context.Background(), artifact.System, r, packed, temp)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { plan.Close() })
	built, release, err := plan.build(context.Background(), temp, limits, io.Discard)
	if err != nil {
		return nil, plan, err
	}
	t.Cleanup(release)
	return built, plan, nil
}

// TestRefusals: what cannot be built is refused with a sentence that says where.
func TestRefusals(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/refusals.yaml")
	require.NoError(t, err)
	var cases []buildCase
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.Greater(t, len(cases), 15)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			_, _, err := build(t, folder(t, c), Request{Target: c.Target, Args: c.Args, Platform: c.Platform})
			require.ErrorContains(t, err, c.Error)
			require.NotEmpty(t, artifact.KindOf(err), "an answer, not a failure: %v", err)
		})
	}
}

// list is what an image holds, as the tables have it, and what is in its files.
func list(t *testing.T, image gcr.Image) ([]string, map[string]string) {
	t.Helper()
	work := newWorkspace(t.TempDir(), 1<<20)
	defer work.Close()
	files, err := loadImage(image, work)
	require.NoError(t, err)
	var entries []string
	contents := map[string]string{}
	for _, p := range files.sorted() {
		n := files.get(p)
		line := fmt.Sprintf("%s %o %d:%d %s", n.kind, n.mode, n.uid, n.gid, p)
		if n.kind == artifact.Symlink {
			line += " -> " + n.target
		}
		entries = append(entries, line)
		if n.kind != artifact.Regular {
			continue
		}
		r, err := n.content.open()
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		contents[p] = string(b)
	}
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
	require.Equal(t, digestOf(t, first), digestOf(t, second))
	require.Equal(t, golden, digestOf(t, first), "what the engine writes has changed: change its name too, so that keys differ")

	require.NoError(t, os.Chmod(filepath.Join(two, "app"), 0o755))
	changed, third, err := build(t, two, Request{})
	require.NoError(t, err)
	require.NotEqual(t, plan.Key(), third.Key())
	require.NotEqual(t, digestOf(t, first), digestOf(t, changed))
}

// golden is what TestReproducible's folder builds to on every machine.
const golden = "sha256:134bb492ab1c665aa30c2ad76aeb8a0526befb4a30de78ebeefe29f2317eba63"

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
		spool, err := os.Create(filepath.Join(t.TempDir(), "context"))
		require.NoError(t, err)
		defer spool.Close()
		files, err := unpack(bytes.NewReader(b), spool, Limits{Context: 1 << 20, Files: 1000})
		if err != nil {
			require.NotEmpty(t, artifact.KindOf(err), "%v", err)
			return
		}
		dir := filepath.Join(t.TempDir(), "context")
		require.NoError(t, os.Mkdir(dir, 0o700))
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		defer root.Close()
		_ = (&Plan{sent: files}).writeContext(root)
		entries, err := os.ReadDir(filepath.Dir(dir))
		require.NoError(t, err)
		require.Len(t, entries, 1, "something was written beside the context")
	})
}
