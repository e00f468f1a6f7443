package e2e

import (
	"archive/tar"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// reconfigured is an image whose config is changed.
func reconfigured(t *testing.T, img v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	change(cfg)
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	return img
}

// uncompressed is the tar of a layer.
func uncompressed(t *testing.T, layer v1.Layer) []byte {
	t.Helper()
	r, err := layer.Uncompressed()
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

// packedAs is a layer whose blob is packed by somebody else than the library.
type packedAs struct {
	v1.Layer
	diffID v1.Hash
}

func (p packedAs) DiffID() (v1.Hash, error) { return p.diffID, nil }

// TestDeceptions: images that one runtime runs otherwise than another, or than who looks at them takes them for.
func TestDeceptions(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	stderr, code := s.apply(policies + `---
apiVersion: waybill/v1
kind: Policy
metadata: {name: linux}
spec:
  match: {repositories: ["shop/nodes"], platforms: [linux/amd64]}
  rules:
    - {rule: require-labels, action: deny, with: {labels: {owner: ''}}}
`)
	require.Zero(t, code, stderr)
	users := func(lines string) v1.Layer { return layerOf(t, file("etc/passwd", 0o644, lines)) }
	starts := func(content string) v1.Layer { return layerOf(t, file("opt/run", 0o755, content)) }
	harmless := files(t, map[string]string{"a": "1"})
	daemon := layerOf(t, file("srv/worker", 0o755, "\x7fELF OpenSSH_9.2p1 AuthorizedKeysFile sshd: no hostkeys available"))
	plain := uncompressed(t, daemon)
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	diffID, err := daemon.DiffID()
	require.NoError(t, err)
	framed := packedAs{static.NewLayer(append([]byte("\x5f\x2a\x4d\x18\x04\x00\x00\x00\x1f\x8b\x08\x00"), encoder.EncodeAll(plain, nil)...), types.OCILayerZStd), diffID}
	members := packedAs{static.NewLayer(append(append(gzipped(plain[:700]), gzipped(nil)...), gzipped(plain[700:])...), types.OCILayer), diffID}

	for what, c := range map[string]struct {
		repository string
		image      v1.Image
		want       string
	}{
		"a number that containerd takes for a name": {"shop/x", configured(t, "3000000000", users("3000000000:x:0:0::/:/bin/sh\n")), "outside the range"},
		"a number that buildah takes for a name":    {"shop/x", configured(t, "+1000", users("app:x:1000:1000::/:/bin/sh\n+1000:x:0:0::/:/bin/sh\n")), "is a number, and also a name"},
		"a script behind a zero byte":               {"shop/x", running(t, []string{"tini", "--", "/opt/run"}, starts("#!/bin/sh\n# \x00\nexec /data/sshd -D\n")), "the entrypoint /opt/run starts"},
		"a script behind its padding":               {"shop/x", running(t, []string{"/usr/bin/env", "-S", "sh -e /opt/run"}, starts("#!/bin/sh\n"+strings.Repeat("# nothing here\n", 30_000)+"exec dropbear -F\n")), "the entrypoint /opt/run starts"},
		"a script that docker's health check runs": {"shop/x", reconfigured(t, configured(t, "1000", starts("exec sshd\n")), func(c *v1.ConfigFile) {
			c.Config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD-SHELL", "test -e /tmp/up || /opt/run"}}
		}), "the health check /opt/run starts"},
		"a script that bash reads first": {"shop/x", reconfigured(t, running(t, []string{"bash", "-c", "true"}, starts("exec sshd\n")), func(c *v1.ConfigFile) {
			c.Config.Env = []string{"BASH_ENV=/opt/run"}
		}), "the shell's start /opt/run starts"},
		"a daemon behind a frame to skip":       {"shop/x", configured(t, "1000", framed), "/srv/worker is an OpenSSH daemon"},
		"a daemon in several members":           {"shop/x", configured(t, "1000", members), "/srv/worker is an OpenSSH daemon"},
		"an archive cut off within a program":   {"shop/x", configured(t, "1000", static.NewLayer(gzipped(plain[:512+20]), types.OCILayer)), "the archive is cut off"},
		"a config that only some readers see":   {"shop/x", respelt{mutate.ConfigMediaType(configured(t, "0", harmless), "application/octet-stream"), `"config":{`, `"ROOTFS":{"diff_ids":[]},"config":{`}, "both"},
		"a config that ends before its blob":    {"shop/x", respelt{mutate.ConfigMediaType(configured(t, "0", harmless), "application/octet-stream"), `"config":{"Cmd":["/bin/sh"],"User":"0"}}`, `"config":{"Cmd":["/bin/sh"],"User":"0"}}{}`}, "image config"},
		"another spelling of a platform":        {"shop/nodes", reconfigured(t, configured(t, "1000", harmless), func(c *v1.ConfigFile) { c.OS, c.Architecture = "Linux", "x86_64" }), "owner"},
		"no system at all":                      {"shop/nodes", reconfigured(t, configured(t, "1000", harmless), func(c *v1.ConfigFile) { c.OS = "" }), "owner"},
		"a link that leaves by a lower layer's": {"shop/x", configured(t, "1000", layerOf(t, link(tar.TypeSymlink, "srv/data", "/etc")), layerOf(t, file("srv/data/passwd", 0o644, "app:x:0:0::/:\n"))), "is a symlink there"},
	} {
		require.ErrorContains(t, s.push(pusher, c.repository+":v1", c.image), c.want, what)
		status, _ := s.get(pusher, "/v2/"+c.repository+"/manifests/v1")
		require.Equal(t, 404, status, what)
	}

	// The second of two variants of a platform, in an index of an index, is what that node runs.
	armed := func(user, variant string) mutate.IndexAddendum {
		a := addendum(configured(t, user, files(t, map[string]string{"a": variant})), "arm")
		a.Platform.Variant = variant
		return a
	}
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, armed("1000", "v7"), armed("0", "v6"))})
	require.ErrorContains(t, remote.WriteIndex(s.reference("shop/multi:v1"), nested, s.auth(pusher)), "runs as root")
	status, _ := s.get(pusher, "/v2/shop/multi/manifests/v1")
	require.Equal(t, 404, status)
	require.NotContains(t, s.log.String(), "panic")
}
