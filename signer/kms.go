package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"waybill/artifact"
	"waybill/kms"
)

// KMS reaches keys in a KMS; *kms.Client does. What it answers it answers within kms.Timeout.
type KMS interface {
	// PublicKey returns the public half of a key, as the KMS has it now.
	PublicKey(ctx context.Context, reference string) (crypto.PublicKey, error)
	// Sign signs a hash of a message, or, with no hash function, the message.
	Sign(ctx context.Context, reference string, hash crypto.Hash, content []byte) ([]byte, error)
}

// CheckReference refuses what names neither a file nor a key in a KMS that is known.
func CheckReference(reference string) error {
	if !strings.Contains(reference, "://") {
		return nil
	}
	return kms.Check(reference)
}

// CheckKMS refuses what names no key in a KMS.
func CheckKMS(reference string) error {
	if !strings.Contains(reference, "://") {
		return artifact.Errorf(artifact.Invalid, "key %.200q: want awskms://, azurekms://, gcpkms:// or hashivault://; a file is named in the server's configuration, as signer.key", reference)
	}
	return kms.Check(reference)
}

// openKMS opens a key in a KMS. Who we are there is in the variables that the provider's own tools read.
func (k *Keys) openKMS(ctx context.Context, reference string) (*Signer, error) {
	if err := CheckKMS(reference); err != nil {
		return nil, err
	}
	public, err := k.cfg.KMS.PublicKey(ctx, reference)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: fmt.Sprintf("key %s cannot be used: %v; look at the KMS, its address and the service's credentials", reference, err), Err: err}
	}
	return newSigner(remote{k.cfg.KMS, reference, public}, public)
}

// remote signs with a key in a KMS.
type remote struct {
	kms       KMS
	reference string
	public    crypto.PublicKey
}

func (r remote) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return r.public, nil
}

func (r remote) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	if _, is := r.public.(ed25519.PublicKey); is { // which signs messages, not hashes of them
		content, err := io.ReadAll(message)
		if err != nil {
			return nil, err
		}
		return r.kms.Sign(context.Background(), r.reference, 0, content)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, message); err != nil {
		return nil, err
	}
	return r.kms.Sign(context.Background(), r.reference, crypto.SHA256, sum.Sum(nil))
}

// checked signs with a key that is elsewhere, and hands out only what the public key verifies: a KMS may have been given
// another key of the same name, which is not the one that was put in force.
type checked struct {
	signature.Signer
	signature.Verifier
}

func (c checked) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return c.Verifier.PublicKey(opts...)
}

func (c checked) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	content, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	raw, err := c.Signer.SignMessage(bytes.NewReader(content), opts...)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "the signing key cannot be used: " + err.Error(), Err: err}
	}
	if c.VerifySignature(bytes.NewReader(raw), bytes.NewReader(content)) != nil {
		return nil, errOtherKey
	}
	return raw, nil
}

var errOtherKey = artifact.Errorf(artifact.Unavailable, "what holds the signing key has another key by now than the one that was put in force, or signs in a way that cosign does not verify; `waybill key rotate` puts it in force")

// algorithm names a public key that cosign verifies, and refuses others.
func algorithm(public crypto.PublicKey) (string, error) {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", k.Curve.Params().BitSize), nil
	case ed25519.PublicKey:
		return "ed25519", nil
	case *rsa.PublicKey:
		if k.Size() >= 256 {
			return fmt.Sprintf("rsa-%d", k.Size()*8), nil
		}
	}
	return "", artifact.Errorf(artifact.Invalid, "a key of type %T cannot sign here; want ECDSA, Ed25519, or RSA of 2048 bits or more", public)
}
