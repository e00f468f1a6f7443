package policy

import (
	"fmt"
	"strings"
	"time"

	"waybill/artifact"
)

// base is an image that others may be built from.
type base struct {
	Name    string    `yaml:"name"`    // as reasons call it
	Layers  []string  `yaml:"layers"`  // diff ids, lowest first, as `docker inspect` shows them (RootFS.Layers)
	Created time.Time `yaml:"created"` // base-age's alone: the day that somebody vouches for
}

// isBelow reports whether an image stands on the base's layers. Their ids are computed from bytes: no config can lie
// about them.
func (b base) isBelow(img Image) bool {
	if len(b.Layers) > len(img.Facts.Layers) {
		return false
	}
	for i, id := range b.Layers {
		if img.Facts.Layers[i].DiffID.String() != id {
			return false
		}
	}
	return true
}

func (b base) check(at Node) error {
	switch {
	case b.Name == "":
		return at.Errorf("a base wants a name, for the reasons")
	case len(b.Layers) == 0 || len(b.Layers) > artifact.MaxLayers:
		return at.Errorf("base %q wants its layers: the diff ids that `docker inspect` shows as RootFS.Layers, lowest first", b.Name)
	}
	for i, layer := range b.Layers {
		if id, err := artifact.ParseDigest(layer); err != nil || id.Algorithm() != "sha256" {
			return at.At("$.layers[%d]", i).Errorf("layer %q of base %q: want a diff id, sha256:<64 hex digits>", shortened(layer), b.Name)
		}
	}
	return nil
}

// The annotations by which builders name a base (OCI image-spec 1.1, annotations.md).
const (
	labelBaseName   = "org.opencontainers.image.base.name"
	labelBaseDigest = "org.opencontainers.image.base.digest"
)

// allowedBases are the parameters of allowed-bases.
type allowedBases struct {
	Bases []base `yaml:"bases"`
	// Claimed are patterns of org.opencontainers.image.base.name@base.digest that are believed. Nothing proves them: whoever
	// builds the image writes them.
	Claimed []string `yaml:"claimed"`
}

// bindAllowedBases: the lowest layers are those of a base that somebody chose.
func bindAllowedBases(with Node, given bool) (check, error) {
	allowed, err := parameters[allowedBases](with, given)
	if err != nil {
		return nil, err
	}
	if len(allowed.Bases)+len(allowed.Claimed) == 0 {
		return nil, with.Errorf("allowed-bases wants bases, such as with: {bases: [{name: debian-12, layers: ['sha256:…']}]}")
	}
	for i, b := range allowed.Bases {
		if err := b.check(with.At("$.bases[%d]", i)); err != nil {
			return nil, err
		}
		if !b.Created.IsZero() {
			return nil, with.At("$.bases[%d].created", i).Errorf("created is for the rule base-age")
		}
	}
	return allowed.check, checkGlobs(with.At("$.claimed"), "base", "a pattern such as registry.example.com/base/*@*", allowed.Claimed)
}

func (a allowedBases) check(img Image) []finding {
	var names []string
	for _, b := range a.Bases {
		if b.isBelow(img) {
			return nil
		}
		names = append(names, b.Name)
	}
	claim := claimedBase(img)
	if anyGlob(a.Claimed, claim) {
		return nil
	}
	says := "it does not say what it is built from"
	if claim != "@" {
		says = "its labels say it is built from " + shortened(claim)
	}
	lowest := "it has no layers"
	if len(img.Facts.Layers) > 0 {
		lowest = "its lowest layer is " + img.Facts.Layers[0].DiffID.String()
	}
	return []finding{{evidence: []string{claim}, message: fmt.Sprintf("the image stands on no base that is allowed here (%s): %s, and %s; build it from one of them", strings.Join(append(names, a.Claimed...), ", "), lowest, says)}}
}

func claimedBase(img Image) string {
	labels := img.Config.Config.Labels
	return labels[labelBaseName] + "@" + labels[labelBaseDigest]
}
