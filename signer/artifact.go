package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	cosignstatic "github.com/sigstore/cosign/v2/pkg/oci/static"

	"waybill/artifact"
)

// What cosign calls things: its annotation for a signature, and the media types of what it attaches.
const (
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	dsseType            = "application/vnd.dsse.envelope.v1+json"
	intotoType          = "application/vnd.in-toto+json"
)

// existing is an image at a cosign tag, to be added to.
type existing struct{ gcr.Image }

// Get is for readers of signatures; appending does not ask.
func (existing) Get() ([]oci.Signature, error) { return nil, nil }

func base(image gcr.Image) oci.Signatures {
	if image == nil {
		return empty.Signatures()
	}
	return existing{image}
}

// AppendSignature returns the image at a .sig tag with one more signature; image is nil when there is none yet.
func AppendSignature(image gcr.Image, s Signature) (gcr.Image, error) {
	signature, err := cosignstatic.NewSignature(s.Payload, s.Base64)
	if err != nil {
		return nil, err
	}
	return mutate.AppendSignatures(base(image), false, signature)
}

// signed reports whether an image at a .sig tag holds a signature by this key of a payload.
func (s *Signer) signed(image gcr.Image, payload []byte) (bool, error) {
	return anyLayer(image, func(content []byte, annotations map[string]string) bool {
		raw, err := base64.StdEncoding.DecodeString(annotations[signatureAnnotation])
		return err == nil && bytes.Equal(content, payload) && s.key.VerifySignature(bytes.NewReader(raw), bytes.NewReader(content)) == nil
	})
}

// maxAttached bounds what is read of one layer that somebody attached, in bytes.
const maxAttached = 32 << 20

func anyLayer(image gcr.Image, matches func(content []byte, annotations map[string]string) bool) (bool, error) {
	if image == nil {
		return false, nil
	}
	manifest, err := image.Manifest()
	if err != nil {
		return false, err
	}
	for _, d := range manifest.Layers {
		if d.Size > maxAttached {
			continue
		}
		layer, err := image.LayerByDigest(d.Digest)
		if err != nil {
			return false, err
		}
		r, err := layer.Compressed()
		if err != nil {
			return false, err
		}
		content, err := io.ReadAll(io.LimitReader(r, maxAttached))
		r.Close()
		if err != nil {
			return false, err
		}
		if matches(content, d.Annotations) {
			return true, nil
		}
	}
	return false, nil
}

// SBOM is a document of a media type, one of those below, as an artifact whose subject is the image.
func SBOM(mediaType string, document []byte, subject artifact.Descriptor) (gcr.Image, error) {
	return attach(mediaType, mediaType, document, subject, nil)
}

// The media types of SBOMs, which are their artifact types too.
const (
	CycloneDXType = "application/vnd.cyclonedx+json"
	SPDXType      = "application/spdx+json"
)

// attached is a partial.CompressedImageCore: the empty config and one layer.
type attached struct {
	manifest []byte
	layer    gcr.Layer
}

var emptyConfig = []byte("{}")

func attach(artifactType, mediaType string, content []byte, subject artifact.Descriptor, annotations map[string]string) (gcr.Image, error) {
	subject.Annotations, subject.Platform, subject.URLs, subject.ArtifactType = nil, nil, nil, ""
	manifest, err := json.Marshal(struct {
		SchemaVersion int                   `json:"schemaVersion"`
		MediaType     string                `json:"mediaType"`
		ArtifactType  string                `json:"artifactType"`
		Config        artifact.Descriptor   `json:"config"`
		Layers        []artifact.Descriptor `json:"layers"`
		Subject       artifact.Descriptor   `json:"subject"`
		Annotations   map[string]string     `json:"annotations,omitempty"`
	}{2, artifact.MediaTypeManifest, artifactType,
		artifact.Descriptor{MediaType: artifact.MediaTypeEmpty, Digest: artifact.DigestOf(emptyConfig), Size: int64(len(emptyConfig))},
		[]artifact.Descriptor{{MediaType: mediaType, Digest: artifact.DigestOf(content), Size: int64(len(content))}}, subject, annotations})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(&attached{manifest, static.NewLayer(content, types.MediaType(mediaType))})
}

func (a *attached) RawManifest() ([]byte, error)   { return a.manifest, nil }
func (a *attached) RawConfigFile() ([]byte, error) { return emptyConfig, nil }
func (a *attached) MediaType() (types.MediaType, error) {
	return types.OCIManifestSchema1, nil
}

func (a *attached) LayerByDigest(h gcr.Hash) (partial.CompressedLayer, error) {
	d, err := a.layer.Digest()
	if err == nil && d != h {
		err = errors.New("no such layer")
	}
	return a.layer, err
}
