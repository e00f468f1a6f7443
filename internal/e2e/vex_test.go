package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// scanEvents is a webhook that keeps what it is told of scans.
type scanEvents struct {
	mu  sync.Mutex
	all []artifact.ScanEvent
}

func (s *scanEvents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Type string
		Data artifact.ScanEvent
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, &event) != nil || event.Type != "dev.waybill.scan" {
		http.Error(w, "no scan", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, event.Data)
}

func (s *scanEvents) of(digest string) (found []artifact.ScanEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		if e.Digest.String() == digest {
			found = append(found, e)
		}
	}
	return found
}

// TestSignedVEX: what a trusted key attests of a finding counts with its signer, at cosign's tag and as a referrer, and
// has the image judged again when it comes and when it goes; a webhook is told of the scan.
func TestSignedVEX(t *testing.T) {
	t.Parallel()
	const cve = "CVE-2024-24790"
	dir := t.TempDir()
	for _, name := range []string{"security", "stranger"} {
		_, errs, code := command(t, dir, []string{"COSIGN_PASSWORD="}, "cosign", "generate-key-pair", "--output-key-prefix", name)
		require.Zero(t, code, errs)
	}
	told := &scanEvents{}
	receiver := httptest.NewServer(told)
	t.Cleanup(receiver.Close)
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="), 0o600))
	config := filepath.Join(dir, "waybill.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "vex: {keys: [%s]}\nwebhooks:\n  - {name: security, url: \"%s/\", events: [scan], secretFile: %s}\n",
		filepath.Join(dir, "security.pub"), receiver.URL, secret), 0o600))
	s := serve(t, "--config", config)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	digest := s.pushed(pusher, "shop/old:v1", configured(t, "65532", files(t, map[string]string{"usr/local/bin/old": goProgram(t, "go1.22.3")})))
	ref := "shop/old@" + digest
	s.signed(admin, ref)
	s.ok(admin, "promote", "old", "v1", "dev")
	require.Empty(t, told.of(digest), "without a database nothing was scanned")
	s.ok(admin, "db", "import", advisories(t))
	s.await("a message about the first scan", func() bool { return len(told.of(digest)) == 1 })
	event := told.of(digest)[0]
	require.True(t, event.First)
	require.Positive(t, event.Counts[artifact.Critical])
	require.Equal(t, "shop/old", event.Repositories[0].String())
	require.False(t, event.DatabaseUpdatedAt.IsZero())
	require.Contains(t, s.ok(admin, "webhooks", "deliveries"), "dev.waybill.scan")

	// Only this one vulnerability denies, so that a document about it decides.
	policy := filepath.Join(dir, "policy.yaml")
	require.NoError(t, os.WriteFile(policy, fmt.Appendf(nil, "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: [\"**\"]}\n  whenPromotedTurnsBad: alert\n  rules:\n"+
		"    - rule: expression\n      action: deny\n      with: {cel: \"!findings.exists(f, f.id == '%s' && !f.resolved)\", message: it has %s}\n", cve, cve), 0o600))
	s.ok(admin, "apply", "-f", policy)
	turned := func() bool { return strings.Contains(s.ok(admin, "status"), "turned bad") }
	s.await("the verdict that denies", turned)

	predicate := filepath.Join(dir, "returns.vex.json")
	say := func(status, at string) {
		require.NoError(t, os.WriteFile(predicate, fmt.Appendf(nil, `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.com/%s","author":"Ada","timestamp":"%s","version":1,"statements":[
			{"vulnerability":{"name":"%s"},"products":[{"@id":"%s"}],%s}]}`, at, at, cve, digest, status), 0o600))
	}
	say(`"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"`, "2026-10-01T12:00:00Z")
	attest := func(key string, more ...string) {
		t.Helper()
		args := append([]string{"attest", "--yes", "--key", key + ".key", "--type", "openvex", "--predicate", predicate, "--tlog-upload=false", "--allow-http-registry"}, more...)
		stdout, stderr, code := command(t, dir, []string{"COSIGN_PASSWORD=", "DOCKER_CONFIG=" + s.dockerConfig(pusher)}, "cosign", append(args, s.host+"/"+ref)...)
		require.Zero(t, code, stdout+stderr)
	}
	assessed := func() *artifact.Assessment {
		for _, f := range s.scanned(admin, ref).Findings {
			if f.ID == cve {
				return f.VEX
			}
		}
		t.Fatal("the finding is gone")
		return nil
	}
	remove := func(reference string) {
		t.Helper()
		stdout, stderr, code := command(t, "", []string{"DOCKER_CONFIG=" + s.dockerConfig(admin)}, "crane", "delete", "--insecure", s.host+"/shop/old"+reference)
		require.Zero(t, code, stdout+stderr)
	}

	attest("stranger")
	require.Nil(t, assessed(), "whoever may push cannot say that a finding is none")
	another := s.pushed(pusher, "shop/old:v2", configured(t, "65532", files(t, map[string]string{"a": "1"})))
	_, stderr, code := command(t, dir, []string{"COSIGN_PASSWORD=", "DOCKER_CONFIG=" + s.dockerConfig(pusher)}, "cosign", "attest", "--yes", "--key", "security.key", "--type", "openvex", "--predicate", predicate,
		"--tlog-upload=false", "--allow-http-registry", s.host+"/shop/old@"+another)
	require.Zero(t, code, stderr)
	copied, err := remote.Image(s.reference("shop/old:"+strings.Replace(another, ":", "-", 1)+".att"), s.auth(pusher))
	require.NoError(t, err)
	require.NoError(t, s.push(pusher, "shop/old:"+strings.Replace(digest, ":", "-", 1)+".att", copied))
	require.Nil(t, assessed(), "nor by what a trusted key attests of another image")
	attest("security")
	require.Equal(t, "not_affected", assessed().Status)
	require.NotEmpty(t, assessed().SignedBy)
	s.await("the verdict with the attestation", func() bool { return !turned() })
	remove(":" + strings.Replace(digest, ":", "-", 1) + ".att")
	s.await("the verdict without it", turned)
	require.Nil(t, assessed())

	attest("security", "--new-bundle-format", "--use-signing-config=false")
	require.Equal(t, "not_affected", assessed().Status)
	require.NotEmpty(t, assessed().SignedBy)
	s.await("the verdict with the referrer", func() bool { return !turned() })
	say(`"status":"affected","action_statement":"upgrade"`, "2026-10-02T12:00:00Z")
	attest("security", "--new-bundle-format", "--use-signing-config=false")
	require.Equal(t, "affected", assessed().Status, "the newest statement counts")
	s.await("the verdict with the newest statement", turned)
}
