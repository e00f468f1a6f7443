package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The commands that talk to registries and keep no images.

// openSkopeo is told to copy signatures that stand at cosign's tags; it takes no referrers.
func openSkopeo(t *testing.T, s *waybillServer) client {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "signatures.yaml"), []byte("default-docker: {use-sigstore-attachments: true}\n"), 0o600))
	c := tool{t: t, name: "skopeo", args: []string{"--registries.d", dir}}
	authfile := "--authfile=" + filepath.Join(dir, "auth.json")
	remote := func(ref string) string { return "docker://" + s.host + "/" + ref }
	return client{
		login: func(token string) error {
			return c.do("login", authfile, "--tls-verify=false", "-u", "ci", "-p", token, s.host)
		},
		push: func(what sample, ref string) error {
			return c.do("copy", authfile, "--dest-tls-verify=false", "--preserve-digests", "oci:"+what.layout+":v1", remote(ref))
		},
		pull: func(ref string) (string, error) {
			to := t.TempDir()
			if err := c.do("copy", authfile, "--src-tls-verify=false", remote(ref), "dir:"+to); err != nil {
				return "", err
			}
			manifest, err := os.ReadFile(filepath.Join(to, "manifest.json"))
			return fmt.Sprintf("sha256:%x", sha256.Sum256(manifest)), err
		},
		copy: func(from, to string) error {
			return c.do("copy", authfile, "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests", "--all", remote(from), remote(to))
		},
		remove: func(repository, tag, _ string) error {
			return c.do("delete", authfile, "--tls-verify=false", remote(repository+":"+tag))
		},
		tags: func(repository string) ([]string, error) {
			out, err := c.run("list-tags", authfile, "--tls-verify=false", remote(repository))
			if err != nil {
				return nil, err
			}
			var list struct{ Tags []string }
			return list.Tags, json.Unmarshal([]byte(out), &list)
		},
		signatures: true,
	}
}

// openCrane copies what stands at cosign's tags as any other tag.
func openCrane(t *testing.T, s *waybillServer) client {
	c := tool{t: t, name: "crane", env: []string{"DOCKER_CONFIG=" + t.TempDir()}, args: []string{"--insecure"}}
	remote := func(ref string) string { return s.host + "/" + ref }
	return client{
		login: func(token string) error { return c.do("auth", "login", s.host, "-u", "ci", "-p", token) },
		push:  func(what sample, ref string) error { return c.do("push", what.layout, remote(ref)) },
		pull: func(ref string) (string, error) {
			to := filepath.Join(t.TempDir(), "layout")
			if err := c.do("pull", "--format=oci", remote(ref), to); err != nil {
				return "", err
			}
			return layoutDigest(to)
		},
		copy: func(from, to string) error {
			digest, err := c.lines("digest", remote(from))
			if err != nil {
				return err
			}
			return all(func() error { return c.do("copy", remote(from), remote(to)) },
				func() error {
					return c.do("copy", remote(cosignTag(from, digest[0])), remote(cosignTag(to, digest[0])))
				})
		},
		untag: func(ref string) error { return c.do("delete", remote(ref)) },
		remove: func(repository, _, digest string) error {
			return c.do("delete", remote(repository+"@"+digest))
		},
		tags:         func(repository string) ([]string, error) { return c.lines("ls", remote(repository)) },
		repositories: func() ([]string, error) { return c.lines("catalog", s.host) },
		trusting:     true, signatures: true,
	}
}

func openRegctl(t *testing.T, s *waybillServer) client {
	dir := t.TempDir()
	c := tool{t: t, name: "regctl", env: []string{"REGCTL_CONFIG=" + filepath.Join(dir, "config.json"), "DOCKER_CONFIG=" + dir}}
	require.NoError(t, c.do("registry", "set", s.host, "--tls", "disabled", "--skip-check"))
	remote := func(ref string) string { return s.host + "/" + ref }
	return client{
		login: func(token string) error { return c.do("registry", "login", s.host, "-u", "ci", "-p", token) },
		push: func(what sample, ref string) error {
			return c.do("image", "copy", "ocidir://"+what.layout+":v1", remote(ref))
		},
		pull: func(ref string) (string, error) {
			to := filepath.Join(t.TempDir(), "layout")
			if err := c.do("image", "copy", remote(ref), "ocidir://"+to+":pulled"); err != nil {
				return "", err
			}
			return layoutDigest(to)
		},
		copy: func(from, to string) error {
			return c.do("image", "copy", "--referrers", "--digest-tags", remote(from), remote(to))
		},
		untag: func(ref string) error { return c.do("tag", "delete", remote(ref)) },
		remove: func(repository, _, digest string) error {
			return c.do("image", "delete", remote(repository+"@"+digest))
		},
		tags:         func(repository string) ([]string, error) { return c.lines("tag", "ls", remote(repository)) },
		repositories: func() ([]string, error) { return c.lines("repo", "ls", s.host) },
		signatures:   true, referrers: true,
	}
}

// openCosign saves and copies what another client pushed.
func openCosign(t *testing.T, s *waybillServer) client {
	c := tool{t: t, name: "cosign", env: []string{"DOCKER_CONFIG=" + t.TempDir()}}
	remote := func(ref string) string { return s.host + "/" + ref }
	return client{
		login: func(token string) error { return c.do("login", s.host, "-u", "ci", "-p", token) },
		pull: func(ref string) (string, error) {
			to := filepath.Join(t.TempDir(), "layout")
			if err := c.do("save", "--allow-http-registry", "--dir", to, remote(ref)); err != nil {
				return "", err
			}
			return layoutDigest(to)
		},
		copy: func(from, to string) error {
			return c.do("copy", "--allow-http-registry", "--force", remote(from), remote(to))
		},
		trusting: true, signatures: true,
	}
}
