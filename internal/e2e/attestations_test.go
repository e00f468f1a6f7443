package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

const (
	bomPredicate        = "https://cyclonedx.org/bom"
	spdxPredicate       = "https://spdx.dev/Document"
	vulnPredicate       = "https://cosign.sigstore.dev/attestation/vuln/v1"
	provenancePredicate = "https://slsa.dev/provenance/v1"
	summaryPredicate    = "https://slsa.dev/verification_summary/v1"
)

// cosignTypes are cosign's own names of predicate types.
var cosignTypes = map[string]string{bomPredicate: "cyclonedx", spdxPredicate: "spdxjson", vulnPredicate: "vuln", provenancePredicate: "slsaprovenance1", summaryPredicate: summaryPredicate}

// cosigns are both of cosign's programs that are in use.
func cosigns() map[string]string {
	return map[string]string{"2": "cosign", "3": filepath.Join(root, "internal/tools/bin/v3/cosign")}
}

// attestedTypes returns the types of what Waybill signed about a digest, with what each is for.
func (s *waybillServer) attestedTypes(token, ref string) (types []string) {
	s.t.Helper()
	var out server.AttestationList
	s.json(token, &out, "attestations", ref)
	for _, a := range out.Attestations {
		if a.KeyID != "" {
			types = append(types, strings.TrimSpace(a.PredicateType+" "+a.Name))
		}
	}
	slices.Sort(types)
	return types
}

// checked verifies a reference's signature and attestations by a key, offline, with one of cosign's programs, and returns
// the predicates by type.
func checked(t *testing.T, cosign, key, docker, ref string, types []string) map[string][]map[string]any {
	t.Helper()
	env := []string{"DOCKER_CONFIG=" + docker, "HOME=" + t.TempDir()}
	out, errs, code := command(t, "", env, cosign, "verify", "--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry", ref)
	require.Zero(t, code, "%s verify %s: %s%s", cosign, ref, out, errs)
	predicates := map[string][]map[string]any{}
	for _, predicateType := range types {
		out, errs, code := command(t, "", env, cosign, "verify-attestation", "--key", key, "--type", cosignTypes[predicateType], "--insecure-ignore-tlog=true", "--allow-http-registry", ref)
		require.Zero(t, code, "%s verify-attestation --type %s %s: %s", cosign, cosignTypes[predicateType], ref, errs)
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			var envelope struct{ Payload string }
			require.NoError(t, json.Unmarshal([]byte(line), &envelope), line)
			payload, err := base64.StdEncoding.DecodeString(envelope.Payload)
			require.NoError(t, err)
			var statement struct {
				PredicateType string         `json:"predicateType"`
				Predicate     map[string]any `json:"predicate"`
			}
			require.NoError(t, json.Unmarshal(payload, &statement))
			require.Equal(t, predicateType, statement.PredicateType)
			predicates[predicateType] = append(predicates[predicateType], statement.Predicate)
		}
	}
	return predicates
}

// TestAttestations: what is built, an image and an index with each of its images have all that is attested, and both
// of cosign's programs verify that by key, offline: here, in a registry that it was replicated to, and in one that somebody
// copied it to.
func TestAttestations(t *testing.T) {
	t.Parallel()
	plain := func() string {
		r := httptest.NewServer(gcrregistry.New(gcrregistry.WithReferrersSupport(true), gcrregistry.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(r.Close)
		return strings.TrimPrefix(r.URL, "http://")
	}
	edge, copied := plain(), plain()
	s := serve(t, "--config", config(t, fmt.Sprintf("replication:\n  - {name: edge, url: %q, insecure: true, repositories: [shop/**], environments: [dev]}\n", "http://"+edge)))
	admin, pusher := s.admin(), s.token("--role", "pusher")
	stdout := s.ok(pusher, "build", "-t", "shop/returns:v1", "--source", "https://git.example.com/shop", "--commit", strings.Repeat("0123456789", 4), filepath.Join(root, "examples/returns"))
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	built := lines[len(lines)-1]
	always := []string{vulnPredicate, bomPredicate, spdxPredicate}

	// Scanned when there is a database, attested when it is scanned.
	s.await("SBOMs", func() bool { return slices.Contains(s.attestedTypes(pusher, built), spdxPredicate) })
	require.Equal(t, []string{bomPredicate, provenancePredicate, spdxPredicate}, s.attestedTypes(pusher, built))
	s.ok(admin, "db", "import", advisories(t))
	s.await("the scan of what was built", func() bool { return slices.Contains(s.attestedTypes(pusher, built), vulnPredicate) })

	images := []v1.Image{configured(t, "1000", files(t, map[string]string{"app": "amd64"})), configured(t, "1000", files(t, map[string]string{"app": "arm64"}))}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: images[0], Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: images[1], Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	ref, err := name.ParseReference(s.host + "/shop/multi:v1")
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(ref, index, s.auth(pusher)))
	digestOf := func(d v1.Hash, err error) string {
		require.NoError(t, err)
		return "shop/multi@" + d.String()
	}
	multi := []string{digestOf(index.Digest()), digestOf(images[0].Digest()), digestOf(images[1].Digest())}
	for _, ref := range multi {
		s.await("all of "+ref, func() bool { return slices.Equal(always, s.attestedTypes(pusher, ref)) })
	}
	s.ok(admin, "promote", "returns", "v1", "dev")
	s.ok(admin, "promote", "multi", "v1", "dev")
	_, digest, _ := strings.Cut(built, "@")
	for _, ref := range []string{built, multi[0]} {
		s.await("the summary of "+ref, func() bool { return slices.Contains(s.attestedTypes(pusher, ref), summaryPredicate+" dev") })
	}

	key := filepath.Join(t.TempDir(), "waybill.pub")
	require.NoError(t, os.WriteFile(key, []byte(s.ok(pusher, "key", "public")), 0o600))
	docker := s.dockerConfig(s.token("--role", "deployer", "--environment", "dev"))
	for version, cosign := range cosigns() {
		t.Run("cosign "+version, func(t *testing.T) {
			found := checked(t, cosign, key, docker, s.host+"/"+built, append([]string{provenancePredicate, summaryPredicate}, always...))
			for predicateType, all := range found {
				require.Len(t, all, 1, predicateType)
			}
			require.Equal(t, "dev", found[summaryPredicate][0]["environment"])
			require.Equal(t, "PASSED", found[summaryPredicate][0]["verificationResult"])
			require.Equal(t, []any{"SLSA_BUILD_LEVEL_2"}, found[summaryPredicate][0]["verifiedLevels"])
			require.Len(t, found[summaryPredicate][0]["inputAttestations"], 5, "the signature, two SBOMs, the scan, the provenance")
			require.NotEmpty(t, found[bomPredicate][0]["components"])
			require.Contains(t, fmt.Sprint(found[provenancePredicate][0]["buildDefinition"]), strings.Repeat("0123456789", 4))
			require.Contains(t, fmt.Sprint(found[vulnPredicate][0]["scanner"]), "Vulnerabilities")

			found = checked(t, cosign, key, docker, s.host+"/"+multi[0], append([]string{summaryPredicate}, always...))
			require.Len(t, found[bomPredicate][0]["components"], 2)
			require.Equal(t, []any{"SLSA_BUILD_LEVEL_UNEVALUATED"}, found[summaryPredicate][0]["verifiedLevels"])
			for _, ref := range multi[1:] {
				checked(t, cosign, key, docker, s.host+"/"+ref, always)
			}
		})
	}

	// Whoever copies an image with what belongs to it, copies that too.
	s.await("the copies", func() bool {
		for _, service := range []string{"returns", "multi"} {
			var out server.ReplicationList
			s.json(admin, &out, "replication", "status", service)
			if len(out.Replications) != 1 || out.Replications[0].State != artifact.ReplicationCopied {
				return false
			}
		}
		return true
	})
	regctl := filepath.Join(t.TempDir(), "regctl.json")
	require.NoError(t, os.WriteFile(regctl, fmt.Appendf(nil, `{"hosts":{%q:{"tls":"disabled","user":"x","pass":%q},%q:{"tls":"disabled"}}}`, s.host, pusher, copied), 0o600))
	for _, ref := range []string{built, multi[0]} {
		out, errs, code := command(t, "", []string{"REGCTL_CONFIG=" + regctl}, "regctl", "image", "copy", "--referrers", "--digest-tags", "--force-recursive", s.host+"/"+ref, copied+"/"+ref)
		require.Zero(t, code, out+errs)
	}
	for where, host := range map[string]string{"replicated": edge, "copied": copied} {
		t.Run(where, func(t *testing.T) {
			for _, cosign := range cosigns() {
				checked(t, cosign, key, t.TempDir(), host+"/"+built, []string{bomPredicate, provenancePredicate})
				checked(t, cosign, key, t.TempDir(), host+"/"+multi[0], []string{vulnPredicate, summaryPredicate})
				checked(t, cosign, key, t.TempDir(), host+"/"+multi[1], []string{spdxPredicate})
			}
		})
	}

	// Promoted to one environment again, there is one summary still, of the last promotion.
	other := configured(t, "1000", files(t, map[string]string{"app": "v3"}))
	d := s.pushed(pusher, "shop/returns:v3", other)
	s.signed(pusher, "shop/returns@"+d)
	s.ok(admin, "promote", "returns", "v3", "dev")
	s.ok(admin, "rollback", "returns", "dev")
	s.await("the newer summary", func() bool {
		found := checked(t, "cosign", key, docker, s.host+"/"+built, []string{summaryPredicate})[summaryPredicate]
		require.Len(t, found, 1)
		return found[0]["promotion"].(map[string]any)["action"] == "rollback"
	})
	s.await("the removal of the older summary", func() bool {
		return len(s.referrers(pusher, "shop/returns", digest, "application/vnd.in-toto+json")) == 5
	})

	// What is said of it.
	said := s.ok(pusher, "provenance", "shop/returns:v1")
	require.Contains(t, said, built+" was built by https://waybill.dev/builder/native")
	require.Contains(t, said, "from https://git.example.com/shop at commit 0123456789")
	require.Contains(t, s.ok(pusher, "provenance", "--json", "shop/returns:v1"), `"_type": "https://in-toto.io/Statement/v1"`)
	_, errs, code := s.waybill(pusher, "provenance", multi[1])
	require.Equal(t, 1, code)
	require.Contains(t, errs, "not built here")
	require.Contains(t, s.ok(pusher, "attestations", "shop/multi:v1"), "waybill ")

	file := filepath.Join(t.TempDir(), "export.tar.gz")
	s.ok(admin, "export", multi[0], "-o", file)
	s.ok(admin, "verify", "--export", file, "--key", key)
	require.Len(t, slices.DeleteFunc(names(t, file), func(n string) bool { return !strings.Contains(n, "/attestations/") }), 4)
}

// names returns the files of an archive.
func names(t *testing.T, archive string) (all []string) {
	t.Helper()
	f, err := os.Open(archive)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, h.Name)
	}
}
