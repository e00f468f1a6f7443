package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// dockerfileCase is a folder of testdata/dockerfiles: a context, what to build of it, and what BuildKit makes of that. Every engine is
// held to it.
type dockerfileCase struct {
	name, folder string
	Build        struct {
		Dockerfile, Target, Platform string
		Args, Labels                 map[string]string
	}
	Tree     []string          // what the image has that its base has not, "type mode uid:gid path[ -> target]"
	Gone     []string          // paths of the base that are not as they were
	Contents map[string]string // of some files
	Config   map[string]any    // nil: not looked at
}

func dockerfileCases(t *testing.T) []dockerfileCase {
	t.Helper()
	files, err := filepath.Glob("testdata/dockerfiles/*/case.yaml")
	require.NoError(t, err)
	require.Greater(t, len(files), 40)
	var cases []dockerfileCase
	for _, file := range files {
		src, err := os.ReadFile(file)
		require.NoError(t, err)
		c := dockerfileCase{folder: filepath.Join(filepath.Dir(file), "context"), name: filepath.Base(filepath.Dir(file))}
		require.NoError(t, yaml.UnmarshalWithOptions(src, &c, yaml.Strict()), file)
		cases = append(cases, c)
	}
	return cases
}

func (c dockerfileCase) request() Request {
	return Request{Dockerfile: c.Build.Dockerfile, Target: c.Build.Target, Platform: c.Build.Platform, Args: c.Build.Args, Labels: c.Build.Labels}
}

// check compares an image with what is wanted of it.
func (c dockerfileCase) check(t *testing.T, plan *Plan, image gcr.Image) {
	t.Helper()
	target := plan.targets[0]
	was := map[string]string{}
	first := target.stages[target.target]
	for first.from >= 0 {
		first = target.stages[first.from]
	}
	if first.base.image != nil {
		lines, _ := list(t, first.base.image)
		for _, line := range lines {
			was[field(line)] = line
		}
	}
	lines, contents := list(t, image)
	var added []string
	for _, line := range lines {
		if was[field(line)] != line || c.replaced(field(line)) {
			added = append(added, line)
		}
		delete(was, field(line))
	}
	require.Equal(t, c.Tree, added)
	require.Empty(t, was, "files of the base that are not there")
	for name, want := range c.Contents {
		require.Equal(t, want, contents[name], name)
	}
	if c.Config == nil {
		return
	}
	raw, err := image.RawConfigFile()
	require.NoError(t, err)
	var got struct{ Config json.RawMessage }
	require.NoError(t, json.Unmarshal(raw, &got))
	want, err := json.Marshal(c.Config)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(got.Config))
}

func (c dockerfileCase) replaced(path string) bool {
	for _, gone := range c.Gone {
		if gone == path {
			return true
		}
	}
	return false
}

// TestDockerfiles holds the native engine to the table.
func TestDockerfiles(t *testing.T) {
	t.Parallel()
	for _, c := range dockerfileCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			built, plan, err := build(t, c.folder, c.request())
			require.NoError(t, err)
			c.check(t, plan, built.(gcr.Image))
			// The same again, to the byte.
			again, other, err := build(t, c.folder, c.request())
			require.NoError(t, err)
			require.Equal(t, plan.Key(), other.Key())
			require.Equal(t, digestOf(t, built), digestOf(t, again))
		})
	}
}

func digestOf(t *testing.T, a Artifact) string {
	t.Helper()
	d, err := a.Digest()
	require.NoError(t, err)
	return d.String()
}

// testBases has the images that the table names.
type testBases struct{}

func (testBases) Base(_ context.Context, _ artifact.Principal, ref artifact.Reference, platform artifact.Platform) (gcr.Image, artifact.Digest, error) {
	config := gcr.Config{Env: []string{"PATH=/usr/bin:/bin", "LANG=C"}}
	switch ref.String() {
	case "base/small:1":
	case "base/user:1":
		config.User, config.WorkingDir, config.Entrypoint, config.Cmd, config.StopSignal = "app", "/srv", []string{"/usr/bin/tool"}, []string{"x"}, "SIGQUIT"
		config.Labels, config.ExposedPorts, config.Volumes = map[string]string{"a": "base"}, map[string]struct{}{"80/tcp": {}}, map[string]struct{}{"/v": {}}
	case "base/onbuild:1":
		config.OnBuild = []string{"COPY --chown=app app /srv/app", "ENV TRIGGERED=yes"}
	case "base/multi:1":
		return made(config, platform, tarOf(file("arch", 0o644, platform.Architecture)))
	default:
		return nil, artifact.Digest{}, artifact.Errorf(artifact.NotFound, "there is no %s", ref)
	}
	app := func(h tar.Header, content string) entry { h.Uid, h.Gid = 1000, 1001; return entry{h, content} }
	return made(config, artifact.Platform{OS: "linux", Architecture: "amd64"}, tarOf(
		file("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
		file("etc/group", 0o644, "root:x:0:\napp:x:1001:\nstaff:x:50:\n"),
		entry{tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin", Mode: 0o777}, ""},
		file("usr/bin/old", 0o755, "old"), file("opt/gone", 0o644, ""),
		entry{tar.Header{Name: "data", Typeflag: tar.TypeSymlink, Linkname: "/var/lib/data", Mode: 0o777}, ""},
		entry{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
	), tarOf(
		file("usr/bin/tool", 0o755, "tool"), entry{tar.Header{Name: "usr/bin/tool2", Typeflag: tar.TypeLink, Linkname: "usr/bin/tool", Mode: 0o755}, ""},
		file("usr/bin/su", 0o4755, "su"),
		app(tar.Header{Name: "home/app/", Typeflag: tar.TypeDir, Mode: 0o700}, ""),
		app(tar.Header{Name: "home/app/.profile", Typeflag: tar.TypeReg, Mode: 0o600}, "p"),
		file("usr/bin/.wh.old", 0, ""), file("opt/.wh..wh..opq", 0, ""), file("opt/new", 0o644, ""),
	))
}

// made is an image of layers.
func made(config gcr.Config, platform artifact.Platform, layers ...[]byte) (gcr.Image, artifact.Digest, error) {
	image, err := mutate.ConfigFile(empty.Image, &gcr.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant, Config: config, RootFS: gcr.RootFS{Type: "layers"}})
	if err != nil {
		return nil, artifact.Digest{}, err
	}
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			return nil, artifact.Digest{}, err
		}
		if image, err = mutate.AppendLayers(image, l); err != nil {
			return nil, artifact.Digest{}, err
		}
	}
	hash, err := image.Digest()
	if err != nil {
		return nil, artifact.Digest{}, err
	}
	digest, err := artifact.ParseDigest(hash.String())
	return image, digest, err
}

type entry struct {
	tar.Header
	content string
}

func file(name string, mode int64, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, content}
}

// tarOf is an archive, with the folders that lead to its entries.
func tarOf(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	led := map[string]bool{}
	for _, e := range entries {
		for _, dir := range parents(strings.TrimSuffix(e.Name, "/")) {
			if !led[dir] {
				_ = w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755})
			}
			led[dir] = true
		}
		led[strings.TrimSuffix(e.Name, "/")] = true
		e.Size = int64(len(e.content))
		_ = w.WriteHeader(&e.Header)
		_, _ = w.Write([]byte(e.content))
	}
	_ = w.Close()
	return b.Bytes()
}
