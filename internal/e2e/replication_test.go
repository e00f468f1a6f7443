package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// replications returns the state of the copies to a target, by environment.
func (s *waybillServer) replications(token, target string) map[string]artifact.Replication {
	var out server.ReplicationList
	s.json(token, &out, "replication", "status", "returns")
	found := map[string]artifact.Replication{}
	for _, r := range out.Replications {
		if r.Target == target {
			found[r.Environment.String()] = r
		}
	}
	return found
}

// TestReplication: what is promoted arrives at two other registries, one of which is away at first and one of which is
// a Waybill that judges and signs for itself; with its signature, which cosign verifies there, and its SBOM.
func TestReplication(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	away.Store(true)
	plain := gcrregistry.New(gcrregistry.WithReferrersSupport(true), gcrregistry.Logger(log.New(io.Discard, "", 0)))
	edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		plain.ServeHTTP(w, r)
	}))
	defer edge.Close()
	second := serve(t)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte(second.token("--role", "pusher", "--repository", "from/**")), 0o600))

	s := serve(t, "--config", config(t, fmt.Sprintf(`replication:
  - {name: edge, url: %q, insecure: true, repositories: [shop/**], environments: [dev, staging]}
  - {name: second, url: %q, insecure: true, repositories: [shop/returns], environments: [dev], prefix: from/first, username: x, passwordFile: %s}
`, edge.URL, second.url, password)))
	admin, pusher := s.admin(), s.token("--role", "pusher")
	s.ok(admin, "db", "import", advisories(t)) // an SBOM comes with a scan
	digest := s.pushed(pusher, "shop/returns:v1", configured(t, "1000", files(t, map[string]string{"app": "v1"})))
	s.pushed(pusher, "shop/returns:v2", configured(t, "1000", files(t, map[string]string{"app": "v2"})))
	s.signed(pusher, "shop/returns@"+digest)
	s.ok(admin, "promote", "returns", "v1", "dev")
	s.await("a failed attempt that says why", func() bool {
		r := s.replications(pusher, "edge")["dev"]
		return r.State == artifact.ReplicationFailed && strings.Contains(r.Problem, "edge ("+edge.URL+")") && strings.Contains(r.Problem, "503")
	})
	s.await("the copy to the one that is there", func() bool { return s.replications(pusher, "second")["dev"].State == artifact.ReplicationCopied })
	away.Store(false)
	s.await("the copy to the one that was away", func() bool { return s.replications(pusher, "edge")["dev"].State == artifact.ReplicationCopied })
	require.NotContains(t, s.replications(pusher, "edge"), "staging")
	require.Contains(t, s.ok(pusher, "replication", "status"), "copied")

	key := filepath.Join(t.TempDir(), "waybill.pub")
	require.NoError(t, os.WriteFile(key, []byte(s.ok(pusher, "key", "public")), 0o600))
	for where, at := range map[string]struct {
		repository, host string
		options          []remote.Option
		docker           string
	}{
		"edge":   {"shop/returns", strings.TrimPrefix(edge.URL, "http://"), nil, t.TempDir()},
		"second": {"from/first/shop/returns", second.host, []remote.Option{second.auth(second.admin())}, second.dockerConfig(second.admin())},
	} {
		t.Run(where, func(t *testing.T) {
			ref, err := name.ParseReference(at.host + "/" + at.repository + ":v1")
			require.NoError(t, err)
			got, err := remote.Head(ref, at.options...)
			require.NoError(t, err)
			require.Equal(t, digest, got.Digest.String())
			s.await("the SBOM", func() bool {
				index, err := remote.Referrers(ref.Context().Digest(digest), at.options...)
				require.NoError(t, err)
				m, err := index.IndexManifest()
				require.NoError(t, err)
				return slices.ContainsFunc(m.Manifests, func(d v1.Descriptor) bool {
					sbom, err := remote.Get(ref.Context().Digest(d.Digest.String()), at.options...)
					require.NoError(t, err)
					return strings.Contains(string(sbom.Manifest), `"artifactType":"application/vnd.cyclonedx+json"`)
				})
			})
			signatures, err := remote.Image(ref.Context().Tag(strings.Replace(digest, ":", "-", 1)+".sig"), at.options...)
			require.NoError(t, err)
			layers, err := signatures.Layers()
			require.NoError(t, err)
			require.NotEmpty(t, layers)
			out, errs, code := command(t, "", []string{"DOCKER_CONFIG=" + at.docker}, "cosign", "verify", "--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry", at.host+"/"+at.repository+"@"+digest)
			require.Zero(t, code, out+errs)
		})
	}
	environment, err := name.ParseReference(strings.TrimPrefix(edge.URL, "http://") + "/shop/returns:dev")
	require.NoError(t, err)
	stands := func() string {
		d, err := remote.Head(environment)
		require.NoError(t, err)
		return d.Digest.String()
	}
	require.Equal(t, digest, stands())
	require.Contains(t, s.replications(pusher, "second")["dev"].Problem, "keeps the tag dev to itself", "only a promotion there moves it")
	_, err = remote.Head(environment.Context().Tag("v2"))
	require.Error(t, err, "what is not promoted stays here")

	// Signed there as well, by its own key: both signatures are at the tag.
	second.signed(second.admin(), "from/first/shop/returns@"+digest)
	own := filepath.Join(t.TempDir(), "second.pub")
	require.NoError(t, os.WriteFile(own, []byte(second.ok(second.admin(), "key", "public")), 0o600))
	s.await("the second's own signature", func() bool {
		_, _, code := command(t, "", []string{"DOCKER_CONFIG=" + second.dockerConfig(second.admin())}, "cosign", "verify", "--key", own, "--insecure-ignore-tlog=true", "--allow-http-registry",
			second.host+"/from/first/shop/returns@"+digest)
		return code == 0
	})

	// The next promotion moves the name, a rollback moves it back.
	s.await("v2", func() bool {
		_, _, code := s.waybill(admin, "promote", "returns", "v2", "dev") // it may not be signed yet
		return code == 0
	})
	s.await("the name to move", func() bool { return stands() != digest })
	s.ok(admin, "rollback", "returns", "dev", "--reason", "slow")
	s.await("the name to move back", func() bool { return stands() == digest })
	require.Contains(t, s.ok(admin, "audit"), "ok")
}
