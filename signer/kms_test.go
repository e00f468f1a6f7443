package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"
)

// TestChecked: what a KMS signs with another key than the one that was put in force is not handed out.
func TestChecked(t *testing.T) {
	t.Parallel()
	one, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := signature.LoadSigner(one, crypto.SHA256)
	require.NoError(t, err)
	good, err := newSigner(key, &one.PublicKey)
	require.NoError(t, err)
	_, err = good.key.SignMessage(strings.NewReader("x"))
	require.NoError(t, err)
	changed, err := newSigner(key, &other.PublicKey)
	require.NoError(t, err)
	_, err = changed.key.SignMessage(strings.NewReader("x"))
	require.ErrorIs(t, err, errOtherKey)
}

func TestAlgorithm(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	short := &rsa.PublicKey{N: long.N.Rsh(long.N, 1024), E: long.E}
	long, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for want, public := range map[string]crypto.PublicKey{"ecdsa-p384": &p384.PublicKey, "ed25519": ed, "rsa-2048": &long.PublicKey, "": short} {
		got, err := algorithm(public)
		require.Equal(t, want, got)
		require.Equal(t, want == "", err != nil)
	}
}
