package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// added builds ADD of an archive onto base/small.
func added(t *testing.T, archive []byte, limits Limits) (gcr.Image, error) {
	t.Helper()
	packed := tarOf(file("Dockerfile", 0o644, "FROM base/small:1\nADD a.tar /opt/\n"), file("a.tar", 0o644, string(archive)))
	built, _, err := buildTar(t, bytes.NewReader(packed), Request{}, limits)
	if err != nil {
		return nil, err
	}
	return built.(gcr.Image), nil
}

// TestHostileArchives: what ADD unpacks stays below its folder, and is bounded.
func TestHostileArchives(t *testing.T) {
	t.Parallel()
	zeros := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(tarOf(file("zeros", 0o644, strings.Repeat("\x00", 4<<20))))
		_ = z.Close()
		return b.Bytes()
	}()
	var turns []entry
	for range maxDrops + 2 {
		turns = append(turns, entry{tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}, file("a", 0o644, ""))
	}
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"climbs":                  {tarOf(file("../../etc/passwd", 0o644, "x")), "outside of it"},
		"climbs further in":       {tarOf(file("a/../../../b", 0o644, "x")), "outside of it"},
		"a link out of it":        {tarOf(entry{tar.Header{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "../../../etc"}, ""}), "outside of it"},
		"a link to nothing":       {tarOf(entry{tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "nowhere"}, ""}), "which is no file"},
		"a link to a folder":      {tarOf(entry{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}, entry{tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d"}, ""}), "which is no file"},
		"a circle":                {tarOf(entry{tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, ""}, entry{tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, ""}, entry{tar.Header{Name: "a/x", Typeflag: tar.TypeReg}, ""}), "more than 40 links"},
		"a whiteout":              {tarOf(file(".wh.passwd", 0o644, "")), "names that begin with .wh."},
		"a bomb":                  {zeros, "more than 1 MiB would be unpacked"},
		"a long path":             {tarOf(file(strings.Repeat("a/", 300)+"b", 0o644, "")), "path of"},
		"folder and file in turn": {tarOf(turns...), "replaces folders by files"},
		"cut short":               {tarOf(file("a", 0o644, strings.Repeat("x", 4096)))[:2000], "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := added(t, c.archive, Limits{Unpacked: 1 << 20})
			require.ErrorContains(t, err, c.want)
			require.NotEmpty(t, artifact.KindOf(err), "an answer, not a failure: %v", err)
		})
	}
}

// TestLinksInArchives: links that come with an archive, or are there, are followed as if its folder were the root.
func TestLinksInArchives(t *testing.T) {
	t.Parallel()
	image, err := added(t, tarOf(
		entry{tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "/usr/lib", Mode: 0o777}, ""},
		entry{tar.Header{Name: "lib/a", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1}, "a"},
	), Limits{})
	require.NoError(t, err)
	lines, _ := list(t, image)
	require.Contains(t, lines, "symlink 777 0:0 opt/lib -> /usr/lib")
	require.Contains(t, lines, "file 644 0:0 opt/usr/lib/a")
	require.NotContains(t, lines, "file 644 0:0 usr/lib/a")
}

// TestLayerKeeps: hard links, devices and extended attributes of what is copied.
func TestLayerKeeps(t *testing.T) {
	t.Parallel()
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	require.NoError(t, err)
	_, _ = w.Write(tarOf(
		entry{tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}}, "program"},
		entry{tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a", Mode: 0o755}, ""},
		entry{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
	))
	require.NoError(t, w.Close())
	image, err := added(t, z.Bytes(), Limits{})
	require.NoError(t, err)
	layers, err := image.Layers()
	require.NoError(t, err)
	r, err := layers[len(layers)-1].Uncompressed()
	require.NoError(t, err)
	defer r.Close()
	found := map[string]*tar.Header{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if err == io.EOF { //nolint:errorlint // Next returns it as it is
			break
		}
		require.NoError(t, err)
		require.True(t, h.ModTime.Equal(time.Unix(0, 0)))
		found[h.Name] = h
	}
	require.Equal(t, "\x01\x00", found["opt/a"].PAXRecords["SCHILY.xattr.security.capability"])
	require.Equal(t, byte(tar.TypeLink), found["opt/b"].Typeflag)
	require.Equal(t, "opt/a", found["opt/b"].Linkname)
	require.Equal(t, byte(tar.TypeChar), found["opt/null"].Typeflag)
	require.EqualValues(t, 3, found["opt/null"].Devminor)
}

// TestContexts: archives that other programs pack, and those that nobody should.
func TestContexts(t *testing.T) {
	t.Parallel()
	dockerfile := file("Dockerfile", 0o644, "FROM scratch\nCOPY . /\n")
	for name, c := range map[string]struct {
		entries []entry
		limits  Limits
		want    string
	}{
		"dots and hard links": {[]entry{{tar.Header{Name: "./", Typeflag: tar.TypeDir}, ""}, dockerfile, file("./a", 0o600, "x"), {tar.Header{Name: "./b", Typeflag: tar.TypeLink, Linkname: "./a"}, ""}}, Limits{}, ""},
		"too large":           {[]entry{dockerfile, file("a", 0o644, strings.Repeat("x", 2<<20))}, Limits{Context: 1 << 20}, "larger than 1 MiB"},
		"too many":            {[]entry{dockerfile, file("a", 0o644, ""), file("b", 0o644, "")}, Limits{Files: 2}, "more than 2 files"},
		"climbs":              {[]entry{dockerfile, file("../a", 0o644, "")}, Limits{}, "outside of it"},
		"absolute":            {[]entry{dockerfile, file("/etc/passwd", 0o644, "")}, Limits{}, "outside of it"},
		"through a link":      {[]entry{dockerfile, {tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, ""}, {tar.Header{Name: "l/x", Typeflag: tar.TypeReg}, ""}}, Limits{}, `below "l", which is no folder`},
		"a device":            {[]entry{dockerfile, {tar.Header{Name: "d", Typeflag: tar.TypeBlock}, ""}}, Limits{}, "neither file, folder nor link"},
		"twice":               {[]entry{dockerfile, file("a", 0o644, "1"), file("a", 0o644, "2")}, Limits{}, `"a"`},
		"no Dockerfile":       {[]entry{file("a", 0o644, "1")}, Limits{}, "there is no Dockerfile"},
		"a large Dockerfile":  {[]entry{file("Dockerfile", 0o644, strings.Repeat("#", 2<<20))}, Limits{}, "larger than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := buildTar(t, bytes.NewReader(tarOf(c.entries...)), Request{}, c.limits)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.NotEmpty(t, artifact.KindOf(err), "an answer, not a failure: %v", err)
		})
	}
	_, _, err := buildTar(t, strings.NewReader("no tar at all, but longer than a header is: "+strings.Repeat("x", 1024)), Request{}, Limits{})
	require.ErrorContains(t, err, "no tar archive")
	_, _, err = buildTar(t, bytes.NewReader(tarOf(file("a", 0o644, strings.Repeat("x", 4096)))[:2000]), Request{}, Limits{})
	require.ErrorContains(t, err, "breaks off")
	whole := tarOf(dockerfile, file("a", 0o644, strings.Repeat("\x00", 512)))
	_, _, err = buildTar(t, bytes.NewReader(whole[:1024]), Request{}, Limits{})
	require.ErrorContains(t, err, "breaks off", "between two files")

	plain, _, err := buildTar(t, bytes.NewReader(whole), Request{}, Limits{})
	require.NoError(t, err)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(whole)
	require.NoError(t, z.Close())
	compressed, _, err := buildTar(t, bytes.NewReader(packed.Bytes()), Request{}, Limits{})
	require.NoError(t, err)
	require.Equal(t, digestOf(t, plain), digestOf(t, compressed))
	_, _, err = buildTar(t, bytes.NewReader(packed.Bytes()[:packed.Len()-20]), Request{}, Limits{})
	require.ErrorContains(t, err, "breaks off")
	require.Equal(t, artifact.Full, artifact.KindOf(full(&os.PathError{Err: syscall.ENOSPC})))
}

// TestWriteContext: an engine that wants the context on disk gets all of it, and nothing out of it is written.
func TestWriteContext(t *testing.T) {
	t.Parallel()
	packed := tarOf(file("Dockerfile", 0o644, "FROM scratch\n"), file(".dockerignore", 0o644, "d\n"), file("d/run", 0o755, "r"), entry{tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../.."}, ""})
	_, plan, err := buildTar(t, bytes.NewReader(packed), Request{}, Limits{})
	require.NoError(t, err)
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, plan.writeContext(root))
	b, err := os.ReadFile(filepath.Join(dir, "d/run"))
	require.NoError(t, err)
	require.Equal(t, "r", string(b))
	info, err := os.Stat(filepath.Join(dir, "d/run"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o100)
	target, err := os.Readlink(filepath.Join(dir, "out"))
	require.NoError(t, err)
	require.Equal(t, "../..", target)
}

// TestStreams: a build holds a buffer, not the files.
func TestStreams(t *testing.T) { //nolint:paralleltest // it measures what all of the program allocates
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), nil, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(dir, "large"), 64<<20))
	f, err := os.Open(filepath.Join(dir, "large"))
	require.NoError(t, err)
	defer f.Close()
	work := newWorkspace(t.TempDir(), 1<<30)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = work.writeLayer(context.Background(), []*node{{path: "large", kind: artifact.Regular, mode: 0o644, size: 64 << 20, content: section{f, 0, 64 << 20}}}, time.Unix(0, 0))
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(24<<20), "for a layer of 64 MiB")
}

// TestCompressor: blocks of any number come out in their order, as one stream, and as the same bytes.
func TestCompressor(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 9*blockSize + 7} {
		plain := make([]byte, n)
		for i := range plain {
			plain[i] = byte(i >> 9)
		}
		var one, two bytes.Buffer
		for _, out := range []*bytes.Buffer{&one, &two} {
			c := newCompressor(out)
			for rest := plain; len(rest) > 0; {
				size := min(len(rest), 300_000+out.Len()%7)
				_, err := c.Write(rest[:size])
				require.NoError(t, err)
				rest = rest[size:]
			}
			require.NoError(t, c.Close())
			require.NoError(t, c.Close(), "twice")
		}
		require.Equal(t, one.Bytes(), two.Bytes())
		z, err := gzip.NewReader(&one)
		require.NoError(t, err)
		back, err := io.ReadAll(z)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, back))
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	c := newCompressor(full)
	_, _ = c.Write(make([]byte, 3*blockSize))
	require.ErrorIs(t, c.Close(), syscall.ENOSPC)
}

// differing makes other bytes each time.
type differing struct{ count *int }

func (differing) Name() string { return "differing" }
func (d differing) Build(_ context.Context, t *Target, _ *workspace, _ io.Writer) (gcr.Image, error) {
	*d.count++
	image, _, err := made(gcr.Config{User: strings.Repeat("u", *d.count)}, t.platform, tarOf(file("same", 0o644, "s"), file("other", 0o644, strings.Repeat("x", *d.count)), file("only"+strings.Repeat("x", *d.count), 0o644, "")))
	return image, err
}

// noBuilds is a Store without builds.
type noBuilds struct{ Store }

func (noBuilds) Build(context.Context, artifact.Repository, artifact.Digest) (Record, bool, error) {
	return Record{}, false, nil
}

// TestCheck: what differs is named, and the engine for what runs programs is asked to build that.
func TestCheck(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	count := 0
	service := NewService(Config{Bases: testBases{}, Store: noBuilds{}, Engine: differing{&count}, Folder: t.TempDir()})
	packed := tarOf(file("Dockerfile", 0o644, "FROM scratch\nRUN date\n"))
	c, err := service.Check(context.Background(), artifact.System, Request{Repository: repository}, bytes.NewReader(packed), Private{}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 2, count)
	require.NotEqual(t, c.Digest, c.Again)
	require.False(t, c.Before)
	require.Equal(t, []Differs{
		{Path: "/onlyx", How: "is gone"}, {Path: "/other", How: "has other content: 2 bytes, were 1"}, {Path: "/onlyxx", How: "is new"},
		{Path: "config: User", How: `is "uu", was "u"`},
	}, c.Differences)

	packed = tarOf(file("Dockerfile", 0o644, "FROM base/small:1\nCOPY Dockerfile /\n"))
	c, err = service.Check(context.Background(), artifact.System, Request{Repository: repository, Platform: "linux/amd64"}, bytes.NewReader(packed), Private{}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, c.Digest, c.Again)
	require.Equal(t, 2, count, "the native engine made these")
}

// TestIndex: several platforms make an index; each has its own arguments and base.
func TestIndex(t *testing.T) {
	t.Parallel()
	packed := tarOf(file("Dockerfile", 0o644, "FROM base/multi:1\nARG TARGETARCH\nCOPY $TARGETARCH /own\n"), file("amd64", 0o644, "A"), file("arm64", 0o644, "B"))
	built, plan, err := buildTar(t, bytes.NewReader(packed), Request{Platform: "linux/amd64,linux/arm64/v8"}, Limits{})
	require.NoError(t, err)
	index, err := built.(gcr.ImageIndex).IndexManifest()
	require.NoError(t, err)
	require.Len(t, index.Manifests, 2)
	require.Len(t, plan.bases, 2)
	for i, want := range []struct{ platform, own, arch string }{{"linux/amd64", "A", "amd64"}, {"linux/arm64", "B", "arm64"}} {
		require.Equal(t, want.platform, index.Manifests[i].Platform.String())
		image, err := built.(gcr.ImageIndex).Image(index.Manifests[i].Digest)
		require.NoError(t, err)
		_, contents := list(t, image)
		require.Equal(t, want.own, contents["own"])
		require.Equal(t, want.arch, contents["arch"])
	}
	one, _, err := buildTar(t, bytes.NewReader(packed), Request{Platform: "linux/arm64"}, Limits{})
	require.NoError(t, err)
	require.Equal(t, index.Manifests[1].Digest.String(), digestOf(t, one), "an image of an index is what it is alone")
}

// TestGitURLs: what names a repository, and what must not be fetched.
func TestGitURLs(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("a", 40)
	u, err := parseGitURL("https://git.example.com/shop/returns.git#v1:service")
	require.NoError(t, err)
	require.Equal(t, gitURL{remote: "https://git.example.com/shop/returns.git", ref: "v1", folder: "service"}, u)
	u, err = parseGitURL("https://git.example.com/shop/returns.git#" + hash)
	require.NoError(t, err)
	require.Equal(t, hash, u.commit)
	for _, bad := range []string{"", ".", "/etc", "ssh://git@git.example.com/x.git", "git@git.example.com:x.git", "https://user:secret@git.example.com/x.git", "https://git.example.com/x.git#--upload-pack=x",
		"https://git.example.com/x.git#a..b", "https://git.example.com/x.git#a b", "ext::sh -c id", "https://git.example.com/x.git?commit=abc"} {
		_, err := parseGitURL(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "secret")
	}
	f := &Fetcher{Allowed: []string{"https://git.example.com/shop/*.git", "https://all.example.com/**"}}
	require.True(t, f.allows("https://git.example.com/shop/returns.git"))
	require.True(t, f.allows("https://all.example.com/a/b.git"))
	for _, remote := range []string{"https://git.example.com/shop/a/b.git", "https://git.example.com/other/x.git", "https://git.example.com.evil.example/shop/x.git", "http://git.example.com/shop/x.git", "https://all.example.com/../b.git"} {
		require.False(t, f.allows(remote), remote)
	}
	require.False(t, (&Fetcher{Allowed: []string{"**"}}).allows("file:///srv/git/secret.git"), "a pattern names how")
	require.False(t, (*Fetcher)(nil).allows("https://git.example.com/shop/returns.git"))
	require.False(t, IsGit("."))
	require.False(t, IsGit("examples/returns"))
}

// FuzzAdd: whatever an archive holds, nothing of it leaves the folder that it is added to, and what comes of it is an image
// or an answer.
func FuzzAdd(f *testing.F) {
	f.Add(tarOf(file("a/b", 0o644, "x"), entry{tar.Header{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "b"}, ""}))
	f.Add(tarOf(file("../x", 0o644, "x")))
	f.Add(tarOf(entry{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, ""}, file("l/x", 0o644, "x")))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Add(xzOf(f, tarOf(file("a/b", 0o644, "x")), 1<<20))
	f.Fuzz(func(t *testing.T, b []byte) {
		files := newTree()
		work := newWorkspace(t.TempDir(), 1<<20)
		defer work.Close()
		from := newTree()
		from.put(&node{path: "a", kind: artifact.Regular, size: int64(len(b)), content: inline(b)})
		c := &copying{files: files, changed: map[string]bool{}, from: from, work: work, unpack: true}
		_, err := c.archive("a", "/opt/")
		if err != nil {
			require.NotEmpty(t, artifact.KindOf(err), "%v", err)
			return
		}
		for p := range c.changed {
			require.True(t, p == "opt" || strings.HasPrefix(p, "opt/"), p)
			require.Equal(t, path.Clean(p), p)
		}
	})
}

// FuzzDockerfile: a Dockerfile is built or answered.
func FuzzDockerfile(f *testing.F) {
	for _, c := range []string{"FROM scratch\nCOPY a /b\n", "FROM base/small:1\nADD --chown=app a b /c/\nWORKDIR x\n", "FROM scratch\nCOPY <<E /x\n$A\nE\n", "ARG A=1\nFROM --platform=$A scratch\nCOPY --parents --exclude=b . /\n", "FROM base/onbuild:1 AS a\nFROM a\nEXPOSE 1-3\n", "ARG A=1\n"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, dockerfile string) {
		if len(dockerfile) > 4096 || strings.Contains(dockerfile, "EXPOSE") && len(dockerfile) > 200 {
			return
		}
		packed := tarOf(file("Dockerfile", 0o644, dockerfile), file("a", 0o644, "A"), file("d/b", 0o644, "B"))
		if _, _, err := buildTar(t, bytes.NewReader(packed), Request{}, Limits{}); err != nil {
			require.NotEmpty(t, artifact.KindOf(err), "%v", err)
		}
	})
}
