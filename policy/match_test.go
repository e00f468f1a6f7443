package policy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

func set(t testing.TB, documents ...string) policy.Set {
	t.Helper()
	parsed, err := policy.Parse("p.yaml", []byte(strings.Join(documents, "---\n")))
	require.NoError(t, err)
	var all []policy.Versioned
	for _, d := range parsed {
		all = append(all, policy.Versioned{Document: d, Version: 1})
	}
	return policy.NewSet(all)
}

func document(name, match, rules string) string {
	return fmt.Sprintf("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: %s}\nspec:\n  match: %s\n  rules: %s\n", name, match, rules)
}

const refuse = `[{rule: expression, action: deny, with: {cel: "false", message: asked}}]`

// TestMatch: a policy is asked about what it matches and does not except, and what no policy is asked about is denied.
func TestMatch(t *testing.T) {
	t.Parallel()
	const asked, denied = "asked", "no policy applies"
	for match, want := range map[string]string{
		`{repositories: ["**"]}`:                                                                       asked,
		`{repositories: ["lab"]}`:                                                                      denied,
		`{repositories: ["shop/**"], except: ["shop/*"]}`:                                              denied,
		`{repositories: ["**"], platforms: [linux/amd64]}`:                                             asked,
		`{repositories: ["**"], platforms: [windows/*]}`:                                               denied,
		`{repositories: ["**"], mediaTypes: [application/vnd.oci.image.*]}`:                            asked,
		`{repositories: ["**"], mediaTypes: [application/vnd.oci.image.config.v1+json]}`:               asked,
		`{repositories: ["**"], mediaTypes: [application/vnd.cncf.*]}`:                                 denied, // what it claims to be does not count
		`{repositories: ["**"], except: [{platforms: [linux/*]}]}`:                                     denied,
		`{repositories: ["**"], except: [{platforms: [windows/*]}]}`:                                   asked,
		`{repositories: ["**"], except: [{repositories: ["shop/**"], platforms: [windows/*]}]}`:        asked,
		`{repositories: ["**"], except: [{repositories: ["shop/**"], platforms: [linux/amd64]}]}`:      denied,
		`{repositories: ["**"], except: [{repositories: ["lab/**"], platforms: [linux/amd64]}]}`:       asked,
		`{repositories: ["**"], except: ["lab/**", {mediaTypes: [application/vnd.cncf.*]}]}`:           asked,
		`{repositories: ["**"], except: [{mediaTypes: [application/vnd.oci.image.manifest.v1+json]}]}`: denied,
	} {
		image := policy.Image{Subject: subject(t), Now: noon}
		image.Subject.IsImage = true
		image.Subject.Manifest = artifact.Manifest{MediaType: artifact.MediaTypeManifest, ArtifactType: "application/vnd.cncf.helm.config.v1+json"}
		image.Config.OS, image.Config.Architecture = "linux", "amd64"
		v := set(t, document("p", match, refuse)).Evaluate(image)
		require.Len(t, v.Reasons, 1, match)
		require.Contains(t, v.Reasons[0].Message, want, match)
		require.Equal(t, artifact.Deny, v.Outcome)
	}
	// However it spells its platform, it is asked.
	for _, c := range [][4]string{
		{"Linux", "AMD64", "", "linux/amd64"}, {"linux", "x86_64", "", "linux/amd64"}, {"", "amd64", "", "linux/*"}, {"LINUX", "", "", "linux/*"},
		{"linux", "aarch64", "V8", "linux/arm64"}, {"linux", "armhf", "", "linux/arm/v7"}, {"linux", "arm", "", "linux/arm/v7"},
		{"linux", "arm", "6", "linux/arm/v6"}, {"linux", "amd64", "v1", "linux/amd64"}, {"linux", "arm64", "v8", "linux/arm64/v8"},
	} {
		image := policy.Image{Subject: subject(t), Now: noon}
		image.Subject.IsImage, image.Config.OS, image.Config.Architecture, image.Config.Variant = true, c[0], c[1], c[2]
		both := set(t, document("p", `{repositories: ["**"]}`, "[]"), document("q", `{repositories: ["**"], platforms: ["`+c[3]+`"]}`, refuse))
		require.Equal(t, artifact.Deny, both.Evaluate(image).Outcome, "%v", c)
	}
	for match, want := range map[string]string{
		`{repositories: ["**"], mediaTypes: ["["]}`:               `p.yaml:5:10: media type "["`,
		`{repositories: ["**"], platforms: [linux]}`:              `p.yaml:5:10: platform "linux"`,
		`{repositories: ["**"], except: [{}]}`:                    "excepts nothing",
		`{repositories: ["**"], except: ["["]}`:                   `pattern "["`,
		`{repositories: ["**"], except: [{platform: [linux/*]}]}`: "p.yaml:5:",
		`{repositories: ["**"], except: [[a]]}`:                   "p.yaml:5:",
	} {
		_, err := policy.Parse("p.yaml", []byte(document("p", match, "[]")))
		require.ErrorContains(t, err, want, match)
	}
}

// TestArtifactTypes: what is no image meets the rules of policies that name its type, and of those the ones that fit it.
func TestArtifactTypes(t *testing.T) {
	t.Parallel()
	chart := subject(t)
	chart.Manifest = artifact.Manifest{MediaType: artifact.MediaTypeManifest, ArtifactType: "application/vnd.cncf.helm.config.v1+json"}
	both := `[{rule: no-root-user, action: deny}, {rule: expression, action: deny, with: {cel: "false", message: asked}}]`
	for match, want := range map[string]artifact.Outcome{
		`{repositories: ["**"]}`: artifact.Allow,
		`{repositories: ["**"], mediaTypes: [application/vnd.cncf.*]}`:                                 artifact.Deny,
		`{repositories: ["**"], mediaTypes: ["**"]}`:                                                   artifact.Deny,
		`{repositories: ["**"], mediaTypes: [application/vnd.oci.image.manifest.v1+json]}`:             artifact.Allow,
		`{repositories: ["**"], mediaTypes: ["**"], platforms: [linux/*]}`:                             artifact.Allow,
		`{repositories: ["**"], mediaTypes: ["**"], except: [{mediaTypes: [application/vnd.cncf.*]}]}`: artifact.Allow,
		`{repositories: ["lab/**"], mediaTypes: ["**"]}`:                                               artifact.Deny,
	} {
		v := set(t, document("p", match, both)).Artifact(chart)
		require.Equal(t, want, v.Outcome, "%s: %v", match, v.Reasons)
		require.LessOrEqual(t, len(v.Reasons), 1, "a rule about images is not asked")
	}
}

// TestTooMany: a policy of more rules than a judgement should cost is refused.
func TestTooMany(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("p.yaml", []byte(document("p", `{repositories: ["**"]}`, "["+strings.Repeat("{rule: no-sshd, action: deny}, ", 201)+"]")))
	require.ErrorContains(t, err, "p.yaml:6:10: 201 rules")
}

// TestSameMeaning: a document's hash is of what it means, and the way that documents were written before still has it.
func TestSameMeaning(t *testing.T) {
	t.Parallel()
	hash := func(match string) artifact.Digest {
		parsed, err := policy.Parse("p", []byte(document("p", match, "[]")))
		require.NoError(t, err)
		return parsed[0].Hash()
	}
	require.Equal(t, hash(`{repositories: ["**"], except: ["lab/**"]}`), hash(`{repositories: ["**"], except: [{repositories: ["lab/**"]}]}`))
	require.Equal(t, "sha256:932b", hash(`{repositories: ["**"], except: ["lab/**"]}`).String()[:11])
	require.NotEqual(t, hash(`{repositories: ["**"], platforms: [linux/*]}`), hash(`{repositories: ["**"], platforms: [linux/amd64]}`))
}

// TestPromotion: what no push can have yet denies a promotion and no push, of an index too, however many reasons it has.
func TestPromotion(t *testing.T) {
	t.Parallel()
	s := set(t, document("p", `{repositories: ["**"]}`, `[{rule: require-sbom, action: deny}, {rule: expression, action: warn, with: {cel: "false"}}]`))
	image := policy.Image{Subject: subject(t), Now: noon}
	v := s.Evaluate(image)
	pass, err := v.Pass()
	require.NoError(t, err)
	require.True(t, pass.Valid())
	require.False(t, pass.Promotes(), "a pass to sign is none to promote")
	_, err = v.Promotion()
	var refused *artifact.Error
	require.ErrorAs(t, err, &refused)
	require.Len(t, refused.Reasons, 1)
	require.Equal(t, "require-sbom", refused.Reasons[0].Rule)

	children := make([]policy.Child, 300)
	image.Referrers = []artifact.Descriptor{{ArtifactType: "application/spdx+json"}}
	for i := range children {
		children[i] = policy.Child{Platform: "linux/amd64", Verdict: s.Evaluate(image)}
	}
	pass, err = s.Index(subject(t), children).Promotion()
	require.NoError(t, err)
	require.True(t, pass.Promotes())
	children[299].Verdict = v // its reasons are beyond what is listed
	index := s.Index(subject(t), children)
	_, err = index.Pass()
	require.NoError(t, err)
	_, err = index.Promotion()
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	_, err = policy.Verdict{VerdictRecord: v.VerdictRecord}.Promotion()
	require.Error(t, err, "nobody evaluated it")
}

func (w *world) Referrers(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]artifact.Descriptor, error) {
	return w.referrers[d], nil
}

// TestReferrers: what refers to an image, or to the index that is judged, speaks for it; so does what BuildKit puts
// beside it into the index.
func TestReferrers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	parsed, err := policy.Parse("p", []byte(document("p", `{repositories: ["**"]}`, `[{rule: require-provenance, action: deny}]`)))
	require.NoError(t, err)
	w := newWorld(policy.Versioned{Document: parsed[0], Version: 1})
	judge := policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w, Referrers: w})
	provenance := map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
	attested := []artifact.Descriptor{{Annotations: provenance}}
	plain := artifact.DigestOf([]byte("plain"))
	alone, bare, other := w.image("alone", "1000", plain), w.image("bare", "1000", plain), w.image("other", "1000", plain)
	w.referrers[alone.Digest] = attested
	index := func(name string, children ...artifact.Descriptor) artifact.Digest {
		d := artifact.DigestOf([]byte(name))
		w.manifests[d] = artifact.StoredManifest{Digest: d, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeIndex, Manifests: children}}
		return d
	}
	whole := index("whole", bare, other)
	w.referrers[whole] = attested
	statement := artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: artifact.DigestOf([]byte("statement")),
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": bare.Digest.String()}}
	w.manifests[statement.Digest] = artifact.StoredManifest{Digest: statement.Digest, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest, Layers: attested}}
	for what, c := range map[string]struct {
		digest   artifact.Digest
		promoted bool
	}{
		"by itself": {alone.Digest, true}, "without": {bare.Digest, false}, "half of an index": {index("half", alone, bare), false},
		"the index has it": {whole, true}, "beside it": {index("beside", bare, statement), true}, "beside another": {index("beside another", other, statement), false},
	} {
		v, err := judge.JudgeStored(ctx, subject(t).Repository, c.digest)
		require.NoError(t, err, what)
		require.Equal(t, artifact.Allow, v.Outcome, what)
		_, err = v.Promotion()
		require.Equal(t, c.promoted, err == nil, "%s: %v %v", what, v.Reasons, err)
	}
}
