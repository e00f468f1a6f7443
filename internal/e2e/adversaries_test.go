package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// program returns a file of a Debian package, as it is.
func program(t *testing.T, pkg, path string) []byte {
	t.Helper()
	dir := t.TempDir()
	download := exec.Command("apt-get", "-qq", "download", pkg)
	download.Dir = dir
	out, err := download.CombinedOutput()
	require.NoError(t, err, "%s", out)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 1)
	archive, err := exec.Command("dpkg-deb", "--fsys-tarfile", debs[0]).Output()
	require.NoError(t, err)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		require.False(t, errors.Is(err, io.EOF), "%s has no %s", pkg, path)
		require.NoError(t, err)
		if strings.TrimPrefix(h.Name, "./") == path {
			content, err := io.ReadAll(r)
			require.NoError(t, err)
			return content
		}
	}
}

// packed is a layer's entry; its size is its content's.
type packed struct {
	tar.Header
	content []byte
}

func file(path string, mode int64, content string) packed {
	return packed{tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: mode}, []byte(content)}
}

func link(kind byte, path, target string) packed {
	return packed{tar.Header{Name: path, Typeflag: kind, Linkname: target, Mode: 0o777}, nil}
}

// layerOf packs entries, in order, whatever they say.
func layerOf(t *testing.T, entries ...packed) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		require.NoError(t, w.WriteHeader(&e.Header))
		_, err := w.Write(e.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return tarred(t, b.Bytes())
}

func tarred(t *testing.T, archive []byte) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	require.NoError(t, err)
	return layer
}

// running is an image that starts a command.
func running(t *testing.T, command []string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := configured(t, "1000", layers...)
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.Entrypoint, cfg.Config.Cmd = command, nil
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	return img
}

const policies = `apiVersion: waybill/v1
kind: Policy
metadata: {name: baseline}
spec:
  match: {repositories: ["**"], except: ["lab/**"]}
  rules:
    - {rule: no-root-user, action: deny}
    - {rule: no-sshd, action: deny}
    - {rule: no-setuid, action: deny, with: {allow: [usr/bin/su]}}
    - {rule: no-latest, action: deny}
    - {rule: max-size, action: deny, with: {uncompressed: 100Mi}}
    - {rule: require-sbom, action: deny, with: {formats: [spdx]}}
---
apiVersion: waybill/v1
kind: Policy
metadata: {name: lab}
spec:
  match: {repositories: ["lab/**"]}
  rules: []
`

func (s *waybillServer) apply(text string) (stderr string, code int) {
	s.t.Helper()
	path := filepath.Join(s.t.(*testing.T).TempDir(), "policy.yaml")
	require.NoError(s.t, os.WriteFile(path, []byte(text), 0o600))
	_, stderr, code = s.waybill(s.admin(), "apply", "-f", path)
	return stderr, code
}

// TestAdversaries: real daemons and real layers, each hidden in its own way.
func TestAdversaries(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	stderr, code := s.apply(policies)
	require.Zero(t, code, stderr)
	sshd, dropbear := string(program(t, "openssh-server", "usr/sbin/sshd")), string(program(t, "dropbear-bin", "usr/sbin/dropbear"))
	renamed := layerOf(t, file("srv/worker", 0o755, sshd))
	users := "app:x:1000:1000::/:/bin/sh\n"
	capable := file("bin/tool", 0o755, "#!/bin/sh\n")
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	setuid := link(tar.TypeLink, "bin/b", "bin/a")
	setuid.Mode = 0o4755
	redirect := folderEntry("etc")
	redirect.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/evil"}

	for what, c := range map[string]struct {
		image v1.Image
		want  string
	}{
		"sshd, renamed":                   {configured(t, "1000", renamed), "/srv/worker is an OpenSSH daemon"},
		"sshd, not even executable":       {configured(t, "1000", layerOf(t, file("srv/data.bin", 0o644, sshd))), "/srv/data.bin is an OpenSSH daemon"},
		"sshd, by a second name":          {configured(t, "1000", layerOf(t, file("a", 0o755, sshd), link(tar.TypeLink, "b", "a")), layerOf(t, file(".wh.a", 0o644, ""))), "/b is an OpenSSH daemon"},
		"sshd, replaced and moved":        {configured(t, "1000", layerOf(t, file("usr/sbin/sshd", 0o755, "x")), layerOf(t, file("opt/y", 0o755, sshd))), "/opt/y is an OpenSSH daemon"},
		"dropbear, renamed":               {configured(t, "1000", layerOf(t, file("srv/helper", 0o755, dropbear))), "/srv/helper is a dropbear daemon"},
		"a script in ENTRYPOINT":          {running(t, []string{"sh", "/start"}, layerOf(t, file("start", 0o644, "cd /srv\nexec /srv/sshd -D\n"))), "the entrypoint /start starts an ssh daemon"},
		"a link to such a script":         {running(t, []string{"go"}, layerOf(t, file("srv/run", 0o755, "#!/bin/sh\ndropbear -F\n"), link(tar.TypeSymlink, "usr/bin/go", "../../srv/run"))), "the entrypoint /srv/run starts"},
		"a name that is uid 0":            {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, "app:x:0:0::/:/bin/sh\n"))), "runs as root"},
		"passwd replaced above":           {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, users)), layerOf(t, file("etc/passwd", 0o644, "app:x:00:0::/:/bin/sh\n"))), "runs as root"},
		"passwd is a link":                {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, users)), layerOf(t, file("opt/u", 0o644, "app:x:0:0::/:\n"), link(tar.TypeSymlink, "etc/passwd", "../opt/u"))), "runs as root"},
		"setuid":                          {configured(t, "1000", layerOf(t, file("bin/a", 0o4755, "x"))), "/bin/a is setuid"},
		"setuid by a hard link's entry":   {configured(t, "1000", layerOf(t, file("bin/a", 0o755, "x"), setuid)), "/bin/a is setuid"},
		"capabilities":                    {configured(t, "1000", layerOf(t, capable)), "cap_net_raw"},
		"a gigabyte in a sparse file":     {configured(t, "1000", sparse(t)), "the image, uncompressed, is 1 GiB"},
		"sshd, a folder written anew":     {configured(t, "1000", layerOf(t, file("srv/bin/x", 0o755, sshd)), layerOf(t, file("srv/bin", 0o644, ""), folderEntry("srv/bin"))), "again as a directory"},
		"sshd, a folder removed and made": {configured(t, "1000", layerOf(t, file("srv/bin/x", 0o755, sshd)), layerOf(t, file("srv/.wh.bin", 0o644, ""), folderEntry("srv/bin"))), "removed and made again"},
		"sshd behind a device":            {configured(t, "1000", layerOf(t, file("srv/x", 0o755, sshd)), layerOf(t, packed{tar.Header{Name: "srv/x", Typeflag: tar.TypeChar}, nil})), "leave devices out"},
		"a hard link to what goes":        {configured(t, "1000", layerOf(t, file("a", 0o755, sshd)), layerOf(t, file(".wh.a", 0o644, ""), link(tar.TypeLink, "b", "a"))), "hard link"},
		"the root made opaque":            {configured(t, "1000", layerOf(t, file("a", 0o755, "x")), layerOf(t, file(".wh..wh..opq", 0o644, ""))), "the root itself opaque"},
		"/etc leads elsewhere above":      {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, users)), layerOf(t, file("evil/passwd", 0o644, "app:x:0:0::/:\n"), link(tar.TypeSymlink, "etc", "/evil"))), "runs as root"},
		"/etc by an overlay's redirect":   {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, users), file("evil/passwd", 0o644, "app:x:0:0::/:\n")), layerOf(t, redirect)), "trusted.overlay.redirect"},
		"passwd twice in a layer":         {configured(t, "app", layerOf(t, file("etc/passwd", 0o644, users), file("./etc//passwd", 0o644, "app:x:0:0::/:\n"))), "runs as root"},
		"passwd by a link of aufs":        {configured(t, "app", layerOf(t, file(".wh..wh.plnk/1", 0o644, users), link(tar.TypeLink, "etc/passwd", ".wh..wh.plnk/1"))), "named like a whiteout"},
		"a name of odd bytes":             {configured(t, `a\xff`, layerOf(t, file("etc/passwd", 0o644, "a\xff:x:1000:1000::/:\n"+`a\xff:x:0:0::/:`))), "runs as root"},
		"a number that wraps":             {configured(t, "4294967296", files(t, map[string]string{"a": "1"})), "outside the range"},
		"two spellings of a key":          {respelt{configured(t, "1000", files(t, map[string]string{"a": "1"})), `"User":"1000"`, `"User":"1000","user":"0"`}, "both"},
		"a key that few read":             {respelt{configured(t, "1000", files(t, map[string]string{"a": "1"})), `"User":"1000"`, `"user":"1000"`}, "spell it as"},
		"a whole system, by its package":  {image(t, debian(t, "openssh-server"), "1000"), "the package openssh-server"},
	} {
		err := s.push(pusher, "shop/x:v1", c.image)
		require.ErrorContains(t, err, c.want, what)
		status, _ := s.get(pusher, "/v2/shop/x/manifests/v1")
		require.Equal(t, 404, status, what)
	}
	// What is allowed in one repository shares its layer, and is judged in another all the same.
	s.pushed(pusher, "lab/x:v1", configured(t, "1000", renamed))
	lab, err := name.ParseReference(s.host + "/lab/x:v1")
	require.NoError(t, err)
	shared, err := remote.Image(lab, s.auth(pusher))
	require.NoError(t, err)
	require.ErrorContains(t, s.push(pusher, "shop/x:v2", shared), "/srv/worker is an OpenSSH daemon")
	// A mode that a later layer takes away is gone.
	s.pushed(pusher, "shop/x:v3", configured(t, "app", layerOf(t, file("bin/a", 0o4755, "x"), file("usr/bin/su", 0o4755, "x"), file("etc/passwd", 0o644, users)), layerOf(t, file("bin/a", 0o755, "x"))))

	good, root := configured(t, "1000", files(t, map[string]string{"a": "1"})), configured(t, "0", files(t, map[string]string{"a": "2"}))
	index := mutate.AppendManifests(empty.Index, addendum(good, "amd64"), addendum(root, "arm64"))
	ref, err := name.ParseReference(s.host + "/shop/multi:v1")
	require.NoError(t, err)
	require.ErrorContains(t, remote.WriteIndex(ref, index, s.auth(pusher)), "runs as root")
	status, _ := s.get(pusher, "/v2/shop/multi/manifests/v1")
	require.Equal(t, 404, status)

	// What says that it is an attestation is an image all the same, also where an index of an index has it.
	attestation := addendum(root, "unknown")
	attestation.Platform.OS = "unknown"
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": "sha256:" + strings.Repeat("0", 64)}
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, addendum(good, "amd64"), attestation)})
	require.ErrorContains(t, remote.WriteIndex(ref, nested, s.auth(pusher)), "runs as root")
	status, _ = s.get(pusher, "/v2/shop/multi/manifests/v1")
	require.Equal(t, 404, status)

	// By digest there is no tag to refuse; tagged later, there is.
	digest, err := good.Digest()
	require.NoError(t, err)
	require.NoError(t, s.push(pusher, "shop/late@"+digest.String(), good))
	require.ErrorContains(t, s.push(pusher, "shop/late:latest", good), "no-latest")
	var verdict artifact.VerdictRecord
	s.json(pusher, &verdict, "verdict", "shop/late@"+digest.String())
	require.Equal(t, artifact.Allow, verdict.Outcome, "a refused tag says nothing about the digest")
	s.pushed(pusher, "shop/late:v1", good)
}

func folderEntry(name string) packed {
	return packed{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil}
}

// respelt is an image whose config is written otherwise.
type respelt struct {
	v1.Image
	old, config string
}

func (i respelt) RawConfigFile() ([]byte, error) {
	b, err := i.Image.RawConfigFile()
	return []byte(strings.Replace(string(b), i.old, i.config, 1)), err
}

func (i respelt) ConfigName() (v1.Hash, error) { return partial.ConfigName(i) }

func (i respelt) ConfigLayer() (v1.Layer, error) {
	b, err := i.RawConfigFile()
	return static.NewLayer(b, types.OCIConfigJSON), err
}

func (i respelt) RawManifest() ([]byte, error) {
	m, err := i.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	raw, err := i.RawConfigFile()
	if err != nil {
		return nil, err
	}
	m.Config.Digest, m.Config.Size, err = v1.SHA256(strings.NewReader(string(raw)))
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func (i respelt) Manifest() (*v1.Manifest, error) { return partial.Manifest(i) }

func (i respelt) Digest() (v1.Hash, error) { return partial.Digest(i) }

func (i respelt) Size() (int64, error) { return partial.Size(i) }

func addendum(img v1.Image, architecture string) mutate.IndexAddendum {
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}}
}

// sparse is a layer whose one file is a gigabyte of nothing, as GNU tar packs it.
func sparse(t *testing.T) v1.Layer {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Truncate(touch(t, filepath.Join(dir, "hole")), 1<<30))
	archive, err := exec.Command("tar", "--sparse", "-C", dir, "-c", "hole").Output()
	require.NoError(t, err)
	require.Less(t, len(archive), 1<<20)
	return tarred(t, archive)
}

func touch(t *testing.T, path string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

// TestExpressionRefused: an expression that does not compile is refused where it is, and none of its file is applied.
func TestExpressionRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	document := func(cel string) string {
		return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: mine}\nspec:\n  match: {repositories: ['shop/**'], platforms: [linux/*]}\n  rules:\n" +
			"    - rule: expression\n      name: no-debug-port\n      action: deny\n      with:\n        cel: \"" + cel + "\"\n        message: a debugger port is exposed\n"
	}
	stderr, code := s.apply(document("image.config.exposedPort.size() == 0"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "policy.yaml:11:14: the expression does not compile: at 1:13 of the expression: undefined field 'exposedPort'")
	stderr, code = s.apply(document("facts.packages.all(p, facts.packages.all(q, p.name == q.name))"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "steps on a large image")
	stderr, code = s.apply(document("!('5005/tcp' in image.config.exposedPorts)"))
	require.Zero(t, code, stderr)
	img := running(t, []string{"/a"}, files(t, map[string]string{"a": "1"}))
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.ExposedPorts = map[string]struct{}{"5005/tcp": {}}
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	require.ErrorContains(t, s.push(s.admin(), "shop/x:v1", img), "no-debug-port: a debugger port is exposed")
	s.pushed(s.admin(), "else/x:v1", img)
}

// TestSBOMBeforePromotion: what no push can have yet is a warning there; Waybill attaches it, judges again by itself, and then the
// image may be promoted. What others attach is in TestProvenanceByOthers.
func TestSBOMBeforePromotion(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	stderr, code := s.apply(policies)
	require.Zero(t, code, stderr)
	img := configured(t, "1000", files(t, map[string]string{"a": "1"}))
	digest := s.pushed(pusher, "shop/x:v1", img)
	s.signed(pusher, "shop/x@"+digest)
	// Waybill attaches one itself, moments after it signed.
	s.await("its SBOM", func() bool {
		var verdict artifact.VerdictRecord
		s.json(pusher, &verdict, "verdict", "shop/x:v1")
		require.Equal(t, artifact.Allow, verdict.Outcome)
		return len(verdict.Waiting()) == 0
	})
	s.ok(promoter, "promote", "shop/x", "v1", "dev")
}
