package signer

import (
	"crypto"
	"crypto/elliptic"
	"encoding/pem"
	"runtime/debug"
	"slices"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"waybill/artifact"
)

// newSealed makes an ECDSA P-256 key, encrypted as cosign does, whose own package calls the same and would bring another
// megabyte of program besides.
func newSealed(secret []byte) (private, public []byte, err error) {
	defer debug.FreeOSMemory() // scrypt takes 64 MiB, each time
	return cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), func(bool) ([]byte, error) { return secret, nil })
}

// sealedTypes are the PEM types of private keys that cosign encrypted, in its versions.
var sealedTypes = []string{string(cryptoutils.EncryptedSigstorePrivateKeyPEMType), "ENCRYPTED COSIGN PRIVATE KEY"}

// unseal opens a private key in PEM, encrypted as cosign does.
func unseal(path string, sealed, secret []byte) (*Signer, error) {
	defer debug.FreeOSMemory()
	wrong := artifact.Errorf(artifact.Unavailable, "signing key %s: its password does not open it, or it is no private key of cosign's", path)
	if block, _ := pem.Decode(sealed); block == nil || !slices.Contains(sealedTypes, block.Type) {
		return nil, wrong
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(sealed, func(bool) ([]byte, error) { return secret, nil })
	if err != nil {
		return nil, wrong
	}
	key, err := signature.LoadSignerVerifier(private, crypto.SHA256)
	if err != nil {
		return nil, wrong
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	return newSigner(key, public)
}
