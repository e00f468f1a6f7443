package signer_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// FuzzOthers: whatever is attached, nothing breaks, and nothing counts that nobody of the rule signed.
func FuzzOthers(f *testing.F) {
	trusted, mallory := newFulcio(f), newFulcio(f)
	corporate, err := signer.NewTrustRoot("corporate", trusted.trustRoot())
	require.NoError(f, err)
	mine, key := newKey(f), newKey(f)
	now := time.Now()
	eve := mallory.issue(githubWorkflow, githubIssuer, now, true)
	payload, annotations := eve.cosigned(theImage, now)
	encoded, err := json.Marshal(annotations)
	require.NoError(f, err)
	f.Add("application/vnd.dev.cosign.simplesigning.v1+json", payload, string(encoded), false)
	f.Add(bundleV3, jsonOf(f, eve.bundled(statementOf(f, theImage, provenanceV1, map[string]any{"a": 1}), now, true, true)), "{}", true)
	f.Add(bundleV3, jsonOf(f, eve.bundled(statementOf(f, theImage, cosignSign, nil), now, true, true)), "{}", false)
	f.Add(bundleV3, jsonOf(f, keyBundle(f, key, statementOf(f, theImage, cosignSign, nil))), "{}", false)
	envelope, err := json.Marshal(enveloped(f, key, statementOf(f, theImage, provenanceV1, nil)))
	require.NoError(f, err)
	f.Add(dsse, envelope, string(encoded), true)
	f.Fuzz(func(t *testing.T, mediaType string, content []byte, annotations string, attestation bool) {
		a := policy.Authorities{Keys: []string{pemOf(t, mine.Public())}, Identities: []policy.Identity{{Issuer: githubIssuer, Subject: githubWorkflow, TrustRoot: policy.TrustRoot{Name: "corporate"}}}}
		require.NoError(t, a.Check(policy.Node{}))
		q := policy.SignatureQuestion{Authorities: a, Attestation: attestation, Types: []string{"**"}}
		var read map[string]string
		_ = json.Unmarshal([]byte(annotations), &read)
		s := newShelf()
		suffix := map[bool]string{true: ".att", false: ".sig"}[attestation]
		s.tag(theImage, suffix, s.layer(mediaType, content, read))
		found, err := signer.NewOthers(s, signer.Trust{"corporate": corporate}, nil).Signed(context.Background(), artifact.Repository{}, theImage, q)
		require.NoError(t, err)
		require.Empty(t, found.Statements)
		for _, why := range found.Against {
			require.NotContains(t, why, "runtime error", "a panic")
			require.LessOrEqual(t, len(why), 64<<10)
		}
	})
}

// FuzzTrustRoot: a trust root that is none is refused.
func FuzzTrustRoot(f *testing.F) {
	good := newFulcio(f)
	r := good.trustRoot()
	f.Add(good.trustedRootJSON(), "", "", "")
	f.Add("", r.CertificateAuthorities[0], r.TransparencyLogs[0], r.TimestampAuthorities[0])
	f.Fuzz(func(_ *testing.T, whole, chain, key, stamps string) {
		src := policy.TrustRoot{TrustedRoot: whole}
		for text, list := range map[string]*[]string{chain: &src.CertificateAuthorities, key: &src.TransparencyLogs, stamps: &src.TimestampAuthorities} {
			if strings.TrimSpace(text) != "" {
				*list = []string{text}
			}
		}
		_, _ = signer.NewTrustRoot("x", src)
	})
}
