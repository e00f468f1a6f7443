package signer_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"waybill/artifact"
	"waybill/policy"
)

// fulcio is a private sigstore: a certificate authority as Fulcio is one, with a certificate transparency log, a Rekor, and a
// timestamp authority.
type fulcio struct {
	t       testing.TB
	root    *x509.Certificate
	between *x509.Certificate
	key     *ecdsa.PrivateKey
	ctlog   *ecdsa.PrivateKey
	rekor   *ca.VirtualSigstore
}

func newFulcio(t testing.TB) *fulcio {
	t.Helper()
	anchor, anchorKey, err := ca.GenerateRootCa()
	require.NoError(t, err)
	between, key, err := ca.GenerateFulcioIntermediate(anchor, anchorKey)
	require.NoError(t, err)
	rekor, err := ca.NewVirtualSigstore()
	require.NoError(t, err)
	return &fulcio{t: t, root: anchor, between: between, key: key, ctlog: newKey(t), rekor: rekor}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func pemOf(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	text, err := cryptoutils.MarshalPublicKeyToPEM(key)
	require.NoError(t, err)
	return string(text)
}

func chainOf(t testing.TB, chain ...*x509.Certificate) string {
	t.Helper()
	text, err := cryptoutils.MarshalCertificatesToPEM(chain)
	require.NoError(t, err)
	return string(text)
}

// trustRoot is the trust root of it all, in PEM.
func (f *fulcio) trustRoot() policy.TrustRoot {
	tsa, ok := f.rekor.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	require.True(f.t, ok)
	return policy.TrustRoot{
		CertificateAuthorities:      []string{chainOf(f.t, f.between, f.root)},
		TransparencyLogs:            []string{f.rekorKey()},
		CertificateTransparencyLogs: []string{pemOf(f.t, f.ctlog.Public())},
		TimestampAuthorities:        []string{chainOf(f.t, append([]*x509.Certificate{tsa.Leaf}, append(tsa.Intermediates, tsa.Root)...)...)},
	}
}

func (f *fulcio) rekorKey() string {
	for _, log := range f.rekor.RekorLogs() {
		return pemOf(f.t, log.PublicKey)
	}
	return ""
}

// person is somebody to whom a certificate was issued.
type person struct {
	*fulcio
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// What certificates say of a workflow at GitHub.
const (
	githubIssuer   = "https://token.actions.githubusercontent.com"
	githubWorkflow = "https://github.com/acme/returns/.github/workflows/release.yml@refs/tags/v1"
	githubSource   = "https://github.com/acme/returns"
)

var sctExtension = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

// issue gives a certificate of ten minutes; logged has the certificate transparency log vouch for it.
func (f *fulcio) issue(subject, issuer string, from time.Time, logged bool) person {
	f.t.Helper()
	text := func(oid int, value string) pkix.Extension {
		der, err := asn1.MarshalWithParams(value, "utf8")
		require.NoError(f.t, err)
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, oid}, Value: der}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	require.NoError(f.t, err)
	template := &x509.Certificate{SerialNumber: serial, NotBefore: from, NotAfter: from.Add(10 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, ExtraExtensions: []pkix.Extension{text(8, issuer)}}
	if u, err := url.Parse(subject); err == nil && u.Scheme != "" {
		template.URIs = []*url.URL{u}
		template.ExtraExtensions = append(template.ExtraExtensions, text(11, "github-hosted"), text(12, githubSource), text(14, "refs/tags/v1"))
	} else {
		template.EmailAddresses = []string{subject}
	}
	p := person{fulcio: f, key: newKey(f.t)}
	sign := func() {
		der, err := x509.CreateCertificate(rand.Reader, template, f.between, p.key.Public(), f.key)
		require.NoError(f.t, err)
		p.leaf, err = x509.ParseCertificate(der)
		require.NoError(f.t, err)
	}
	if logged {
		// First with a list that says nothing, which is not part of what the log signs, then with the log's.
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: sctExtension, Value: []byte{4, 2, 0, 0}})
		sign()
		template.ExtraExtensions[len(template.ExtraExtensions)-1].Value = f.vouch(p.leaf)
	}
	sign()
	return p
}

// vouch returns the log's signed certificate timestamp, as a certificate holds it (RFC 6962, section 3.3).
func (f *fulcio) vouch(leaf *x509.Certificate) []byte {
	f.t.Helper()
	var chain []*ctx509.Certificate
	for _, c := range []*x509.Certificate{leaf, f.between} {
		parsed, err := ctx509.ParseCertificate(c.Raw)
		require.False(f.t, ctx509.IsFatal(err), err) // the list that says nothing is none
		chain = append(chain, parsed)
	}
	at := uint64(time.Now().UnixMilli()) //nolint:gosec // after 1970
	entry, err := ct.MerkleTreeLeafForEmbeddedSCT(chain, at)
	require.NoError(f.t, err)
	der, err := x509.MarshalPKIXPublicKey(f.ctlog.Public())
	require.NoError(f.t, err)
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sha256.Sum256(der)}, Timestamp: at}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *entry})
	require.NoError(f.t, err)
	signed, err := tls.CreateSignature(*f.ctlog, tls.SHA256, input)
	require.NoError(f.t, err)
	sct.Signature = ct.DigitallySigned(signed)
	list, err := x509util.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{&sct})
	require.NoError(f.t, err)
	encoded, err := tls.Marshal(*list)
	require.NoError(f.t, err)
	octets, err := asn1.Marshal(encoded)
	require.NoError(f.t, err)
	return octets
}

func signBytes(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	raw, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	return raw
}

// payloadOf is what cosign signs of a digest.
func payloadOf(d artifact.Digest) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":"example.com/x"},"image":{"docker-manifest-digest":"` + d.String() + `"},"type":"cosign container image signature"},"optional":null}`)
}

// promised is an entry of Rekor with its signed promise, and its proof.
func (f *fulcio) promised(kind string, body []byte, at time.Time) *protorekor.TransparencyLogEntry {
	f.t.Helper()
	id, err := f.rekor.RekorLogID()
	require.NoError(f.t, err)
	promise, err := f.rekor.RekorSignPayload(tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: at.Unix(), LogIndex: 0, LogID: id})
	require.NoError(f.t, err)
	raw, err := hex.DecodeString(id)
	require.NoError(f.t, err)
	proof, err := f.rekor.GetInclusionProof(body)
	require.NoError(f.t, err)
	rootHash, err := hex.DecodeString(*proof.RootHash)
	require.NoError(f.t, err)
	return &protorekor.TransparencyLogEntry{LogId: &protocommon.LogId{KeyId: raw}, KindVersion: &protorekor.KindVersion{Kind: kind, Version: "0.0.1"}, IntegratedTime: at.Unix(),
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: promise}, CanonicalizedBody: body,
		InclusionProof: &protorekor.InclusionProof{LogIndex: *proof.LogIndex, TreeSize: *proof.TreeSize, RootHash: rootHash, Checkpoint: &protorekor.Checkpoint{Envelope: *proof.Checkpoint}}}
}

// cosigned is what cosign writes to a .sig tag: the payload and its annotations.
func (p person) cosigned(d artifact.Digest, at time.Time) (payload []byte, annotations map[string]string) {
	p.t.Helper()
	payload = payloadOf(d)
	raw := signBytes(p.t, p.key, payload)
	sum := sha256.Sum256(payload)
	body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
		"signature": map[string]any{"content": raw, "publicKey": map[string]any{"content": []byte(chainOf(p.t, p.leaf))}}}})
	require.NoError(p.t, err)
	return payload, map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(raw), "dev.sigstore.cosign/certificate": chainOf(p.t, p.leaf),
		"dev.sigstore.cosign/chain": chainOf(p.t, p.between, p.root), "dev.sigstore.cosign/bundle": rekorAnnotation(p.t, p.promised("hashedrekord", body, at))}
}

func rekorAnnotation(t testing.TB, e *protorekor.TransparencyLogEntry) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"SignedEntryTimestamp": e.GetInclusionPromise().GetSignedEntryTimestamp(), "Payload": map[string]any{
		"body": e.GetCanonicalizedBody(), "integratedTime": e.GetIntegratedTime(), "logIndex": e.GetLogIndex(), "logID": hex.EncodeToString(e.GetLogId().GetKeyId())}})
	require.NoError(t, err)
	return string(text)
}

// statementOf is an in-toto statement about a digest.
func statementOf(t testing.TB, d artifact.Digest, predicateType string, predicate any) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{"_type": "https://in-toto.io/Statement/v1", "predicateType": predicateType, "predicate": predicate,
		"subject": []any{map[string]any{"name": "x", "digest": map[string]string{d.Algorithm(): d.Hex()}}}})
	require.NoError(t, err)
	return text
}

// enveloped is a DSSE envelope around a statement.
func enveloped(t testing.TB, key *ecdsa.PrivateKey, statement []byte) *ssldsse.Envelope {
	t.Helper()
	raw := signBytes(t, key, ssldsse.PAE(intoto, statement))
	return &ssldsse.Envelope{PayloadType: intoto, Payload: base64.StdEncoding.EncodeToString(statement), Signatures: []ssldsse.Signature{{Sig: base64.StdEncoding.EncodeToString(raw)}}}
}

// bundled is a sigstore bundle, with what is asked for: an entry of Rekor, a timestamp.
func (p person) bundled(statement []byte, at time.Time, logged, stamped bool) *protobundle.Bundle {
	p.t.Helper()
	envelope := enveloped(p.t, p.key, statement)
	raw, err := base64.StdEncoding.DecodeString(envelope.Signatures[0].Sig)
	require.NoError(p.t, err)
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: p.leaf.Raw}}}
	if logged {
		e, err := p.rekor.GenerateTlogEntry(p.leaf, envelope, raw, at.Unix(), false)
		require.NoError(p.t, err)
		body, err := base64.StdEncoding.DecodeString(e.Body().(string))
		require.NoError(p.t, err)
		material.TlogEntries = []*protorekor.TransparencyLogEntry{p.promised("dsse", body, at)}
	}
	if stamped {
		stamp, err := p.rekor.TimestampResponse(raw)
		require.NoError(p.t, err)
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp}}}
	}
	return &protobundle.Bundle{MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", VerificationMaterial: material, Content: dsseContent(p.t, envelope)}
}

func dsseContent(t testing.TB, e *ssldsse.Envelope) *protobundle.Bundle_DsseEnvelope {
	t.Helper()
	payload, err := e.DecodeB64Payload()
	require.NoError(t, err)
	raw, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	require.NoError(t, err)
	return &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{Payload: payload, PayloadType: e.PayloadType, Signatures: []*protodsse.Signature{{Sig: raw}}}}
}

// keyBundle is a bundle by a key, which it names as cosign does.
func keyBundle(t testing.TB, key *ecdsa.PrivateKey, statement []byte) *protobundle.Bundle {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	sum := sha256.Sum256(der)
	return &protobundle.Bundle{MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", Content: dsseContent(t, enveloped(t, key, statement)),
		VerificationMaterial: &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: base64.StdEncoding.EncodeToString(sum[:])}}}}
}

func jsonOf(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	text, err := protojson.Marshal(b)
	require.NoError(t, err)
	return text
}

// trustedRootJSON is the trust root as sigstore writes it.
func (f *fulcio) trustedRootJSON() string {
	f.t.Helper()
	block, _ := pem.Decode([]byte(f.rekorKey()))
	id := sha256.Sum256(block.Bytes)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(f.t, err)
	made, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: f.root, Intermediates: []*x509.Certificate{f.between}, ValidityPeriodStart: time.Now().Add(-time.Hour)}}, nil,
		f.rekor.TimestampingAuthorities(),
		map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {ID: id[:], HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: crypto.SHA256, BaseURL: "https://rekor.localhost", ValidityPeriodStart: time.Now().Add(-time.Hour)}})
	require.NoError(f.t, err)
	text, err := made.MarshalJSON()
	require.NoError(f.t, err)
	return string(bytes.TrimSpace(text))
}
