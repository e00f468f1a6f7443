package main

import (
	"context"
	"io"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/registry"
	"waybill/signer"
)

// sboms keeps SBOMs as referrers of their images, one in each format.
type sboms struct {
	images *registry.Registry
	db     *postgres.DB
}

// maxSBOM bounds what is read of one, in bytes.
const maxSBOM = 256 << 20

// sbomTypes are the artifact types of the formats that the API names.
var sbomTypes = map[string]string{"cyclonedx": signer.CycloneDXType, "spdx": signer.SPDXType}

// all reports whether Waybill stored each of an image's SBOMs.
func (s sboms) all(ctx context.Context, subject artifact.StoredManifest) (bool, error) {
	for _, mediaType := range sbomTypes {
		if _, there, err := s.find(ctx, subject.Repository, subject.Digest, mediaType); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}

// attach stores each SBOM that Waybill did not store before. One that somebody else attached is theirs to answer for.
func (s sboms) attach(ctx context.Context, subject artifact.StoredManifest, cycloneDX, spdx []byte) error {
	for mediaType, document := range map[string][]byte{signer.CycloneDXType: cycloneDX, signer.SPDXType: spdx} {
		_, there, err := s.find(ctx, subject.Repository, subject.Digest, mediaType)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		image, err := signer.SBOM(mediaType, document, artifact.Descriptor{MediaType: subject.Manifest.MediaType, Digest: subject.Digest, Size: int64(len(subject.Body))})
		if err != nil {
			return err
		}
		if _, err := s.images.PutImage(ctx, artifact.System, subject.Repository, nil, image); err != nil {
			return err
		}
	}
	return nil
}

// SBOM returns Waybill's own SBOM of an image, cyclonedx or spdx.
func (s sboms) SBOM(ctx context.Context, repository artifact.Repository, digest artifact.Digest, format string) ([]byte, error) {
	m, there, err := s.find(ctx, repository, digest, sbomTypes[format])
	if err != nil {
		return nil, err
	}
	if !there || len(m.Manifest.Layers) != 1 {
		return nil, artifact.Errorf(artifact.NotFound, "%s@%s has no %s SBOM yet; it is attached when the image is scanned", repository, digest, format)
	}
	image, err := s.images.Image(ctx, repository, m.Digest)
	if err != nil {
		return nil, err
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	r, err := layers[0].Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxSBOM))
}

func (s sboms) find(ctx context.Context, repository artifact.Repository, digest artifact.Digest, mediaType string) (artifact.StoredManifest, bool, error) {
	there, err := s.db.Referrers(ctx, repository, digest)
	if err != nil {
		return artifact.StoredManifest{}, false, err
	}
	for _, d := range there {
		if d.ArtifactType != mediaType {
			continue
		}
		m, err := s.db.Manifest(ctx, repository, d.Digest)
		if err != nil || m.PushedBy == artifact.System.Name {
			return m, err == nil, err
		}
	}
	return artifact.StoredManifest{}, false, nil
}
