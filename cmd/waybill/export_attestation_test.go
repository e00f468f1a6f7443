package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// attestKey signs envelopes.
type attestKey struct {
	t       *testing.T
	private *ecdsa.PrivateKey
	public  server.PublicKey
}

func newAttestKey(t *testing.T) attestKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	require.NoError(t, err)
	return attestKey{t, private, server.PublicKey{ID: fmt.Sprintf("%x", sha256.Sum256(der)), PublicKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
}

// envelope is a DSSE envelope (secure-systems-lab/dsse, envelope.md) around a statement about a digest.
func (k attestKey) envelope(predicateType string, d artifact.Digest) []byte {
	k.t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	payload := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"subject":[{"digest":{%q:%q}}],"predicate":{}}`, predicateType, d.Algorithm(), d.Hex())
	sum := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
	signature, err := ecdsa.SignASN1(rand.Reader, k.private, sum[:])
	require.NoError(k.t, err)
	b, err := json.Marshal(map[string]any{"payloadType": payloadType, "payload": []byte(payload), "signatures": []any{map[string]any{"sig": signature}}})
	require.NoError(k.t, err)
	return b
}

// TestExportedAttestations: what an archive says of an envelope holds, or is named, though the listing be signed.
func TestExportedAttestations(t *testing.T) {
	t.Parallel()
	own, other := newAttestKey(t), newAttestKey(t)
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	image, carrier := artifact.DigestOf([]byte("image")), artifact.DigestOf([]byte("carrier"))
	lost := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	entry := ledger.Entry{Kind: "signed", At: lost.Add(-time.Hour), Repository: repository, Digest: image, Subject: own.public.ID + " scan sbom", Evidence: []artifact.Digest{carrier}}
	late := entry
	late.At = lost
	good := own.envelope("scan", image)
	for name, c := range map[string]struct {
		envelope []byte
		listed   artifact.Attached // its envelope is the digest of the envelope, unless said otherwise
		revoked  *server.PublicRevocation
		entry    ledger.Entry
		file     string // another than the one that is listed
		want     string // nothing: it holds
		others   int
	}{
		"holds":             {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}},
		"others'":           {envelope: other.envelope("scan", image), listed: artifact.Attached{PredicateType: "scan"}, others: 1},
		"other bytes":       {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID, Envelope: image}, want: "its bytes hash to"},
		"another key":       {envelope: other.envelope("scan", image), listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}, want: "does not verify by key"},
		"not a given key":   {envelope: other.envelope("scan", image), listed: artifact.Attached{PredicateType: "scan", KeyID: other.public.ID}, want: "none of those given"},
		"another type":      {envelope: good, listed: artifact.Attached{PredicateType: "sbom", KeyID: own.public.ID}, want: "is listed as"},
		"another digest":    {envelope: own.envelope("scan", carrier), listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}, want: "it is not about"},
		"payload changed":   {envelope: bytes.Replace(good, []byte(`"payload":"eyJ`), []byte(`"payload":"eyB`), 1), listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}, want: "does not verify by key"},
		"no envelope":       {envelope: []byte("{}"), listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}, want: "does not verify by key"},
		"not listed":        {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID}, file: "d/attestations/sha256-1.json", want: "does not list it"},
		"revoked":           {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID, Manifests: []artifact.Digest{carrier}}, revoked: &server.PublicRevocation{At: lost}, entry: entry, want: "was revoked"},
		"older":             {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID, Manifests: []artifact.Digest{carrier}}, revoked: &server.PublicRevocation{At: lost, Before: lost}, entry: entry},
		"not older":         {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID, Manifests: []artifact.Digest{carrier}}, revoked: &server.PublicRevocation{At: lost, Before: lost}, entry: late, want: "was revoked"},
		"of something else": {envelope: good, listed: artifact.Attached{PredicateType: "scan", KeyID: own.public.ID, Manifests: []artifact.Digest{image}}, revoked: &server.PublicRevocation{At: lost, Before: lost}, entry: entry, want: "was revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.listed.Envelope.IsZero() {
				c.listed.Envelope = artifact.DigestOf(c.envelope)
			}
			list, err := json.Marshal([]artifact.Attached{c.listed})
			require.NoError(t, err)
			key := own.public
			key.Revoked = c.revoked
			x := &exported{content: map[string][]byte{"d/attestations.json": list}, entries: map[int64]ledger.Entry{0: c.entry}}
			a, err := newAttestationCheck(x, server.ExportSummary{Digests: []server.ExportedReference{{Repository: repository, Digest: image, Folder: "d"}}}, server.PublicKeys{Keys: []server.PublicKey{key}})
			require.NoError(t, err)
			file := "d/attestations/sha256-" + c.listed.Envelope.Hex() + ".json"
			if c.file != "" {
				file = c.file
			}
			require.NoError(t, a.file(file, int64(len(c.envelope)), bytes.NewReader(c.envelope)))
			wrong := a.finish()
			if c.want == "" {
				require.Empty(t, wrong)
				require.Equal(t, 1, a.own+a.others)
				require.Equal(t, c.others, a.others)
				return
			}
			require.NotEmpty(t, wrong)
			require.ErrorContains(t, wrong[0], c.want)
			require.ErrorContains(t, wrong[0], file, "what fails is named")
		})
	}
}

// TestExportedAttestationMissing: what is listed is there.
func TestExportedAttestationMissing(t *testing.T) {
	t.Parallel()
	k := newAttestKey(t)
	image := artifact.DigestOf([]byte("image"))
	list, err := json.Marshal([]artifact.Attached{{PredicateType: "scan", KeyID: k.public.ID, Envelope: image}})
	require.NoError(t, err)
	a, err := newAttestationCheck(&exported{content: map[string][]byte{"d/attestations.json": list}}, server.ExportSummary{Digests: []server.ExportedReference{{Digest: image, Folder: "d"}}},
		server.PublicKeys{Keys: []server.PublicKey{k.public}})
	require.NoError(t, err)
	require.NoError(t, a.file("d/attestations/sha256-1.json", maxEnvelope+1, bytes.NewReader(nil)))
	wrong := a.finish()
	require.Len(t, wrong, 2)
	require.ErrorContains(t, wrong[1], "lists it, and it is not there")
}
