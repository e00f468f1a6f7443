package signer_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// attachments is a repository in memory: what refers to whatever is asked for.
type attachments struct {
	manifests map[artifact.Digest]artifact.StoredManifest
	blobs     map[artifact.Digest][]byte
	referrers []artifact.Descriptor
	legacy    artifact.Digest
}

func (a *attachments) Referrers(context.Context, artifact.Repository, artifact.Digest) ([]artifact.Descriptor, error) {
	return a.referrers, nil
}

func (a *attachments) ResolveTag(_ context.Context, _ artifact.Repository, tag artifact.Tag) (artifact.Digest, error) {
	if a.legacy.IsZero() {
		return a.legacy, artifact.Errorf(artifact.NotFound, "no tag %s", tag)
	}
	return a.legacy, nil
}

func (a *attachments) Manifest(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	m, ok := a.manifests[d]
	if !ok {
		return m, artifact.Errorf(artifact.NotFound, "no manifest %s", d)
	}
	return m, nil
}

func (a *attachments) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	return a.blobs[d], nil
}

// attach makes an artifact of envelopes, and returns its digest.
func (a *attachments) attach(mediaType string, envelopes ...[]byte) artifact.Digest {
	var m artifact.Manifest
	var all []byte
	for _, e := range envelopes {
		m.Layers = append(m.Layers, artifact.Descriptor{MediaType: mediaType, Digest: artifact.DigestOf(e), Size: int64(len(e))})
		a.blobs[artifact.DigestOf(e)] = e
		all = append(all, e...)
	}
	d := artifact.DigestOf(append(all, mediaType...))
	a.manifests[d] = artifact.StoredManifest{Digest: d, Manifest: m}
	return d
}

const (
	testResult = "https://in-toto.io/attestation/test-result/v0.1"
	dsse       = "application/vnd.dsse.envelope.v1+json"
	intoto     = "application/vnd.in-toto+json"
)

func TestAttested(t *testing.T) {
	t.Parallel()
	ours, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	theirs, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	image, other := artifact.DigestOf([]byte("image")), artifact.DigestOf([]byte("other"))
	attest := func(s *signer.Signer, d artifact.Digest, predicateType, result string) []byte {
		documents, err := policy.Parse("baseline.yaml", policy.Baseline())
		require.NoError(t, err)
		pass, err := policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}}).Artifact(artifact.Subject{Repository: repository, Digest: d}).Pass()
		require.NoError(t, err)
		a, err := s.Attest(pass, predicateType, json.RawMessage(`{"result":"`+result+`"}`))
		require.NoError(t, err)
		return a.Envelope
	}
	good := attest(ours, image, testResult, "PASSED")
	var tampered map[string]any
	require.NoError(t, json.Unmarshal(good, &tampered))
	tampered["payload"] = "e30="
	broken, err := json.Marshal(tampered)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		mediaType string
		envelope  []byte
		keys      []string
		want      int
	}{
		"by our key":          {dsse, good, nil, 1},
		"of cosign's type":    {intoto, good, nil, 1},
		"by our key, named":   {dsse, good, []string{string(theirs.PublicKeyPEM()), string(ours.PublicKeyPEM())}, 1},
		"by another key":      {dsse, attest(theirs, image, testResult, "PASSED"), nil, 0},
		"by their key, named": {dsse, attest(theirs, image, testResult, "PASSED"), []string{string(theirs.PublicKeyPEM())}, 1},
		"of another image":    {dsse, attest(ours, other, testResult, "PASSED"), nil, 0},
		"of another type":     {dsse, attest(ours, image, "https://example.org/other", "PASSED"), nil, 0},
		"changed afterwards":  {dsse, broken, nil, 0},
		"no JSON":             {dsse, []byte("hello"), nil, 0},
		"unsigned":            {dsse, []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}`), nil, 0},
		"another media type":  {"text/plain", good, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, legacy := range []bool{true, false} {
				a := &attachments{manifests: map[artifact.Digest]artifact.StoredManifest{}, blobs: map[artifact.Digest][]byte{}}
				d := a.attach(c.mediaType, c.envelope)
				if legacy {
					a.legacy = d
				} else {
					a.referrers = []artifact.Descriptor{{Digest: d, ArtifactType: intoto}, {Digest: other, ArtifactType: intoto}}
				}
				got, err := signer.NewAttestations(a, ours).Attested(t.Context(), repository, image, testResult, c.keys)
				require.NoError(t, err)
				require.Len(t, got, c.want)
				for _, p := range got {
					require.Equal(t, "PASSED", p["result"])
				}
			}
		})
	}

	many := &attachments{manifests: map[artifact.Digest]artifact.StoredManifest{}, blobs: map[artifact.Digest][]byte{}}
	var junk [][]byte
	for i := range 101 {
		junk = append(junk, []byte{byte(i)})
	}
	many.legacy = many.attach(dsse, junk...)
	_, err = signer.NewAttestations(many, ours).Attested(t.Context(), repository, image, testResult, nil)
	require.Equal(t, artifact.TooLarge, artifact.KindOf(err), "what cannot be looked at whole is no proof")
}
