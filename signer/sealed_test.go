package signer

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestSealed: cosign opens the keys that are made here, and here are opened those that cosign makes, of every kind that signs,
// and nothing else.
func TestSealed(t *testing.T) {
	t.Parallel()
	secret := []byte("secret")
	private, public, err := newSealed(secret)
	require.NoError(t, err)
	key, err := cosign.LoadPrivateKey(private, secret, nil)
	require.NoError(t, err)
	theirs, err := key.PublicKey()
	require.NoError(t, err)
	ours, err := cryptoutils.UnmarshalPEMToPublicKey(public)
	require.NoError(t, err)
	require.Equal(t, ours, theirs)

	pass := func(bool) ([]byte, error) { return secret, nil }
	for want, kind := range map[string]v1.PublicKeyDetails{
		"ecdsa-p256": v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, "ecdsa-p384": v1.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		"ed25519": v1.PublicKeyDetails_PKIX_ED25519, "rsa-2048": v1.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	} {
		details, err := signature.GetAlgorithmDetails(kind)
		require.NoError(t, err)
		pair, err := cosign.GenerateKeyPairWithAlgorithm(&details, pass)
		require.NoError(t, err)
		s, err := unseal("cosign.key", pair.PrivateBytes, secret)
		require.NoError(t, err, want)
		_, err = s.key.SignMessage(strings.NewReader("x"))
		require.NoError(t, err, want)
		row, err := s.describe("")
		require.NoError(t, err)
		require.Equal(t, want, row.Algorithm)
		require.Equal(t, string(pair.PublicBytes), row.PublicKey)
	}

	older := bytes.ReplaceAll(private, []byte("SIGSTORE"), []byte("COSIGN"))
	_, err = unseal("cosign.key", older, secret)
	require.NoError(t, err, "a key of cosign 1")
	open, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	plain, err := cryptoutils.MarshalPrivateKeyToPEM(open)
	require.NoError(t, err)
	for what, sealed := range map[string][]byte{"nothing": nil, "a key that is not encrypted": plain, "a public key": public,
		"no key": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte("{}")})} {
		_, err = unseal("cosign.key", sealed, secret)
		require.Equal(t, artifact.Unavailable, artifact.KindOf(err), "%s: %v", what, err)
		require.ErrorContains(t, err, "no private key of cosign's", what)
	}
	for _, wrong := range [][]byte{nil, {}, []byte("other")} {
		_, err = unseal("cosign.key", private, wrong)
		require.ErrorContains(t, err, "its password does not open it", "%q", wrong)
	}
}
