package policy

import (
	"fmt"
	"strings"

	"waybill/artifact"
)

// allowedPlatforms are the parameters of platforms.
type allowedPlatforms struct {
	Allow   []string `yaml:"allow"`   // os/architecture[/variant], each with patterns; empty: any
	Require []string `yaml:"require"` // of every index, likewise
}

// bindPlatforms: images are for the platforms that are run here, and an index has those that it must have. An image's
// platform is what its config says; an index's, by which runtimes choose, what the index says.
func bindPlatforms(with Node, given bool) (check, error) {
	p, err := parameters[allowedPlatforms](with, given)
	if err != nil {
		return nil, err
	}
	if len(p.Allow)+len(p.Require) == 0 {
		return nil, with.Errorf("platforms wants allow, require or both, such as with: {allow: [linux/amd64, linux/arm64], require: [linux/amd64]}")
	}
	if err := checkPlatforms(with.At("$.allow"), p.Allow); err != nil {
		return nil, err
	}
	return p.check, checkPlatforms(with.At("$.require"), p.Require)
}

func (p allowedPlatforms) check(img Image) []finding {
	if img.of != indexes {
		return p.refuses(img.Config.Platform(), "the image")
	}
	var (
		found []finding
		has   []artifact.Platform
	)
	for _, d := range img.Subject.Manifest.Manifests {
		// What is for no platform is an attestation, or says in its own config what it is for.
		if d.Platform != nil && d.Platform.OS != "unknown" {
			has = append(has, *d.Platform)
			found = append(found, p.refuses(*d.Platform, d.Digest.Short())...)
		}
	}
	for _, pattern := range p.Require {
		missing := true
		for _, platform := range has {
			missing = missing && !anyPlatform([]string{pattern}, platform)
		}
		if missing {
			found = append(found, finding{evidence: []string{pattern}, message: fmt.Sprintf("the index has no image for %s; build for it too", pattern)})
		}
	}
	return found
}

func (p allowedPlatforms) refuses(platform artifact.Platform, what string) []finding {
	if len(p.Allow) == 0 || platform.OS != "" && platform.Architecture != "" && anyPlatform(p.Allow, platform) {
		return nil
	}
	name := platform.String()
	if platform.OS == "" || platform.Architecture == "" {
		name = "a platform that its config does not name"
	}
	return []finding{{evidence: []string{name}, message: fmt.Sprintf("%s is for %s; allowed are %s", what, name, strings.Join(p.Allow, ", "))}}
}
