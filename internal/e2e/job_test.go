package e2e

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestMainJob is the whole job on a real Debian image: push, verdict, scan, sign, promote, gated pull, verify, audit.
func TestMainJob(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin := s.admin()
	pusher := s.token("--role", "pusher", "--repository", "shop/**")
	promoter := s.token("--role", "promoter", "--repository", "shop/**")
	deployer := s.token("--role", "deployer", "--environment", "production", "--repository", "shop/**")

	s.ok(admin, "db", "import", advisories(t))
	require.Contains(t, s.ok(admin, "db", "status"), "2026-11-21")

	v456 := s.pushed(pusher, "shop/returns:v456", image(t, debian(t, ""), "65532:65532"))
	v457 := s.pushed(pusher, "shop/returns:v457", configured(t, "65532", files(t, map[string]string{"app": "v457"})))
	ref := "shop/returns@" + v456

	t.Run("verdict", func(t *testing.T) {
		var verdict artifact.VerdictRecord
		s.json(pusher, &verdict, "verdict", "shop/returns:v456")
		require.Equal(t, artifact.Allow, verdict.Outcome)
		require.Equal(t, v456, verdict.Digest.String())
	})
	t.Run("scan", func(t *testing.T) {
		var scan artifact.Scan
		s.await("the scan", func() bool {
			s.json(pusher, &scan, "scan", ref)
			return scan.State != artifact.ScanPending
		})
		require.Equal(t, artifact.Scanned, scan.State, scan.Reason)
		require.Greater(t, len(scan.Packages), 50)
		require.Greater(t, len(scan.Findings), 24, "plain bookworm has dozens of vulnerabilities")
	})
	t.Run("SBOM", func(t *testing.T) {
		s.await("the SBOM", func() bool {
			status, body := s.get(pusher, "/v2/shop/returns/referrers/"+v456+"?artifactType=application/vnd.cyclonedx%2Bjson")
			require.Equal(t, 200, status, body)
			return strings.Contains(body, `"digest"`)
		})
	})
	s.signed(pusher, ref)
	t.Run("cosign", func(t *testing.T) {
		key := filepath.Join(t.TempDir(), "waybill.pub")
		require.NoError(t, os.WriteFile(key, []byte(s.ok(pusher, "key", "public")), 0o600))
		out, errs, code := command(t, "", []string{"DOCKER_CONFIG=" + s.dockerConfig(pusher)}, "cosign", "verify", "--key", key, "--insecure-ignore-tlog=true",
			"--allow-http-registry", s.host+"/"+ref)
		require.Zero(t, code, out+errs)
		require.Contains(t, out, v456)
	})

	t.Run("an unmet gate names itself and the others", func(t *testing.T) {
		stdout, stderr, code := s.waybill(promoter, "promote", "returns", "v456", "production")
		require.Equal(t, 1, code, stdout)
		require.Contains(t, stderr, "after")
		require.Contains(t, stderr, "staging")
	})
	t.Run("dry run", func(t *testing.T) {
		s.ok(promoter, "promote", "returns", "v456", "dev", "--dry-run")
		require.NotContains(t, s.ok(promoter, "status"), "v456")
	})
	for _, environment := range []string{"dev", "staging", "production"} {
		require.Contains(t, s.ok(promoter, "deploy", "returns", "v456", environment, "--reason", "release 47"), v456)
	}
	require.Contains(t, s.ok(promoter, "status", "returns"), "v456")
	require.Contains(t, s.ok(promoter, "history", "returns"), "release 47")

	t.Run("deployer", func(t *testing.T) { deploys(t, s, deployer, v456, v457) })
	t.Run("verify", func(t *testing.T) {
		out := s.ok(deployer, "verify", ref, "--environment", "production")
		require.Contains(t, out, "is in the tree of the checkpoint")
		_, stderr, code := s.waybill(promoter, "verify", "shop/returns@"+v457, "--environment", "production")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "production")
	})
	t.Run("audit", func(t *testing.T) { require.Contains(t, s.ok(admin, "audit"), "ok") })
	t.Run("rollback", func(t *testing.T) {
		s.signed(pusher, "shop/returns@"+v457)
		for _, environment := range []string{"dev", "staging", "production"} {
			s.ok(promoter, "promote", "returns", v457, environment)
		}
		require.Contains(t, s.ok(promoter, "rollback", "returns", "production"), v456)
		require.Equal(t, v456, s.current(deployer, "shop/returns:production"))
	})
	t.Run("recall", func(t *testing.T) {
		s.ok(promoter, "recall", "shop/returns@"+v456, "--reason", "CVE-2024-24790")
		status, body := s.get(deployer, "/v2/shop/returns/manifests/"+v456)
		require.Equal(t, 403, status, body)
		require.Contains(t, body, "CVE-2024-24790")
		_, stderr, code := s.waybill(promoter, "promote", "returns", v456, "dev")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "recalled")
		require.Contains(t, s.ok(admin, "audit"), "ok")
	})
}

// deploys: a deployer of production pulls what is promoted there, and nothing else, and sees no more than that.
func deploys(t *testing.T, s *waybillServer, deployer, promoted, other string) {
	require.Equal(t, promoted, s.current(deployer, "shop/returns:production"))
	require.Equal(t, promoted, s.current(deployer, "shop/returns@"+promoted))
	ref, err := name.ParseReference(s.host + "/shop/returns@" + promoted)
	require.NoError(t, err)
	img, err := remote.Image(ref, s.auth(deployer))
	require.NoError(t, err)
	layers, err := img.Layers()
	require.NoError(t, err)
	for _, l := range layers {
		r, err := l.Compressed()
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(t, err)
	}

	status, body := s.get(deployer, "/v2/shop/returns/manifests/"+other)
	require.Equal(t, 403, status)
	require.Contains(t, body, "DENIED")
	require.Contains(t, body, "production")
	status, unpromoted := s.get(deployer, "/v2/shop/returns/manifests/v457")
	require.Equal(t, 403, status)
	require.NotContains(t, unpromoted, other, "where a tag stands is not a deployer's business")
	status, absent := s.get(deployer, "/v2/shop/returns/manifests/v999")
	require.Equal(t, 403, status)
	require.Equal(t, strings.ReplaceAll(unpromoted, "v457", "v999"), absent, "nor is whether it exists")
	for _, blob := range blobsOf(t, s, other) {
		status, body := s.get(deployer, "/v2/shop/returns/blobs/"+blob)
		require.Equal(t, 403, status, body)
	}
	status, body = s.get(deployer, "/v2/shop/returns/tags/list")
	require.Equal(t, 200, status)
	require.NotContains(t, body, "v457")
	require.Contains(t, body, "production")
	_, body = s.get(deployer, "/v2/shop/returns/referrers/"+other)
	require.NotContains(t, body, `"digest"`)
	_, body = s.get(deployer, "/v2/shop/returns/referrers/"+promoted)
	require.Contains(t, body, `"digest"`)
	// cosign's tag of the promoted digest follows it.
	status, body = s.get(deployer, "/v2/shop/returns/manifests/"+strings.Replace(promoted, ":", "-", 1)+".sig")
	require.Equal(t, 200, status, body)
	status, _ = s.get(deployer, "/api/v1/show?ref=shop/returns@"+other)
	require.Equal(t, 403, status)
	require.Error(t, s.push(deployer, "shop/returns:mine", configured(t, "1", files(t, map[string]string{"x": "y"}))))
	stdout, _, code := s.waybill(deployer, "promote", "returns", "v457", "production")
	require.Equal(t, 1, code, stdout)
}

// current returns the digest that a reference resolves to for a token.
func (s *waybillServer) current(token, ref string) string {
	s.t.Helper()
	parsed, err := name.ParseReference(s.host + "/" + ref)
	require.NoError(s.t, err)
	d, err := remote.Get(parsed, s.auth(token))
	require.NoError(s.t, err)
	return d.Digest.String()
}

// signed waits until Waybill has signed a digest.
func (s *waybillServer) signed(token, ref string) {
	s.t.Helper()
	repository, digest, _ := strings.Cut(ref, "@")
	s.await("the signature of "+ref, func() bool {
		status, _ := s.get(token, "/v2/"+repository+"/manifests/"+strings.Replace(digest, ":", "-", 1)+".sig")
		return status == 200
	})
}

func blobsOf(t *testing.T, s *waybillServer, digest string) []string {
	t.Helper()
	_, body := s.get(s.admin(), "/v2/shop/returns/manifests/"+digest)
	var m artifact.Manifest
	require.NoError(t, json.Unmarshal([]byte(body), &m))
	var blobs []string
	for _, d := range m.Blobs() {
		blobs = append(blobs, d.Digest.String())
	}
	require.NotEmpty(t, blobs)
	return blobs
}

// TestIndex: an index is allowed when each of its images is, and its children follow its promotion.
func TestIndex(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	deployer := s.token("--role", "deployer", "--environment", "dev")
	good := configured(t, "1000", files(t, map[string]string{"a": "1"}))
	bad := configured(t, "root", files(t, map[string]string{"a": "2"}))

	mixed := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: good}, mutate.IndexAddendum{Add: bad})
	ref, err := name.ParseReference(s.host + "/shop/multi:mixed")
	require.NoError(t, err)
	err = remote.WriteIndex(ref, mixed, s.auth(pusher))
	require.ErrorContains(t, err, "no-root-user")

	ref, err = name.ParseReference(s.host + "/shop/multi:v1")
	require.NoError(t, err)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: good})
	require.NoError(t, remote.WriteIndex(ref, index, s.auth(pusher)))
	digest, err := index.Digest()
	require.NoError(t, err)
	s.signed(pusher, "shop/multi@"+digest.String())
	child, err := good.Digest()
	require.NoError(t, err)
	status, _ := s.get(deployer, "/v2/shop/multi/manifests/"+child.String())
	require.Equal(t, 403, status)
	s.ok(promoter, "promote", "multi", "v1", "dev")
	require.Equal(t, child.String(), s.current(deployer, "shop/multi@"+child.String()))
}

// TestBuildOnce: the same folder gives the same digest, and a second request does not build.
func TestBuildOnce(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	example := filepath.Join(root, "examples/returns")
	last := func(out string) string {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		return lines[len(lines)-1]
	}
	first := last(s.ok(pusher, "build", "-t", "shop/returns:v456", example))
	require.Regexp(t, `^shop/returns@sha256:[0-9a-f]{64}$`, first)
	stdout, stderr, code := s.waybill(pusher, "build", "-t", "shop/returns:v456", example)
	require.Zero(t, code, stderr)
	require.Equal(t, first, last(stdout))
	require.Regexp(t, regexp.MustCompile(`(?i)built before|already built`), stdout+stderr)

	// Another machine: another server, another copy of the folder.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	must(t, "cp", "-r", example, elsewhere)
	other := serve(t)
	require.Equal(t, first, last(other.ok(other.token("--role", "pusher"), "build", "-t", "shop/returns:v456", elsewhere)))

	s.signed(pusher, first)
	s.await("the provenance", func() bool {
		_, body := s.get(pusher, "/v2/shop/returns/referrers/"+strings.TrimPrefix(first, "shop/returns@"))
		return strings.Contains(body, "slsa.dev/provenance/v1")
	})
	key := filepath.Join(t.TempDir(), "waybill.pub")
	require.NoError(t, os.WriteFile(key, []byte(s.ok(pusher, "key", "public")), 0o600))
	out, errs, code := command(t, "", []string{"DOCKER_CONFIG=" + s.dockerConfig(pusher)}, "cosign", "verify-attestation", "--key", key, "--type", "slsaprovenance1",
		"--insecure-ignore-tlog=true", "--allow-http-registry", s.host+"/"+first)
	require.Zero(t, code, out+errs)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nRUN echo x\n"), 0o600))
	_, stderr, code = s.waybill(pusher, "build", "-t", "shop/x:v1", dir)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "RUN")
	require.Contains(t, stderr, "2")
}

// TestImmutableTag: a tag stays where it was first pushed, and an environment's name is not anybody's to push.
func TestImmutableTag(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	one, two := configured(t, "1", files(t, map[string]string{"a": "1"})), configured(t, "1", files(t, map[string]string{"a": "2"}))
	s.pushed(pusher, "shop/a:v1", one)
	s.pushed(pusher, "shop/a:v1", one)
	require.ErrorContains(t, s.push(pusher, "shop/a:v1", two), "v1")
	s.pushed(pusher, "shop/a:latest", one)
	s.pushed(pusher, "shop/a:latest", two)
	require.ErrorContains(t, s.push(pusher, "shop/a:production", two), "promotion")
}

// TestNoAdvisories: without a database a scan is pending, never clean.
func TestNoAdvisories(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	img, err := random.Image(1024, 1)
	require.NoError(t, err)
	require.Error(t, s.push(pusher, "shop/random:v1", img), "a layer that is no file system")
	s.pushed(pusher, "shop/a:v1", configured(t, "1", files(t, map[string]string{"a": "1"})))
	var scan artifact.Scan
	s.json(pusher, &scan, "scan", "shop/a:v1")
	require.Equal(t, artifact.ScanPending, scan.State)
	require.Contains(t, scan.Reason, "no advisory database")

	// Once there is one, what is here is scanned by it, and what comes is scanned by the time that its push is answered.
	s.ok(s.admin(), "db", "import", advisories(t))
	s.pushed(pusher, "shop/b:v1", configured(t, "1", files(t, map[string]string{"b": "1"})))
	s.json(pusher, &scan, "scan", "shop/b:v1")
	require.Equal(t, artifact.Scanned, scan.State)
	s.await("the scan of what was here", func() bool {
		s.json(pusher, &scan, "scan", "shop/a:v1")
		return scan.State == artifact.Scanned
	})
}

// advisories is the real vulnerability database that the repository ships for its tests and its demo.
func advisories(t *testing.T) string {
	t.Helper()
	path := filepath.Join(root, "examples/advisories/db.tar.gz")
	require.FileExists(t, path)
	return path
}
