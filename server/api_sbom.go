package server

import (
	"context"

	"waybill/artifact"
)

// SBOMs are the documents that say what is in an image.
type SBOMs interface {
	// SBOM returns the one of an image that Waybill made, cyclonedx or spdx; NotFound while there is none.
	SBOM(ctx context.Context, r artifact.Repository, d artifact.Digest, format string) ([]byte, error)
}

// VEX is what documents that refer to an image say of its findings.
type VEX interface {
	// Apply adds to findings what trusted documents say of them.
	Apply(ctx context.Context, r artifact.Repository, d artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error)
}

type (
	sbomInput struct {
		Ref    string `query:"ref" required:"true" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST" example:"shop/returns:v456"`
		Format string `query:"format" enum:"cyclonedx,spdx" default:"cyclonedx"`
	}
	sbomOutput struct {
		ContentType string `header:"Content-Type"`
		Body        []byte
	}
)

var sbomContentTypes = map[string]string{"cyclonedx": "application/vnd.cyclonedx+json", "spdx": "application/spdx+json"}

// sbom answers with the document as it was attached, byte by byte.
func (a *API) sbom(ctx context.Context, p artifact.Principal, in *sbomInput) (*sbomOutput, error) {
	s, err := a.look(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	if s.Manifest.IsIndex() {
		return nil, artifact.Errorf(artifact.Invalid, "%s@%s is an index; each of its images has an SBOM: ask for one by its digest (`waybill inspect` lists them)", s.Repository, s.Digest)
	}
	if !s.IsImage {
		return nil, artifact.Errorf(artifact.Invalid, "%s@%s is no image; only images have an SBOM", s.Repository, s.Digest)
	}
	document, err := a.cfg.SBOMs.SBOM(ctx, s.Repository, s.Digest, in.Format)
	if err != nil {
		return nil, err
	}
	return &sbomOutput{ContentType: sbomContentTypes[in.Format], Body: document}, nil
}
