package signer_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// Where others' signatures are.
const (
	bundleV3      = "application/vnd.dev.sigstore.bundle.v0.3+json"
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	provenanceV1  = "https://slsa.dev/provenance/v1"
	cosignSign    = "https://sigstore.dev/cosign/sign/v1"
)

var (
	theImage = artifact.DigestOf([]byte("image"))
	another  = artifact.DigestOf([]byte("another image"))
)

// shelf is a repository in memory.
type shelf struct {
	manifests map[artifact.Digest]artifact.StoredManifest
	blobs     map[artifact.Digest][]byte
	referrers map[artifact.Digest][]artifact.Descriptor // by subject
	tags      map[string]artifact.Digest
	read      int
}

func newShelf() *shelf {
	return &shelf{map[artifact.Digest]artifact.StoredManifest{}, map[artifact.Digest][]byte{}, map[artifact.Digest][]artifact.Descriptor{}, map[string]artifact.Digest{}, 0}
}

func (s *shelf) ReferrersLike(_ context.Context, _ artifact.Repository, subject artifact.Digest, types []string, n int) ([]artifact.Descriptor, error) {
	var all []artifact.Descriptor
	for _, d := range s.referrers[subject] {
		if len(all) < n && slices.ContainsFunc(types, func(t string) bool { return strings.HasPrefix(d.ArtifactType, t) }) {
			all = append(all, d)
		}
	}
	return all, nil
}

func (s *shelf) ResolveTag(_ context.Context, _ artifact.Repository, tag artifact.Tag) (artifact.Digest, error) {
	if d, ok := s.tags[tag.String()]; ok {
		return d, nil
	}
	return artifact.Digest{}, artifact.Errorf(artifact.NotFound, "no tag %s", tag)
}

func (s *shelf) Manifest(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	if m, ok := s.manifests[d]; ok {
		return m, nil
	}
	return artifact.StoredManifest{}, artifact.Errorf(artifact.NotFound, "no manifest %s", d)
}

func (s *shelf) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	s.read++
	return s.blobs[d], nil
}

// layer stores a blob, and describes it.
func (s *shelf) layer(mediaType string, content []byte, annotations map[string]string) artifact.Descriptor {
	d := artifact.DigestOf(content)
	s.blobs[d] = content
	return artifact.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content)), Annotations: annotations}
}

func (s *shelf) put(layers ...artifact.Descriptor) artifact.Digest {
	b, _ := json.Marshal(layers)
	d := artifact.DigestOf(b)
	s.manifests[d] = artifact.StoredManifest{Digest: d, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest, Layers: layers}}
	return d
}

// tag puts layers at cosign's tag of a digest.
func (s *shelf) tag(of artifact.Digest, suffix string, layers ...artifact.Descriptor) {
	s.tags[strings.Replace(of.String(), ":", "-", 1)+suffix] = s.put(layers...)
}

// refer has layers refer to a digest.
func (s *shelf) refer(to artifact.Digest, artifactType string, annotations map[string]string, layers ...artifact.Descriptor) {
	s.referrers[to] = append(s.referrers[to], artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: s.put(layers...), ArtifactType: artifactType, Annotations: annotations})
}

// bundle has a sigstore bundle refer to a digest, as GitHub attaches one.
func (s *shelf) bundle(to artifact.Digest, content []byte, predicateType string) {
	s.refer(to, bundleV3, map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicateType}, s.layer(bundleV3, content, nil))
}

// simple is cosign's signature by a key.
func (s *shelf) simple(t *testing.T, key *ecdsa.PrivateKey, payload []byte) artifact.Descriptor {
	t.Helper()
	return s.layer(simpleSigning, payload, map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signBytes(t, key, payload))})
}

// asked asks as a rule does, by the parameters of one.
func asked(t *testing.T, a policy.Authorities, types ...string) policy.SignatureQuestion {
	t.Helper()
	require.NoError(t, a.Check(policy.Node{}))
	return policy.SignatureQuestion{Authorities: a, Attestation: len(types) > 0, Types: types}
}

func signedBy(t *testing.T, s *shelf, q policy.SignatureQuestion, trust signer.Trust) policy.Signed {
	t.Helper()
	found, err := signer.NewOthers(s, trust, nil).Signed(t.Context(), artifact.Repository{}, theImage, q)
	require.NoError(t, err)
	return found
}

// TestSignaturesByKey: whose payload names the digest, at cosign's tag, as a referrer, or in a bundle.
func TestSignaturesByKey(t *testing.T) {
	t.Parallel()
	good, bad := newKey(t), newKey(t)
	changed := strings.Replace(string(payloadOf(theImage)), "example.com/x", "example.com/y", 1)
	name := policy.KeyName(pemOf(t, bad.Public()))
	for title, c := range map[string]struct {
		attach func(s *shelf)
		why    string // "": it counts
	}{
		"nothing":         {func(*shelf) {}, "-"},
		"at cosign's tag": {func(s *shelf) { s.tag(theImage, ".sig", s.simple(t, good, payloadOf(theImage))) }, ""},
		"beside another's": {func(s *shelf) {
			s.tag(theImage, ".sig", s.simple(t, bad, payloadOf(theImage)), s.simple(t, good, payloadOf(theImage)))
		}, ""},
		"as a referrer": {func(s *shelf) {
			s.refer(theImage, "application/vnd.dev.cosign.artifact.sig.v1+json", nil, s.simple(t, good, payloadOf(theImage)))
		}, ""},
		"as cosign's bundle": {func(s *shelf) {
			s.bundle(theImage, jsonOf(t, keyBundle(t, good, statementOf(t, theImage, cosignSign, nil))), cosignSign)
		}, ""},
		"by another": {func(s *shelf) { s.tag(theImage, ".sig", s.simple(t, bad, payloadOf(theImage))) }, "a key that is none of the 1 in the rule"},
		"another's bundle": {func(s *shelf) {
			s.bundle(theImage, jsonOf(t, keyBundle(t, bad, statementOf(t, theImage, cosignSign, nil))), cosignSign)
		}, "signed by key " + name + ", which is none of the 1 in the rule"},
		"of another digest": {func(s *shelf) { s.tag(theImage, ".sig", s.simple(t, good, payloadOf(another))) }, "another digest, " + another.String()},
		"a bundle of another": {func(s *shelf) {
			s.bundle(theImage, jsonOf(t, keyBundle(t, good, statementOf(t, another, cosignSign, nil))), cosignSign)
		}, "its statement is about another digest, " + another.String()},
		"an attestation alone": {func(s *shelf) {
			s.bundle(theImage, jsonOf(t, keyBundle(t, good, statementOf(t, theImage, provenanceV1, nil))), provenanceV1)
		}, "-"},
		"a payload that was changed": {func(s *shelf) {
			d := s.simple(t, good, payloadOf(theImage))
			s.tag(theImage, ".sig", s.layer(simpleSigning, []byte(changed), d.Annotations))
		}, "or was changed since"},
		"a bundle that was changed": {func(s *shelf) {
			b := keyBundle(t, good, statementOf(t, theImage, cosignSign, nil))
			b.GetDsseEnvelope().Payload = statementOf(t, theImage, cosignSign, map[string]string{"more": "said"})
			s.bundle(theImage, jsonOf(t, b), cosignSign)
		}, "what it holds is not what that key signed"},
		"another purpose": {func(s *shelf) {
			s.tag(theImage, ".sig", s.simple(t, good, []byte(strings.Replace(string(payloadOf(theImage)), "cosign container image signature", "atomic container signature", 1))))
		}, `"atomic container signature"`},
		"no signature": {func(s *shelf) { s.tag(theImage, ".sig", s.layer(simpleSigning, payloadOf(theImage), nil)) }, "lacks a signature"},
		"twice": {func(s *shelf) {
			s.tag(theImage, ".sig", s.layer(simpleSigning, append(payloadOf(theImage), payloadOf(another)...), nil))
		}, "something follows it"},
		"hello": {func(s *shelf) { s.bundle(theImage, []byte("hello"), "") }, "no sigstore bundle"},
		"too large": {func(s *shelf) {
			d := s.simple(t, good, payloadOf(theImage))
			d.Size = 5 << 20
			s.tag(theImage, ".sig", d)
		}, "at most 4194304 are read"},
		"an annotation that is too large": {func(s *shelf) {
			d := s.simple(t, good, payloadOf(theImage))
			d.Annotations["x"] = strings.Repeat("x", 1<<20)
			s.tag(theImage, ".sig", d)
		}, `its annotation "x" has 1048576 bytes`},
		"a thousand others before it": {func(s *shelf) {
			for i := range 1000 {
				s.bundle(theImage, fmt.Appendf(nil, "junk %d", i), cosignSign)
			}
			s.bundle(theImage, jsonOf(t, keyBundle(t, good, statementOf(t, theImage, cosignSign, nil))), cosignSign)
		}, ""},
		"ten thousand others before it": {func(s *shelf) {
			for i := range 10_000 {
				s.bundle(theImage, fmt.Appendf(nil, "junk %d", i), cosignSign)
			}
			s.bundle(theImage, jsonOf(t, keyBundle(t, good, statementOf(t, theImage, cosignSign, nil))), cosignSign)
		}, "no sigstore bundle"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			c.attach(s)
			found := signedBy(t, s, asked(t, policy.Authorities{Keys: []string{pemOf(t, good.Public())}}), nil)
			told := strings.Join(found.Against, "; ")
			if c.why == "" {
				require.Len(t, found.Statements, 1, told)
				require.Equal(t, "key "+policy.KeyName(pemOf(t, good.Public())), found.Statements[0].Signer)
				return
			}
			require.Empty(t, found.Statements)
			if c.why == "-" {
				require.Empty(t, told)
			} else {
				require.Contains(t, told, c.why)
			}
		})
	}
}

// TestSignaturesByIdentity: certificates of a private authority, with its logs and timestamps.
func TestSignaturesByIdentity(t *testing.T) {
	t.Parallel()
	f, stranger := newFulcio(t), newFulcio(t)
	now := time.Now().Truncate(time.Second)
	ada := f.issue("ada@example.com", "https://accounts.example.com", now, true)
	unlogged := f.issue("ada@example.com", "https://accounts.example.com", now, false)
	impostor := stranger.issue("ada@example.com", "https://accounts.example.com", now, true)
	eve := f.issue("eve@example.com", "https://accounts.example.com", now, true)
	elsewhere := f.issue("ada@example.com", "https://accounts.example.net", now, true)
	cosigned := func(p person, at time.Time, change func(map[string]string)) func(*shelf) {
		return func(s *shelf) {
			payload, annotations := p.cosigned(theImage, at)
			if change != nil {
				change(annotations)
			}
			s.tag(theImage, ".sig", s.layer(simpleSigning, payload, annotations))
		}
	}
	full := f.trustRoot()
	without := func(change func(*policy.TrustRoot)) *policy.TrustRoot {
		r := full
		change(&r)
		return &r
	}
	sign := func(p person, d artifact.Digest, at time.Time, logged, stamped bool) func(*shelf) {
		return func(s *shelf) {
			s.bundle(theImage, jsonOf(t, p.bundled(statementOf(t, d, cosignSign, nil), at, logged, stamped)), cosignSign)
		}
	}
	for title, c := range map[string]struct {
		attach func(*shelf)
		root   *policy.TrustRoot // nil: full
		why    string
	}{
		"cosign's":            {cosigned(ada, now.Add(time.Minute), nil), nil, ""},
		"a bundle":            {sign(ada, theImage, now.Add(time.Minute), true, false), nil, ""},
		"with a timestamp":    {sign(ada, theImage, now.Add(time.Minute), true, true), nil, ""},
		"a timestamp alone":   {sign(ada, theImage, now, false, true), without(func(r *policy.TrustRoot) { r.TransparencyLogs = nil }), ""},
		"trusted_root.json":   {sign(unlogged, theImage, now.Add(time.Minute), true, true), &policy.TrustRoot{TrustedRoot: f.trustedRootJSON()}, ""},
		"nobody logs":         {sign(unlogged, theImage, now.Add(time.Minute), true, false), without(func(r *policy.TrustRoot) { r.CertificateTransparencyLogs = nil }), ""},
		"its chain brought":   {cosigned(ada, now.Add(time.Minute), nil), without(func(r *policy.TrustRoot) { r.CertificateAuthorities = []string{chainOf(t, f.root)} }), ""},
		"somebody else":       {cosigned(eve, now.Add(time.Minute), nil), nil, "the certificate identity eve@example.com from issuer https://accounts.example.com does not match any of the 1 in the rule"},
		"another issuer":      {cosigned(elsewhere, now.Add(time.Minute), nil), nil, "ada@example.com from issuer https://accounts.example.net does not match"},
		"another authority":   {cosigned(impostor, now.Add(time.Minute), nil), nil, "no transparency log entry by a log in the trust root"},
		"an unlogged one":     {cosigned(unlogged, now.Add(time.Minute), nil), nil, "no certificate transparency log of the trust root"},
		"expired":             {cosigned(ada, now.Add(11*time.Minute), nil), nil, "its certificate expired at " + now.Add(10*time.Minute).UTC().Format(time.RFC3339) + ", and it was signed at " + now.Add(11*time.Minute).UTC().Format(time.RFC3339)},
		"an expired bundle":   {sign(ada, theImage, now.Add(11*time.Minute), true, false), nil, "its certificate expired at"},
		"not issued yet":      {sign(ada, theImage, now.Add(-time.Minute), true, false), nil, "its certificate was issued at"},
		"no log entry":        {cosigned(ada, now.Add(time.Minute), func(a map[string]string) { delete(a, "dev.sigstore.cosign/bundle") }), nil, "no transparency log entry, and trust root of the rule asks for one"},
		"no entry, stamped":   {sign(ada, theImage, now, false, true), nil, "no transparency log entry"},
		"nothing says when":   {sign(ada, theImage, now, false, false), without(func(r *policy.TrustRoot) { r.TransparencyLogs = nil }), "no timestamp by an authority"},
		"a bundle of another": {sign(ada, another, now.Add(time.Minute), true, false), nil, "its statement is about another digest"},
		"another's entry": {cosigned(ada, now.Add(time.Minute), func(a map[string]string) {
			_, other := eve.cosigned(theImage, now.Add(time.Minute))
			a["dev.sigstore.cosign/bundle"] = other["dev.sigstore.cosign/bundle"]
		}), nil, "does not match"},
		"another log": {cosigned(ada, now.Add(time.Minute), func(a map[string]string) {
			_, other := impostor.cosigned(theImage, now.Add(time.Minute))
			a["dev.sigstore.cosign/bundle"] = other["dev.sigstore.cosign/bundle"]
		}), nil, "no transparency log entry by a log in the trust root"},
		"another's certificate": {cosigned(eve, now.Add(time.Minute), func(a map[string]string) { a["dev.sigstore.cosign/certificate"] = chainOf(t, ada.leaf) }), nil, "does not match"},
		"a forged promise": {cosigned(ada, now.Add(11*time.Minute), func(a map[string]string) {
			a["dev.sigstore.cosign/bundle"] = strings.Replace(a["dev.sigstore.cosign/bundle"], fmt.Sprint(now.Add(11*time.Minute).Unix()), fmt.Sprint(now.Add(time.Minute).Unix()), 1)
		}), nil, "its transparency log entry was not signed by a log in the trust root of the rule, or was changed since"},
		"a certificate that is none": {cosigned(ada, now, func(a map[string]string) { a["dev.sigstore.cosign/certificate"] = "hello" }), nil, "its certificate: it is no chain"},
		"an entry that is none":      {cosigned(ada, now, func(a map[string]string) { a["dev.sigstore.cosign/bundle"] = `{"Payload":{"body":"e30="}}` }), nil, "its log entry"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s, trust := newShelf(), full
			if c.root != nil {
				trust = *c.root
			}
			c.attach(s)
			q := asked(t, policy.Authorities{Identities: []policy.Identity{{Issuer: "https://accounts.example.com", Subject: "ada@example.com", TrustRoot: trust}}})
			found := signedBy(t, s, q, nil)
			told := strings.Join(found.Against, "; ")
			if c.why == "" {
				require.Len(t, found.Statements, 1, told)
				require.Equal(t, "ada@example.com of https://accounts.example.com", found.Statements[0].Signer)
				return
			}
			require.Empty(t, found.Statements)
			require.Contains(t, told, c.why)
		})
	}
}

// TestProvenanceOfOthers: as actions/attest-build-provenance and cosign attest attach it.
func TestProvenanceOfOthers(t *testing.T) {
	t.Parallel()
	f, key := newFulcio(t), newKey(t)
	now := time.Now().Truncate(time.Second)
	workflow := f.issue(githubWorkflow, githubIssuer, now, true)
	at := now.Add(time.Minute)
	predicate := map[string]any{"buildDefinition": map[string]any{"buildType": "https://actions.github.io/buildtypes/workflow/v1"}}
	q := asked(t, policy.Authorities{Keys: []string{pemOf(t, key.Public())},
		Identities: []policy.Identity{{Issuer: githubIssuer, SubjectRegExp: `https://github\.com/acme/.+`, TrustRoot: policy.TrustRoot{Name: "corporate"}}}}, "slsa.dev/provenance/*")
	corporate, err := signer.NewTrustRoot("corporate", f.trustRoot())
	require.NoError(t, err)
	trust := signer.Trust{"corporate": corporate}

	s := newShelf()
	s.bundle(theImage, jsonOf(t, workflow.bundled(statementOf(t, theImage, provenanceV1, predicate), at, true, false)), provenanceV1)
	s.bundle(theImage, jsonOf(t, workflow.bundled(statementOf(t, another, provenanceV1, predicate), at, true, false)), provenanceV1)
	s.bundle(theImage, jsonOf(t, workflow.bundled(statementOf(t, theImage, "https://spdx.dev/Document", predicate), at, true, false)), provenanceV1)
	envelope, err := json.Marshal(enveloped(t, key, statementOf(t, theImage, provenanceV1, predicate)))
	require.NoError(t, err)
	s.tag(theImage, ".att", s.layer(dsse, envelope, map[string]string{"predicateType": provenanceV1}))
	found := signedBy(t, s, q, trust)
	require.Len(t, found.Statements, 2, found.Against)
	require.Equal(t, "key "+policy.KeyName(pemOf(t, key.Public())), found.Statements[0].Signer)
	by := found.Statements[1]
	require.Equal(t, githubWorkflow+" of "+githubIssuer, by.Signer)
	require.Equal(t, provenanceV1, by.PredicateType)
	require.Equal(t, predicate, by.Predicate)
	require.Equal(t, map[string]string{"issuer": githubIssuer, "subject": githubWorkflow, "sourceRepositoryURI": githubSource, "runnerEnvironment": "github-hosted", "sourceRepositoryRef": "refs/tags/v1"},
		maps.Clone(by.Certificate))
	require.Equal(t, []string{"its statement is about another digest, " + another.String()}, found.Against)

	unknown := signedBy(t, s, q, signer.Trust{"other": corporate})
	require.Len(t, unknown.Statements, 1)
	require.Contains(t, strings.Join(unknown.Against, "; "), `trust root "corporate" is not in the server's configuration (trustRoots); it has other`)
}

// TestOthersRemember: what does not count is not looked at again.
func TestOthersRemember(t *testing.T) {
	t.Parallel()
	s := newShelf()
	for i := range 50 {
		s.bundle(theImage, fmt.Appendf(nil, "junk %d", i), cosignSign)
	}
	others, q := signer.NewOthers(s, nil, nil), asked(t, policy.Authorities{Keys: []string{pemOf(t, newKey(t).Public())}})
	for range 3 {
		found, err := others.Signed(t.Context(), artifact.Repository{}, theImage, q)
		require.NoError(t, err)
		require.NotEmpty(t, found.Against, "and is told again")
	}
	require.Equal(t, 50, s.read)
}

// TestOwnKeys: the word waybill stands for the keys that the service has at the moment of the question.
func TestOwnKeys(t *testing.T) {
	t.Parallel()
	s, key, own := newShelf(), newKey(t), []string(nil)
	s.bundle(theImage, jsonOf(t, keyBundle(t, key, statementOf(t, theImage, provenanceV1, nil))), provenanceV1)
	others := signer.NewOthers(s, nil, func(context.Context) ([]string, error) { return own, nil })
	for i, keys := range [][]string{nil, {pemOf(t, key.Public())}} {
		own = keys
		found, err := others.Signed(t.Context(), artifact.Repository{}, theImage, asked(t, policy.Authorities{Keys: []string{"waybill"}}, "slsa.dev/provenance/*"))
		require.NoError(t, err)
		require.Len(t, found.Statements, i)
	}
}

// TestTrustRoots: one that cannot be used is refused with what it lacks.
func TestTrustRoots(t *testing.T) {
	t.Parallel()
	f := newFulcio(t)
	for title, c := range map[string]struct {
		change func(*policy.TrustRoot)
		why    string
	}{
		"whole":               {func(*policy.TrustRoot) {}, ""},
		"no authority":        {func(r *policy.TrustRoot) { r.CertificateAuthorities = nil }, "no certificate authority"},
		"nothing says when":   {func(r *policy.TrustRoot) { r.TransparencyLogs, r.TimestampAuthorities = nil, nil }, "neither a transparency log nor a timestamp authority"},
		"a key for a chain":   {func(r *policy.TrustRoot) { r.CertificateAuthorities = r.TransparencyLogs }, "certificate authority 1: it is no chain"},
		"a chain for a key":   {func(r *policy.TrustRoot) { r.TransparencyLogs = r.CertificateAuthorities }, "transparency log 1"},
		"text after a chain":  {func(r *policy.TrustRoot) { r.TimestampAuthorities[0] += "hello" }, "timestamp authority 1: it is no chain"},
		"JSON that is none":   {func(r *policy.TrustRoot) { *r = policy.TrustRoot{TrustedRoot: "hello"} }, "trust root: "},
		"JSON with no media":  {func(r *policy.TrustRoot) { *r = policy.TrustRoot{TrustedRoot: "{}"} }, "media type"},
		"a name nobody knows": {func(r *policy.TrustRoot) { *r = policy.TrustRoot{Name: "x"} }, `trust root "x" is not in the server's configuration (trustRoots); it has none`},
	} {
		r := f.trustRoot()
		c.change(&r)
		err := signer.Trust(nil).Sound(r)
		if c.why == "" {
			require.NoError(t, err, title)
		} else {
			require.ErrorContains(t, err, c.why, title)
		}
	}
}
