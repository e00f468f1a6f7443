package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The clients that keep images of their own: they push what they loaded, in their own encoding, and copy by pulling.

var digestLine = regexp.MustCompile(`Digest: (sha256:[0-9a-f]{64})`)

func openDocker(t *testing.T, s *waybillServer) client {
	daemon := dockerd(t)
	run := func(stdin string, args ...string) (string, error) {
		out, code := daemon(stdin, args...)
		if code != 0 {
			return out, errors.New(out)
		}
		return out, nil
	}
	do := func(args ...string) error { _, err := run("", args...); return err }
	pull := func(ref string) (string, error) {
		// What is here already is not pulled again.
		if err := do("image", "prune", "--all", "--force"); err != nil {
			return "", err
		}
		out, err := run("", "pull", s.host+"/"+ref)
		if err != nil {
			return "", err
		}
		found := digestLine.FindStringSubmatch(out)
		if found == nil {
			return "", fmt.Errorf("no digest in %q", out)
		}
		return found[1], nil
	}
	pushAs := func(local, ref string) error {
		return all(func() error { return do("tag", local, s.host+"/"+ref) }, func() error { return do("push", s.host+"/"+ref) })
	}
	return client{
		login: func(token string) error {
			_, err := run(token, "login", "-u", "ci", "--password-stdin", s.host)
			return err
		},
		push: func(what sample, ref string) error {
			return all(func() error { return do("load", "-i", what.archive) }, func() error { return pushAs(sampleTag, ref) })
		},
		pull: pull,
		copy: func(from, to string) error {
			if _, err := pull(from); err != nil {
				return err
			}
			return pushAs(s.host+"/"+from, to)
		},
	}
}

func openPodman(t *testing.T, s *waybillServer) client {
	return containersTool(t, s, "podman", func(c tool, archive string) error { return c.do("load", "--input", archive) })
}

func openBuildah(t *testing.T, s *waybillServer) client {
	return containersTool(t, s, "buildah", func(c tool, archive string) error { return c.do("pull", "docker-archive:"+archive) })
}

// containersTool is podman or buildah, which take the same words for most, on storage of its own.
func containersTool(t *testing.T, s *waybillServer, name string, load func(c tool, archive string) error) client {
	dir := t.TempDir()
	c := tool{t: t, name: name, args: []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}}
	authfile := "--authfile=" + filepath.Join(dir, "auth.json")
	pull := func(ref string) (string, error) {
		if err := all(func() error { return c.do("rmi", "--all", "--force") }, func() error { return c.do("pull", authfile, "--tls-verify=false", s.host+"/"+ref) }); err != nil {
			return "", err
		}
		out, err := c.run("images", "--json")
		if name == "podman" {
			out, err = c.run("images", "--format", "json")
		}
		if err != nil {
			return "", err
		}
		var images []struct{ Digest string }
		if err := json.Unmarshal([]byte(out), &images); err != nil || len(images) != 1 {
			return "", fmt.Errorf("want one image, not %s: %w", out, err)
		}
		return images[0].Digest, nil
	}
	push := func(local, ref string) error {
		return c.do("push", authfile, "--tls-verify=false", local, "docker://"+s.host+"/"+ref)
	}
	return client{
		login: func(token string) error {
			return c.do("login", authfile, "--tls-verify=false", "-u", "ci", "-p", token, s.host)
		},
		push: func(what sample, ref string) error {
			return all(func() error { return load(c, what.archive) }, func() error { return push(sampleTag, ref) })
		},
		pull: pull,
		copy: func(from, to string) error {
			if _, err := pull(from); err != nil {
				return err
			}
			return push(s.host+"/"+from, to)
		},
		tags: podmanTags(c, s, authfile),
	}
}

// podmanTags lists tags; buildah does not.
func podmanTags(c tool, s *waybillServer, authfile string) func(string) ([]string, error) {
	if c.name != "podman" {
		return nil
	}
	return func(repository string) ([]string, error) {
		out, err := c.run("search", "--list-tags", authfile, "--tls-verify=false", "--format", "{{.Tag}}", s.host+"/"+repository)
		return strings.Fields(out), err
	}
}
