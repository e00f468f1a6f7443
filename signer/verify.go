package signer

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"waybill/artifact"
)

// Verifier checks cosign signatures of others by one public key.
type Verifier struct{ key signature.Verifier }

// NewVerifier takes a public key as `cosign generate-key-pair` writes it: PKIX in PEM.
func NewVerifier(pem []byte) (*Verifier, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("it is no public key in PEM: %w", err)
	}
	key, err := signature.LoadVerifier(public, crypto.SHA256)
	return &Verifier{key}, err
}

// Verify returns nil when the image at a digest's .sig tag holds a signature by the key of that digest.
func (v *Verifier) Verify(digest artifact.Digest, signatures gcr.Image) error {
	good, err := anyLayer(signatures, func(payload []byte, annotations map[string]string) bool {
		raw, err := base64.StdEncoding.DecodeString(annotations[signatureAnnotation])
		if err != nil || v.key.VerifySignature(bytes.NewReader(raw), bytes.NewReader(payload)) != nil {
			return false
		}
		var signed struct {
			Critical struct {
				Image struct {
					Digest string `json:"docker-manifest-digest"`
				} `json:"image"`
			} `json:"critical"`
		}
		return json.Unmarshal(payload, &signed) == nil && signed.Critical.Image.Digest == digest.String()
	})
	if err == nil && !good {
		err = errors.New("no signature there is by the key and of this digest")
	}
	return err
}

// SignatureTag is the tag of the image that holds a digest's signatures.
func SignatureTag(d artifact.Digest) (artifact.Tag, error) { return cosignTag(d, ".sig") }
