package signer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"waybill/artifact"
)

// What cosign and GitHub call things that carry signatures.
const (
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignReferrer    = "application/vnd.dev.cosign.artifact.sig.v1+json" // cosign sign --registry-referrers-mode=oci-1-1
	cosignAttestation = "application/vnd.dev.cosign.artifact.att.v1+json"
	bundleType        = "application/vnd.dev.sigstore.bundle" // of any version
	signPredicate     = "https://sigstore.dev/cosign/sign/v1" // of a bundle that is a signature
	cosignPayload     = "cosign container image signature"

	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	rekorAnnotation       = "dev.sigstore.cosign/bundle"
	timestampAnnotation   = "dev.sigstore.cosign/rfc3161timestamp"
)

// maxAnnotation bounds one annotation, in bytes. A log entry of an attestation has the most: twice the envelope's hashes
// and a certificate.
const maxAnnotation = 128 << 10

var timeless time.Time

// candidate is something that may be a signature of a digest, or an attestation of it. Nothing of it is verified.
type candidate struct {
	entity        verify.SignedEntity
	artifact      func() verify.ArtifactPolicyOption // what is signed; anew for each verification, which reads it
	certificate   *x509.Certificate                  // nil: by a key
	key           string                             // that it says it is by, SHA256:HEX; "": it does not say
	predicateType string                             // of an attestation
}

// errOther is of what is sound and not asked for: an attestation of another type.
var errOther = errors.New("it is something else")

// readCandidate reads a layer of an artifact: foreign bytes. Its error says what is wrong with them.
func readCandidate(digest artifact.Digest, mediaType string, content []byte, annotations map[string]string, attestation bool) (*candidate, error) {
	for name, value := range annotations {
		if len(value) > maxAnnotation {
			return nil, fmt.Errorf("its annotation %.60q has %d bytes; at most %d are read", name, len(value), maxAnnotation)
		}
	}
	switch {
	case strings.HasPrefix(mediaType, bundleType):
		return readBundle(digest, content, attestation)
	case mediaType == simpleSigningType && !attestation:
		return readSimpleSigning(digest, content, annotations)
	case (mediaType == dsseType || mediaType == intotoType) && attestation:
		return readEnvelope(digest, content, annotations)
	}
	return nil, errOther
}

// readBundle reads a sigstore bundle, as GitHub and cosign 3 attach them: an attestation, or a signature that is a statement
// of cosign's type or is made over the manifest itself. Whoever attests something of an image does not sign it.
func readBundle(digest artifact.Digest, content []byte, attestation bool) (*candidate, error) {
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(content); err != nil {
		return nil, fmt.Errorf("it is no sigstore bundle: %w", err)
	}
	c := &candidate{entity: b, artifact: byDigest(digest)}
	signed, err := b.SignatureContent()
	if err != nil {
		return nil, fmt.Errorf("it is no sigstore bundle: %w", err)
	}
	if envelope := signed.EnvelopeContent(); envelope != nil {
		if err := c.about(digest, envelope); err != nil {
			return nil, err
		}
		if attestation == (c.predicateType == signPredicate) {
			return nil, errOther
		}
	} else if message := signed.MessageSignatureContent(); attestation || message == nil {
		return nil, errOther
	} else if hex.EncodeToString(message.Digest()) != digest.Hex() {
		return nil, fmt.Errorf("it is a signature of another digest, %.71s", hex.EncodeToString(message.Digest()))
	}
	by, err := b.VerificationContent()
	if err != nil {
		return nil, fmt.Errorf("it is no sigstore bundle: %w", err)
	}
	if c.certificate = by.Certificate(); c.certificate == nil && by.PublicKey() != nil {
		c.key = keyHint(by.PublicKey().Hint())
	}
	return c, nil
}

// keyHint is the key that a bundle names, where it does so as cosign does: by the SHA-256 of the DER, in base64.
func keyHint(hint string) string {
	sum, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(sum) != sha256.Size {
		return ""
	}
	return "SHA256:" + hex.EncodeToString(sum)
}

func byDigest(d artifact.Digest) func() verify.ArtifactPolicyOption {
	return func() verify.ArtifactPolicyOption {
		raw, err := hex.DecodeString(d.Hex())
		if err != nil {
			return func(*verify.PolicyConfig) error { return err }
		}
		return verify.WithArtifactDigest(d.Algorithm(), raw)
	}
}

// about refuses a statement that is not about a digest. That is looked at again when the signature is.
func (c *candidate) about(digest artifact.Digest, envelope verify.EnvelopeContent) error {
	statement, err := envelope.Statement()
	if err != nil {
		return fmt.Errorf("it holds no in-toto statement: %w", err)
	}
	if !strings.HasPrefix(statement.GetType(), "https://in-toto.io/Statement/") {
		return fmt.Errorf("it holds a %.80q, and no in-toto statement", statement.GetType())
	}
	c.predicateType = statement.GetPredicateType()
	for _, s := range statement.GetSubject() {
		if s.GetDigest()[digest.Algorithm()] == digest.Hex() {
			return nil
		}
	}
	for _, s := range statement.GetSubject() {
		for algorithm, other := range s.GetDigest() {
			return fmt.Errorf("its statement is about another digest, %.10s:%.64s", algorithm, other)
		}
	}
	return errors.New("its statement is about no digest")
}

// legacy is what cosign spreads over a layer and its annotations, as sigstore's verifier wants it.
type legacy struct {
	verify.BaseSignedEntity
	content    verify.SignatureContent
	by         verify.VerificationContent
	entries    []*tlog.Entry
	timestamps [][]byte
}

func (l *legacy) SignatureContent() (verify.SignatureContent, error)       { return l.content, nil }
func (l *legacy) VerificationContent() (verify.VerificationContent, error) { return l.by, nil }
func (l *legacy) TlogEntries() ([]*tlog.Entry, error)                      { return l.entries, nil }
func (l *legacy) Timestamps() ([][]byte, error)                            { return l.timestamps, nil }
func (l *legacy) HasInclusionPromise() bool                                { return len(l.entries) > 0 }

// Version has the verifier take the hash that cosign's older versions used with larger curves too.
func (l *legacy) Version() (string, error) { return "v0.3", nil }

// chained is a certificate with intermediates that came with it, which are not trusted for that.
type chained struct {
	*bundled
	intermediates []*x509.Certificate
}

type bundled = bundle.Certificate

func (c chained) Intermediates() []*x509.Certificate { return c.intermediates }

// readSimpleSigning reads cosign's signature: a payload of containers-signature(5), and its signature in an annotation.
func readSimpleSigning(digest artifact.Digest, content []byte, annotations map[string]string) (*candidate, error) {
	var p struct {
		Critical struct {
			Identity json.RawMessage `json:"identity"`
			Image    struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
		Optional json.RawMessage `json:"optional"`
	}
	if err := strictly(content, &p); err != nil {
		return nil, fmt.Errorf("its payload cannot be read: %w", err)
	}
	switch {
	case p.Critical.Type != cosignPayload:
		return nil, fmt.Errorf("its payload is a %.80q, and no %s", p.Critical.Type, cosignPayload)
	case p.Critical.Image.Digest != digest.String():
		return nil, fmt.Errorf("it is a signature of another digest, %.80s", p.Critical.Image.Digest)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(annotations[signatureAnnotation])
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("it lacks a signature in its annotation %s", signatureAnnotation)
	}
	sum := sha256.Sum256(content)
	l := &legacy{content: bundle.NewMessageSignature(sum[:], protocommon.HashAlgorithm_SHA2_256.String(), raw)}
	c := &candidate{entity: l, artifact: func() verify.ArtifactPolicyOption { return verify.WithArtifact(bytes.NewReader(content)) }}
	return c, c.annotated(l, annotations)
}

// readEnvelope reads cosign's attestation: a DSSE envelope.
func readEnvelope(digest artifact.Digest, content []byte, annotations map[string]string) (*candidate, error) {
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     string `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
			Cert  string `json:"cert"`
		} `json:"signatures"`
	}
	if err := strictly(content, &e); err != nil {
		return nil, fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("its envelope has %d signatures; want one", len(e.Signatures))
	}
	envelope := &bundle.Envelope{Envelope: &dsse.Envelope{PayloadType: e.PayloadType, Payload: e.Payload, Signatures: []dsse.Signature{{KeyID: e.Signatures[0].KeyID, Sig: e.Signatures[0].Sig}}}}
	l := &legacy{content: envelope}
	c := &candidate{entity: l, artifact: byDigest(digest)}
	if err := c.about(digest, envelope); err != nil {
		return nil, err
	}
	return c, c.annotated(l, annotations)
}

// strictly decodes one JSON document and nothing after it, without fields that are not known.
func strictly(content []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// annotated reads what cosign writes beside a signature: certificate, chain, log entry, timestamp.
func (c *candidate) annotated(l *legacy, annotations map[string]string) error {
	l.by = &bundle.PublicKey{}
	if text := annotations[certificateAnnotation]; text != "" {
		leaf, err := certificates(text)
		if err != nil {
			return fmt.Errorf("its certificate: %w", err)
		}
		c.certificate = leaf[0]
		with := chained{bundled: bundle.NewCertificate(leaf[0])}
		if text := annotations[chainAnnotation]; strings.TrimSpace(text) != "" {
			chain, err := certificates(text)
			if err != nil {
				return fmt.Errorf("its chain: %w", err)
			}
			with.intermediates = slices.DeleteFunc(chain, func(c *x509.Certificate) bool { return !c.IsCA || bytes.Equal(c.RawIssuer, c.RawSubject) })
		}
		l.by = with
	}
	if text := annotations[rekorAnnotation]; text != "" {
		entry, err := readEntry([]byte(text))
		if err != nil {
			return fmt.Errorf("its log entry: %w", err)
		}
		l.entries = []*tlog.Entry{entry}
	}
	if text := annotations[timestampAnnotation]; text != "" {
		var stamp struct{ SignedRFC3161Timestamp []byte }
		if err := strictly([]byte(text), &stamp); err != nil {
			return fmt.Errorf("its timestamp: %w", err)
		}
		if len(stamp.SignedRFC3161Timestamp) > 0 {
			l.timestamps = [][]byte{stamp.SignedRFC3161Timestamp}
		}
	}
	return nil
}

// readEntry reads an entry of Rekor with the log's signed promise, as cosign keeps it.
func readEntry(text []byte) (*tlog.Entry, error) {
	var e struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := strictly(text, &e); err != nil {
		return nil, err
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Payload.Body, &kind); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(e.Payload.LogID)
	if err != nil || len(id) != sha256.Size {
		return nil, fmt.Errorf("log id %.80q is no SHA-256", e.Payload.LogID)
	}
	return tlog.ParseTransparencyLogEntry(&protorekor.TransparencyLogEntry{LogIndex: e.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: id}, IntegratedTime: e.Payload.IntegratedTime,
		KindVersion: &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion}, CanonicalizedBody: e.Payload.Body,
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: e.SignedEntryTimestamp}})
}
