package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// artifactOf is an OCI artifact of one layer.
func artifactOf(t testing.TB, artifactType, mediaType string, content []byte) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(artifactType))
	image, err := mutate.Append(image, mutate.Addendum{Layer: static.NewLayer(content, types.MediaType(mediaType))})
	require.NoError(t, err)
	return image
}

// TestAdvisoriesFromOurselves: without a way out, the database is an artifact of this registry, pulled only when it is
// signed by the key that is configured; it is matched with what is here, and `waybill cve` says where that runs.
func TestAdvisoriesFromOurselves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, errs, code := command(t, dir, []string{"COSIGN_PASSWORD="}, "cosign", "generate-key-pair")
	require.Zero(t, code, errs)
	config := filepath.Join(dir, "waybill.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "advisories: {key: %s}\nvex: {pushers: [\"token:security/*\"]}\n", filepath.Join(dir, "cosign.pub")), 0o600))
	s := serve(t, "--config", config)
	admin := s.admin()
	promoter := s.token("--role", "promoter")

	digest := s.pushed(admin, "shop/old:v1", configured(t, "65532", files(t, map[string]string{"usr/local/bin/old": goProgram(t, "go1.22.3")})))
	ref := "shop/old@" + digest
	s.signed(admin, ref)
	s.ok(promoter, "promote", "old", "v1", "dev")
	require.Contains(t, s.ok(admin, "cve", "CVE-2024-24790"), "no advisory database")

	archive, err := os.ReadFile(advisories(t))
	require.NoError(t, err)
	database := s.pushed(admin, "security/trivy-db:2", artifactOf(t, "application/vnd.aquasec.trivy.config.v1+json", "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip", archive))
	_, stderr, code := s.waybill(admin, "db", "pull", "security/trivy-db:2")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "signature")
	require.Contains(t, s.ok(admin, "db", "status"), "failed: ")
	sign := func(key, ref string) {
		t.Helper()
		_, errs, code := command(t, dir, []string{"COSIGN_PASSWORD=", "DOCKER_CONFIG=" + s.dockerConfig(admin)}, "cosign", "sign", "--yes", "--key", key+".key", "--tlog-upload=false",
			"--allow-http-registry", s.host+"/"+ref)
		require.Zero(t, code, errs)
	}
	refused := func(why string) {
		t.Helper()
		_, stderr, code := s.waybill(admin, "db", "pull", "security/trivy-db:2")
		require.Equal(t, 1, code, why)
		require.Contains(t, stderr, "is not signed by advisories.key", why)
		require.Contains(t, s.ok(admin, "db", "status"), "no advisory database", why)
	}
	_, errs, code = command(t, dir, []string{"COSIGN_PASSWORD="}, "cosign", "generate-key-pair", "--output-key-prefix", "stranger")
	require.Zero(t, code, errs)
	sign("stranger", "security/trivy-db@"+database)
	refused("by a stranger's key")
	older := s.pushed(admin, "security/trivy-db:1", artifactOf(t, "application/vnd.aquasec.trivy.config.v1+json", "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip", archive[1:]))
	sign("cosign", "security/trivy-db@"+older)
	copied, err := remote.Image(s.reference(cosignTag("security/trivy-db:1", older)), s.auth(admin))
	require.NoError(t, err)
	require.NoError(t, s.push(admin, cosignTag("security/trivy-db:2", database), copied))
	refused("by the signature of another")
	sign("cosign", "security/trivy-db@"+database)
	require.Contains(t, s.ok(admin, "db", "pull", "security/trivy-db:2"), "went well")
	s.pushed(admin, "security/other:1", artifactOf(t, "application/vnd.example", "application/vnd.example", []byte("{}")))
	_, stderr, code = s.waybill(admin, "db", "pull", "security/other:1")
	require.Equal(t, 1, code, stderr)

	t.Run("another server pulls it by itself", func(t *testing.T) {
		password := filepath.Join(dir, "password")
		require.NoError(t, os.WriteFile(password, []byte(s.token("--role", "reader", "--repository", "security/**")), 0o600))
		config := filepath.Join(dir, "other.yaml")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "advisories: {source: \"%s/security/trivy-db:2\", insecure: true, username: x, passwordFile: %s, key: %s}\n",
			s.host, password, filepath.Join(dir, "cosign.pub")), 0o600))
		other := serve(t, "--config", config)
		var status server.AdvisoryStatus
		other.await("the database", func() bool {
			other.json(other.admin(), &status, "db", "status")
			return status.Present
		})
		require.Equal(t, artifact.System.Name, status.Database.ImportedBy)
		other.await("the attempt's record", func() bool {
			other.json(other.admin(), &status, "db", "status")
			return status.LastPull != nil
		})
		require.Empty(t, status.LastPull.Problem)
	})

	var page server.AffectedPage
	s.await("the match with the new database", func() bool {
		s.json(admin, &page, "cve", "CVE-2024-24790")
		return len(page.Affected) == 1
	})
	a := page.Affected[0]
	require.Equal(t, digest, a.Digest.String())
	require.Equal(t, "v1", a.Tags[0].String())
	require.Equal(t, "dev", a.RunsIn[0].Environment.String())
	require.False(t, a.PromotedAt.IsZero())
	require.Equal(t, "stdlib", a.Findings[0].Package)
	require.Contains(t, s.ok(promoter, "cve", "CVE-2024-24790"), "dev since")

	t.Run("SBOMs", func(t *testing.T) {
		for format, mark := range map[string]string{"cyclonedx": `"bomFormat"`, "spdx": `"spdxVersion"`} {
			document := s.ok(promoter, "sbom", "shop/old:v1", "--format", format)
			require.True(t, json.Valid([]byte(document)))
			require.Contains(t, document, mark)
			require.Contains(t, document, "stdlib")
			_, referrers := s.get(admin, "/v2/shop/old/referrers/"+digest)
			found := false
			for _, d := range referrersOf(t, referrers) {
				_, body := s.get(admin, "/v2/shop/old/manifests/"+d)
				found = found || strings.Contains(body, artifact.DigestOf([]byte(document)).String())
			}
			require.True(t, found, "%s is what the referrer has", format)
		}
	})
	t.Run("VEX", func(t *testing.T) {
		vex := fmt.Appendf(nil, `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.com/1","author":"Ada","timestamp":"2026-10-01T12:00:00Z","version":1,"statements":[
			{"vulnerability":{"name":"CVE-2024-24790"},"products":[{"@id":%q}],"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"}]}`, digest)
		subject, err := remote.Head(s.reference(ref), s.auth(admin))
		require.NoError(t, err)
		attach := func(token, tag string) {
			document, ok := mutate.Subject(artifactOf(t, "application/vnd.openvex+json", "application/vnd.openvex+json", append(vex, tag...)), *subject).(v1.Image)
			require.True(t, ok)
			d, err := document.Digest()
			require.NoError(t, err)
			require.NoError(t, remote.Write(s.reference("shop/old@"+d.String()), document, s.auth(token)))
		}
		assessed := func() *artifact.Assessment {
			var scan artifact.Scan
			s.json(admin, &scan, "scan", ref)
			for _, f := range scan.Findings {
				if f.ID == "CVE-2024-24790" {
					return f.VEX
				}
			}
			t.Fatal("the finding is gone")
			return nil
		}
		attach(s.token("--role", "pusher", "--name", "ci"), " ")
		require.Nil(t, assessed(), "whoever may push cannot say that a finding is none")
		attach(s.token("--role", "pusher", "--name", "security"), "")
		require.Equal(t, "not_affected", assessed().Status)
		require.Contains(t, assessed().AttachedBy, "token:security/")
	})
}

func (s *waybillServer) reference(ref string) name.Reference {
	s.t.Helper()
	parsed, err := name.ParseReference(s.host + "/" + ref)
	require.NoError(s.t, err)
	return parsed
}

func referrersOf(t testing.TB, index string) (digests []string) {
	t.Helper()
	var parsed struct{ Manifests []struct{ Digest string } }
	require.NoError(t, json.Unmarshal([]byte(index), &parsed))
	for _, m := range parsed.Manifests {
		digests = append(digests, m.Digest)
	}
	return digests
}
