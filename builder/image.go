package builder

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"waybill/artifact"
)

// Artifact is what a build makes: a v1.Image, or a v1.ImageIndex of one for each platform.
type Artifact interface {
	MediaType() (types.MediaType, error)
	Digest() (v1.Hash, error)
	RawManifest() ([]byte, error)
}

// assembled is a partial.CompressedImageCore of a config and layers.
type assembled struct {
	config, manifest []byte
	layers           map[v1.Hash]v1.Layer
}

// assemble writes an OCI image. The config is marshalled from BuildKit's own type, with all that Docker adds to OCI's.
func assemble(spec dockerspec.DockerOCIImage, layers []v1.Layer) (v1.Image, error) {
	config, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	a := &assembled{config: config, layers: map[v1.Hash]v1.Layer{}}
	digest := artifact.DigestOf(config)
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: v1.Hash{Algorithm: digest.Algorithm(), Hex: digest.Hex()}}}
	for _, l := range layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return nil, err
		}
		if oci, ok := ociLayers[d.MediaType]; ok {
			d.MediaType = oci // the bytes are the same
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, URLs: d.URLs})
		a.layers[d.Digest] = l
	}
	if a.manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(a)
}

var ociLayers = map[types.MediaType]types.MediaType{
	types.DockerLayer: types.OCILayer, types.DockerUncompressedLayer: types.OCIUncompressedLayer, types.DockerForeignLayer: types.OCIRestrictedLayer,
}

func (a *assembled) RawConfigFile() ([]byte, error)      { return a.config, nil }
func (a *assembled) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a *assembled) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (a *assembled) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	l, ok := a.layers[h]
	if !ok {
		return nil, fmt.Errorf("the image has no layer %s", h)
	}
	return l, nil
}

// assembleIndex makes an OCI index of images, in the order in which their platforms were asked for.
func assembleIndex(targets []*Target, images []v1.Image) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, image := range images {
		p := targets[i].platform
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}})
	}
	return index
}
