//go:build goexperiment.jsonv2

package trivy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/aquasecurity/trivy/pkg/clock"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/sbom/cyclonedx"
	"github.com/aquasecurity/trivy/pkg/sbom/spdx"
	"github.com/aquasecurity/trivy/pkg/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	guuid "github.com/google/uuid"
	"github.com/spdx/tools-golang/spdx/v2/common"

	"waybill/scanner"
)

// trivyVersion is that of the library that this program is built with, as its command would print it.
var trivyVersion = sync.OnceValue(func() string {
	const trivy = "github.com/aquasecurity/trivy"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == trivy && m.Replace == nil {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return "unknown"
})

// sboms writes CycloneDX and SPDX. Their ids follow from the image, and their time is the request's, so that one scan has
// one of each.
func (s *Scanner) sboms(ctx context.Context, m scanner.MatchRequest, stored *stored, os ftypes.OS, results types.Results) (cycloneDX, spdxJSON []byte, err error) {
	var config v1.ConfigFile
	if err := json.Unmarshal(m.Config, &config); err != nil {
		return nil, nil, fmt.Errorf("image config: %w", err)
	}
	ctx = clock.With(ctx, m.Created)
	var seed [32]byte
	copy(seed[:], m.Digest.Hex())
	defer guuid.SetRand(nil)
	// Without vulnerabilities: an SBOM says what is in the image, and stays true when advisories change.
	var contents types.Results
	for _, r := range results {
		r.Vulnerabilities, r.Secrets, r.Misconfigurations = nil, nil, nil
		if len(r.Packages) > 0 {
			contents = append(contents, r)
		}
	}
	report := types.Report{SchemaVersion: 2, CreatedAt: m.Created, ArtifactName: m.Name + "@" + m.Digest.String(), ArtifactType: ftypes.TypeContainerImage, Results: contents,
		Metadata: types.Metadata{OS: &os, DiffIDs: stored.diffIDs, RepoDigests: []string{m.Name + "@" + m.Digest.String()}, ImageConfig: config}}

	guuid.SetRand(rand.NewChaCha8(seed))
	marshaler := cyclonedx.NewMarshaler(trivyVersion())
	bom, err := marshaler.MarshalReport(ctx, report)
	if err != nil {
		return nil, nil, fmt.Errorf("CycloneDX: %w", err)
	}
	tools := bom.Metadata.Tools.Components
	*tools = append(*tools, cdx.Component{Type: cdx.ComponentTypeApplication, Name: "waybill", Version: s.version})
	bom.SerialNumber = "urn:uuid:" + guuid.NewSHA1(guuid.NameSpaceURL, []byte(m.Digest.String())).String()
	var b bytes.Buffer
	if err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).Encode(bom); err != nil {
		return nil, nil, fmt.Errorf("CycloneDX: %w", err)
	}

	guuid.SetRand(rand.NewChaCha8(seed))
	document, err := spdx.NewMarshaler(trivyVersion()).MarshalReport(ctx, report)
	if err != nil {
		return nil, nil, fmt.Errorf("SPDX: %w", err)
	}
	document.CreationInfo.Creators = append(document.CreationInfo.Creators, common.Creator{CreatorType: "Tool", Creator: "waybill-" + s.version})
	spdxJSON, err = json.Marshal(document)
	if err != nil {
		return nil, nil, fmt.Errorf("SPDX: %w", err)
	}
	return b.Bytes(), spdxJSON, nil
}
