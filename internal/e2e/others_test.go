package e2e

import (
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
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// byAnother is a policy of one rule that wants the signature of somebody who is not Waybill; more are further parameters.
func byAnother(t *testing.T, name, pattern, rule, more string) string {
	t.Helper()
	prefix, err := cosignKey()
	require.NoError(t, err)
	key, err := os.ReadFile(prefix + ".pub")
	require.NoError(t, err)
	return fmt.Sprintf("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: %s}\nspec:\n  match: {repositories: [%q]}\n  rules:\n    - rule: %s\n      action: deny\n      with:\n        keys: [%q]\n%s",
		name, pattern, rule, key, more)
}

// cosign runs cosign as somebody who is not Waybill.
func (s *waybillServer) cosign(token string, args ...string) {
	s.t.Helper()
	prefix, err := cosignKey()
	require.NoError(s.t, err)
	args = append([]string{args[0], "--yes", "--key", prefix + ".key", "--tlog-upload=false", "--allow-http-registry"}, args[1:]...)
	stdout, stderr, code := command(s.t, "", []string{"COSIGN_PASSWORD=", "DOCKER_CONFIG=" + s.dockerConfig(token)}, "cosign", args...)
	require.Zero(s.t, code, stdout+stderr)
}

// denied returns why a digest is not promoted.
func (s *waybillServer) denied(promoter, service, version string) string {
	s.t.Helper()
	_, stderr, code := s.waybill(promoter, "promote", service, version, "dev")
	require.NotZero(s.t, code)
	return stderr
}

// TestSignedByOthers: what somebody else has to sign is not promoted, nor signed by Waybill, until he did.
func TestSignedByOthers(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	stderr, code := s.apply(byAnother(t, "signed", "shop/**", "require-signature", ""))
	require.Zero(t, code, stderr)
	digest := s.pushed(pusher, "shop/x:v1", configured(t, "1000", files(t, map[string]string{"a": "1"})))
	var verdict artifact.VerdictRecord
	s.json(pusher, &verdict, "verdict", "shop/x:v1")
	require.Equal(t, artifact.Allow, verdict.Outcome)
	require.Len(t, verdict.Waiting(), 1)
	require.True(t, verdict.Waiting()[0].Signature)
	s.await("Waybill's decision not to sign", func() bool { return strings.Contains(s.log.String(), "not signed yet") })
	require.Contains(t, s.denied(promoter, "shop/x", "v1"), "it is not signed by key SHA256:")

	// A signature of another image, copied to where this one's belongs.
	other := s.pushed(pusher, "shop/y:v1", configured(t, "1000", files(t, map[string]string{"a": "2"})))
	s.cosign(pusher, "sign", s.host+"/shop/y@"+other)
	s.await("Waybill's signature of the other", func() bool { return s.signedHere(pusher, "shop/y", other) })
	s.ok(promoter, "promote", "shop/y", "v1", "dev")
	from, err := name.ParseReference(s.host + "/" + cosignTag("shop/y:v1", other))
	require.NoError(t, err)
	copied, err := remote.Image(from, s.auth(pusher))
	require.NoError(t, err)
	require.NoError(t, s.push(pusher, cosignTag("shop/x:v1", digest), copied))
	require.Contains(t, s.denied(promoter, "shop/x", "v1"), "it is a signature of another digest, "+other)
	require.False(t, s.signedHere(pusher, "shop/x", digest))

	s.cosign(pusher, "sign", s.host+"/shop/x@"+digest)
	s.await("Waybill's signature", func() bool { return s.signedHere(pusher, "shop/x", digest) })
	own := filepath.Join(t.TempDir(), "waybill.pub")
	require.NoError(t, os.WriteFile(own, []byte(s.ok(pusher, "key", "public")), 0o600))
	s.verify(pusher, own, "shop/x", digest)
	s.json(pusher, &verdict, "verdict", "shop/x:v1")
	require.Empty(t, verdict.Waiting())
	s.ok(promoter, "promote", "shop/x", "v1", "dev")

	// Where the rule goes, what waited for it is signed.
	third := s.pushed(pusher, "shop/z:v1", configured(t, "1000", files(t, map[string]string{"a": "3"})))
	require.Contains(t, s.denied(promoter, "shop/z", "v1"), "it is not signed by key")
	stderr, code = s.apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: signed}\nspec:\n  match: {repositories: [\"shop/**\"]}\n  rules: [{rule: no-root-user, action: deny}]\n")
	require.Zero(t, code, stderr)
	s.await("Waybill's signature of what waited", func() bool { return s.signedHere(pusher, "shop/z", third) })
	require.Contains(t, s.ok(s.admin(), "audit"), "ok")
}

// TestSignedIndexByOthers: who signs an index signs the images in it.
func TestSignedIndexByOthers(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	stderr, code := s.apply(byAnother(t, "signed", "shop/**", "require-signature", ""))
	require.Zero(t, code, stderr)
	index, digests := v1.ImageIndex(empty.Index), []string(nil)
	for _, architecture := range []string{"amd64", "arm64"} {
		img := configured(t, "1000", files(t, map[string]string{"a": architecture}))
		digests = append(digests, s.pushed(pusher, "shop/x:"+architecture, img))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	ref, err := name.ParseReference(s.host + "/shop/x:v1")
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(ref, index, s.auth(pusher)))
	hash, err := index.Digest()
	require.NoError(t, err)
	require.Contains(t, s.denied(promoter, "shop/x", "v1"), "it is not signed by key")
	s.cosign(pusher, "sign", s.host+"/shop/x@"+hash.String())
	for _, digest := range append(digests, hash.String()) {
		s.await("Waybill's signature of "+digest, func() bool { return s.signedHere(pusher, "shop/x", digest) })
	}
	s.ok(promoter, "promote", "shop/x", "v1", "dev")
	s.ok(promoter, "promote", "shop/x", "amd64", "dev")
}

// TestSignedBeforeTag: a tag is refused until the digest is signed.
func TestSignedBeforeTag(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	stderr, code := s.apply(byAnother(t, "signed", "shop/**", "require-signature", "        at: push\n"))
	require.Zero(t, code, stderr)
	img := configured(t, "1000", files(t, map[string]string{"a": "1"}))
	require.ErrorContains(t, s.push(pusher, "shop/x:v1", img), "push it by its digest, have it signed, then push the tag v1")
	hash, err := img.Digest()
	require.NoError(t, err)
	digest := s.pushed(pusher, "shop/x@"+hash.String(), img)
	require.ErrorContains(t, s.push(pusher, "shop/x:v1", img), "then push the tag v1")
	s.cosign(pusher, "sign", s.host+"/shop/x@"+digest)
	s.pushed(pusher, "shop/x:v1", img)
	s.await("Waybill's signature", func() bool { return s.signedHere(pusher, "shop/x", digest) })
	s.ok(s.token("--role", "promoter"), "promote", "shop/x", "v1", "dev")
}

// TestProvenanceByOthers: verified, and looked into; as cosign attaches it of old and in bundles.
func TestProvenanceByOthers(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	stderr, code := s.apply(byAnother(t, "built", "shop/**", "require-provenance", "        builders: [\"https://ci.example.com/*\"]\n        sources: [\"https://git.example.com/shop/*\"]\n        cel: predicate.buildDefinition.externalParameters.ref == 'main'\n"))
	require.Zero(t, code, stderr)
	provenance := func(builder, source, ref string) string {
		path := filepath.Join(t.TempDir(), "provenance.json")
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"buildDefinition":{"buildType":"https://ci.example.com/v1","externalParameters":{"source":%q,"ref":%q}},"runDetails":{"builder":{"id":%q}}}`, source, ref, builder), 0o600))
		return path
	}
	for i, how := range [][]string{nil, {"--new-bundle-format"}} {
		service := fmt.Sprintf("shop/x%d", i)
		digest := s.pushed(pusher, service+":v1", configured(t, "1000", files(t, map[string]string{"a": service})))
		attest := func(file string) {
			s.cosign(pusher, append(append([]string{"attest"}, how...), "--type", "slsaprovenance1", "--predicate", file, s.host+"/"+service+"@"+digest)...)
		}
		require.Contains(t, s.denied(promoter, service, "v1"), "no provenance by key SHA256:")
		attest(provenance("https://ci.example.net/1", "git+https://git.example.com/shop/x.git", "main"))
		require.Contains(t, s.denied(promoter, service, "v1"), `says that "https://ci.example.net/1" built it`)
		attest(provenance("https://ci.example.com/1", "git+https://git.example.com/evil/x.git", "main"))
		require.Contains(t, s.denied(promoter, service, "v1"), `was built from "https://git.example.com/evil/x"`)
		attest(provenance("https://ci.example.com/1", "git+https://git.example.com/shop/x.git", "main"))
		s.await("Waybill's signature", func() bool { return s.signedHere(pusher, service, digest) })
		s.ok(promoter, "promote", service, "v1", "dev")
	}
}

// TestTrustRootsOfPolicies: a policy whose trust root cannot be used is refused when it is applied.
func TestTrustRootsOfPolicies(t *testing.T) {
	t.Parallel()
	s := serve(t)
	document := func(root string) string {
		return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: signed}\nspec:\n  match: {repositories: [\"shop/**\"]}\n  rules:\n    - rule: require-signature\n      action: deny\n      with:\n" +
			"        identities:\n          - {issuer: \"https://a.example\", subject: ada, trustRoot: " + root + "}\n"
	}
	stderr, code := s.apply(document("corporate"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, `:11:`)
	require.Contains(t, stderr, `trust root "corporate" is not in the server's configuration (trustRoots); it has none`)
	stderr, code = s.apply(document("{certificateAuthorities: [hello]}"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "certificate authority 1: it is no chain of certificates in PEM")
}
