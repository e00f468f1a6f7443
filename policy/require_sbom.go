package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"waybill/artifact"
)

// sbomTypes are the media types and predicate types of each format, without versions and parameters.
var sbomTypes = map[string][]string{
	"cyclonedx": {"application/vnd.cyclonedx", "cyclonedx.org/"},
	"spdx":      {"application/spdx", "text/spdx", "spdx.dev/"},
}

// requiredSBOM is the parameters of require-sbom.
type requiredSBOM struct {
	Formats []string `yaml:"formats"` // any of cyclonedx and spdx; default: both will do
}

// bindRequireSBOM: a list of what is in the image refers to it. As with provenance, promotions are asked.
func bindRequireSBOM(with Node, given bool) (check, error) {
	required, err := parameters[requiredSBOM](with, given)
	if err != nil {
		return nil, err
	}
	for i, format := range required.Formats {
		if sbomTypes[format] == nil {
			return nil, with.At("$.formats[%d]", i).Errorf("format %q is none; want cyclonedx or spdx", format)
		}
	}
	if len(required.Formats) == 0 {
		required.Formats = slices.Sorted(maps.Keys(sbomTypes))
	}
	return func(img Image) []finding {
		if slices.ContainsFunc(img.Referrers, required.has) {
			return nil
		}
		return []finding{{promotion: true, message: fmt.Sprintf("no SBOM is attached (%s), and a promotion asks for one; Waybill attaches its own when it has scanned the image", strings.Join(required.Formats, " or "))}}
	}, nil
}

func (r requiredSBOM) has(d artifact.Descriptor) bool {
	for _, format := range r.Formats {
		for _, prefix := range sbomTypes[format] {
			if strings.HasPrefix(d.ArtifactType, prefix) || strings.HasPrefix(predicateOf(d), prefix) {
				return true
			}
		}
	}
	return false
}
