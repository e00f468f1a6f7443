package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// attestedTypes are the parameters of require-provenance.
type attestedTypes struct {
	Types []string `yaml:"types"` // patterns of predicate types; default: SLSA provenance of any version
}

// bindRequireProvenance: a statement of how the image was built refers to it. No push can have one yet, so that it is
// asked of promotions. It says that a statement is there; who may push to the repository may attach one.
func bindRequireProvenance(with Node, given bool) (check, error) {
	wanted, err := parameters[attestedTypes](with, given)
	if err != nil {
		return nil, err
	}
	if len(wanted.Types) == 0 {
		wanted.Types = []string{"https://slsa.dev/provenance/*"}
	}
	for i, p := range wanted.Types {
		if p = predicate(p); !artifact.ValidGlob(p) {
			return nil, with.At("$.types[%d]", i).Errorf("predicate type %q: want a pattern such as https://slsa.dev/provenance/*", wanted.Types[i])
		}
		wanted.Types[i] = predicate(p)
	}
	return func(img Image) []finding {
		if slices.ContainsFunc(img.Referrers, func(d artifact.Descriptor) bool { return anyGlob(wanted.Types, predicateOf(d)) }) {
			return nil
		}
		return []finding{{promotion: true, message: fmt.Sprintf("no provenance is attached (%s), and a promotion asks for it; attach it, such as with `cosign attest`, or have Waybill build the image", strings.Join(wanted.Types, ", "))}}
	}, nil
}

// Where a referrer says what its statement is about: Waybill and BuildKit, cosign's bundles.
var predicateAnnotations = []string{"in-toto.io/predicate-type", "dev.sigstore.bundle.predicateType", "predicateType"}

// predicateOf returns the predicate type that a referrer names, without its scheme.
func predicateOf(d artifact.Descriptor) string {
	for _, name := range predicateAnnotations {
		if t := d.Annotations[name]; t != "" {
			return predicate(t)
		}
	}
	return ""
}

// predicate is a type as patterns, which know one slash at a time, match it.
func predicate(t string) string { return strings.TrimPrefix(t, "https://") }
