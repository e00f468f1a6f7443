package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// TestPolicyAnywhere: a policy is tried on images that no server has, with the verdict that a push would get.
func TestPolicyAnywhere(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp(fixtures, "policy-") // the scanner's user passes through it
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	file := filepath.Join(dir, "policy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['shop/**']}\n  rules:\n"+
		"    - {rule: no-root-user, action: deny}\n    - {rule: max-severity, action: deny, with: {severity: critical}}\n"), 0o600))
	test := func(args ...string) (string, string, int) {
		return command(t, dir, []string{"WAYBILL_URL=", "HOME=" + dir, "TMPDIR=" + dir}, "waybill", append([]string{"policy", "test", file}, args...)...)
	}
	rooted := configured(t, "root", files(t, map[string]string{"usr/local/bin/old": goProgram(t, "go1.22.3")}))
	fine := configured(t, "1000", files(t, map[string]string{"usr/local/bin/current": goProgram(t, "local")}))

	stdout, stderr, code := test("oci:"+ociLayout(t, rooted), "--repository", "shop/returns", "--database", advisories(t))
	require.Equal(t, 1, code, stdout+stderr)
	require.Contains(t, stdout, "no-root-user")
	require.Contains(t, stdout, "CVE-2024-24790")
	require.Contains(t, stderr, "1 of 1 image would not be allowed")
	stdout, stderr, code = test("oci:"+ociLayout(t, fine), "--repository", "shop/returns", "--database", advisories(t))
	require.Zero(t, code, stdout+stderr)
	stdout, _, code = test("oci:"+ociLayout(t, fine), "--repository", "shop/returns")
	require.Equal(t, 1, code, "what was not scanned is never clean")
	require.Contains(t, stdout, "no advisory database was given")

	tag, err := name.NewTag("shop/returns:v1")
	require.NoError(t, err)
	saved := filepath.Join(dir, "saved.tar")
	require.NoError(t, tarball.WriteToFile(saved, tag, rooted))
	stdout, stderr, code = test("docker-archive:"+saved, "docker-archive:"+saved+":shop/returns:v1", "--repository", "shop/returns")
	require.Equal(t, 1, code, stdout+stderr)
	require.Contains(t, stderr, "2 of 2 images would not be allowed")

	s := serve(t)
	s.pushed(s.admin(), "shop/fine:v1", fine)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: fine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	require.NoError(t, remote.WriteIndex(s.reference("shop/fine:all"), index, s.auth(s.admin())))
	for _, tag := range []string{"v1", "all"} {
		stdout, stderr, code = command(t, dir, []string{"WAYBILL_URL=", "HOME=" + dir, "DOCKER_CONFIG=" + s.dockerConfig(s.admin())}, "waybill", "policy", "test", file,
			"docker://"+s.host+"/shop/fine:"+tag, "--database", advisories(t))
		require.Zero(t, code, stdout+stderr)
		require.Contains(t, stdout, "shop/fine@")
	}
	left, err := filepath.Glob(filepath.Join(dir, "waybill-policy-*"))
	require.NoError(t, err)
	require.Empty(t, left, "nothing is left behind")

	for _, wrong := range [][]string{{"oci:" + dir + "/nowhere"}, {"docker-archive:" + file}, {"oci:" + ociLayout(t, fine), "shop/returns:v1"}, {"shop/returns:v1", "--database", file},
		{"oci:" + ociLayout(t, fine), "--database", file}, {"oci:" + ociLayout(t, fine) + ":v9"}} {
		stdout, stderr, code := test(wrong...)
		require.NotZero(t, code, "%v: %s%s", wrong, stdout, stderr)
	}
}
