package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"waybill/artifact"
)

// kmsTimeout bounds one exchange with a KMS, and with what gives its credentials.
const kmsTimeout = 15 * time.Second

// kmsReferences are the schemes of keys in a KMS, with what refuses a reference that is malformed. sigstore would take any
// other scheme for the name of a program to run.
var kmsReferences = map[string]func(string) error{
	aws.ReferenceScheme:        aws.ValidReference,
	azure.ReferenceScheme:      azure.ValidReference,
	gcp.ReferenceScheme:        gcp.ValidReference,
	hashivault.ReferenceScheme: hashivault.ValidReference,
}

// CheckReference refuses what names neither a file nor a key in a KMS that is known.
func CheckReference(reference string) error {
	scheme, _, is := strings.Cut(reference, "://")
	if !is {
		return nil
	}
	return checkKMS(scheme+"://", reference)
}

// CheckKMS refuses what names no key in a KMS.
func CheckKMS(reference string) error {
	scheme, _, is := strings.Cut(reference, "://")
	if !is {
		return artifact.Errorf(artifact.Invalid, "key %.200q: want awskms://, azurekms://, gcpkms:// or hashivault://; a file is named in the server's configuration, as signer.key", reference)
	}
	return checkKMS(scheme+"://", reference)
}

func checkKMS(scheme, reference string) error {
	valid, known := kmsReferences[scheme]
	if !known {
		return artifact.Errorf(artifact.Invalid, "key %.200q: want awskms://, azurekms://, gcpkms:// or hashivault://", reference)
	}
	if err := valid(reference); err != nil {
		return artifact.Errorf(artifact.Invalid, "key %.200q: %v", reference, err)
	}
	return nil
}

// openKMS opens a key in a KMS. Who we are there is in the variables that the provider's own tools read.
func openKMS(ctx context.Context, reference string) (*Signer, error) {
	if err := CheckKMS(reference); err != nil {
		return nil, err
	}
	// The client outlives this call, so its context must not end with it; what it asks is waited for so long only.
	lasting := context.WithoutCancel(ctx)
	type opened struct {
		signer *Signer
		err    error
	}
	answer := make(chan opened, 1)
	go func() {
		s, err := askKMS(lasting, reference)
		answer <- opened{s, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, kmsTimeout)
	defer cancel()
	select {
	case o := <-answer:
		return o.signer, o.err
	case <-ctx.Done():
		return nil, artifact.Errorf(artifact.Unavailable, "key %s: the KMS does not answer; look at its address and at the service's credentials", reference)
	}
}

func askKMS(ctx context.Context, reference string) (*Signer, error) {
	bounded, cancel := context.WithTimeout(ctx, kmsTimeout)
	defer cancel()
	unavailable := func(err error) error {
		return &artifact.Error{Kind: artifact.Unavailable, Message: fmt.Sprintf("key %s cannot be used: %v; look at the KMS, its address and the service's credentials", reference, err), Err: err}
	}
	key, err := kms.Get(ctx, reference, crypto.SHA256)
	if err != nil {
		return nil, unavailable(err)
	}
	public, err := key.PublicKey(options.WithContext(bounded))
	if err != nil {
		return nil, unavailable(err)
	}
	if _, is := public.(ed25519.PublicKey); is { // which signs messages, not hashes of them
		if key, err = kms.Get(ctx, reference, crypto.Hash(0)); err != nil {
			return nil, unavailable(err)
		}
	}
	return newSigner(key, public)
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
	ctx, cancel := context.WithTimeout(context.Background(), kmsTimeout)
	defer cancel()
	type answer struct {
		raw []byte
		err error
	}
	answered := make(chan answer, 1)
	go func() { // not every client lets go when its context ends
		raw, err := c.Signer.SignMessage(bytes.NewReader(content), append([]signature.SignOption{options.WithContext(ctx)}, opts...)...)
		answered <- answer{raw, err}
	}()
	var got answer
	select {
	case got = <-answered:
	case <-ctx.Done():
		got.err = fmt.Errorf("it did not answer in %s", kmsTimeout)
	}
	if got.err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "the signing key cannot be used: " + got.err.Error(), Err: got.err}
	}
	if c.VerifySignature(bytes.NewReader(got.raw), bytes.NewReader(content)) != nil {
		return nil, errOtherKey
	}
	return got.raw, nil
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
