package signer

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"waybill/artifact"
)

// Verifier checks cosign signatures of others by one public key.
type Verifier struct {
	key signature.Verifier
	id  string
}

// NewVerifier takes a public key as `cosign generate-key-pair` writes it: PKIX in PEM.
func NewVerifier(pem []byte) (*Verifier, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("it is no public key in PEM: %w", err)
	}
	key, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	sum := sha256.Sum256(der)
	return &Verifier{key, hex.EncodeToString(sum[:])}, err
}

// ID identifies the key, as Signer.KeyID does.
func (v *Verifier) ID() string { return v.id }

// Open returns the in-toto statement in a DSSE envelope that the key signed.
func (v *Verifier) Open(envelope []byte) ([]byte, error) {
	if err := dsse.WrapVerifier(v.key).VerifySignature(bytes.NewReader(envelope), nil); err != nil {
		return nil, err
	}
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, err
	}
	if e.PayloadType != intotoType {
		return nil, fmt.Errorf("the envelope holds %.80q; want %s", e.PayloadType, intotoType)
	}
	return e.Payload, nil
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

// Opened is what a signed statement is of.
type Opened struct {
	PredicateType string
	Subjects      []artifact.Digest // those whose algorithms are known here
}

// OpenStatement reads the in-toto statement in a DSSE envelope that the key signed.
func (v *Verifier) OpenStatement(envelope []byte) (o Opened, err error) {
	payload, err := v.Open(envelope)
	if err != nil {
		return o, err
	}
	var statement struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(payload, &statement); err != nil {
		return o, fmt.Errorf("the statement: %w", err)
	}
	if !strings.HasPrefix(statement.Type, "https://in-toto.io/Statement/") {
		return o, fmt.Errorf("the envelope holds %.80q; want an in-toto statement", statement.Type)
	}
	o.PredicateType = statement.PredicateType
	for _, s := range statement.Subject {
		for algorithm, hexed := range s.Digest {
			if d, err := artifact.ParseDigest(algorithm + ":" + hexed); err == nil {
				o.Subjects = append(o.Subjects, d)
			}
		}
	}
	return o, nil
}
