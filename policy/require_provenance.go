package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// requiredProvenance is the parameters of require-provenance.
type requiredProvenance struct {
	Authorities `yaml:",inline"`
	Types       []string `yaml:"types"`    // patterns of predicate types; default: SLSA provenance of any version
	Builders    []string `yaml:"builders"` // patterns of the builder's id
	Sources     []string `yaml:"sources"`  // patterns of the source repository
	CEL         string   `yaml:"cel"`      // true of the statement
	Message     string   `yaml:"message"`
	At          moment   `yaml:"at"`

	condition Condition
}

// bindRequireProvenance: a statement of how the image was built refers to it. With keys or identities it is verified, and
// what it says is looked at. Without, it says only that a statement is there; who may push to the repository may attach
// one.
func bindRequireProvenance(with Node, given bool) (check, error) {
	required, err := requireProvenance(with, given)
	if err != nil {
		return nil, err
	}
	if !required.None() {
		return required.verified(), nil
	}
	return func(img Image) []finding {
		if slices.ContainsFunc(img.Referrers, func(d artifact.Descriptor) bool { return anyGlob(required.Types, predicateOf(d)) }) {
			return nil
		}
		return []finding{{promotion: true, message: fmt.Sprintf("no provenance is attached (%s), and a promotion asks for it; attach it, such as with `cosign attest`, or have Waybill build the image", strings.Join(required.Types, ", "))}}
	}, nil
}

func requireProvenance(with Node, given bool) (required requiredProvenance, err error) {
	if required, err = parameters[requiredProvenance](with, given); err != nil {
		return required, err
	}
	if len(required.Types) == 0 {
		required.Types = []string{"https://slsa.dev/provenance/*"}
	}
	for _, list := range []struct {
		key, what, example string
		patterns           []string
	}{
		{"types", "predicate type", "https://slsa.dev/provenance/*", required.Types},
		{"builders", "builder", "https://github.com/acme/ci/.github/workflows/build.yml@refs/tags/*", required.Builders},
		{"sources", "source", "https://github.com/acme/*", required.Sources},
	} {
		for i, p := range list.patterns {
			list.patterns[i] = predicate(p)
			if !artifact.ValidGlob(list.patterns[i]) {
				return required, with.At("$.%s[%d]", list.key, i).Errorf("%s %q: want a pattern such as %s", list.what, p, list.example)
			}
		}
	}
	if err := required.Check(with); err != nil {
		return required, err
	}
	if required.None() && len(required.Builders)+len(required.Sources)+len(required.CEL)+len(required.At) > 0 {
		return required, with.Errorf("builders, sources, cel and at want keys or identities too: what a statement says that nobody verified is worth nothing")
	}
	if err := required.At.check(with); err != nil {
		return required, err
	}
	return required, required.compile(with)
}

func (r *requiredProvenance) compile(with Node) (err error) {
	if r.CEL == "" {
		return nil
	}
	if len(r.Message) > 500 {
		return with.At("$.message").Errorf("the message has %d bytes; at most 500 are taken", len(r.Message))
	}
	if r.condition, err = NewCondition(r.CEL, "provenance as it should be", "predicate", "predicateType", "certificate"); err != nil {
		return with.At("$.cel").Errorf("%v", err)
	}
	if r.Message == "" {
		r.Message = "this is not true of it: " + strings.Join(strings.Fields(r.CEL), " ")
	}
	return nil
}

func (r requiredProvenance) question() SignatureQuestion {
	return SignatureQuestion{Authorities: r.Authorities, Attestation: true, Types: r.Types}
}

func asksProvenance(with Node, given bool) *SignatureQuestion {
	required, err := requireProvenance(with, given)
	if err != nil || required.None() {
		return nil
	}
	q := required.question()
	return &q
}

// verified asks for a statement that one of the authorities signed and that says what it should.
func (r requiredProvenance) verified() check {
	id := r.question().ID()
	return func(img Image) []finding {
		signed := Signed{}
		for _, s := range img.Signed[id].Statements {
			why := r.fails(s)
			if why == "" {
				return nil
			}
			signed.Fail(fmt.Sprintf("the one by %s %s", s.Signer, why))
		}
		signed.add(Signed{Against: img.Signed[id].Against})
		nothing := fmt.Sprintf("no provenance by %s is attached (%s); attach it, such as with `cosign attest` or actions/attest-build-provenance", r.Authorities, strings.Join(r.Types, ", "))
		return r.At.lacking(img, signed.against("provenance", nothing, r.Authorities), signed.Against)
	}
}

// fails says why a statement that was verified does not do; "" when it does.
func (r requiredProvenance) fails(s Statement) string {
	if builder := builderOf(s); len(r.Builders) > 0 && !anyGlob(r.Builders, predicate(builder)) {
		if builder == "" {
			return "does not say who built it"
		}
		return fmt.Sprintf("says that %.200q built it, which is none of %s", builder, strings.Join(r.Builders, ", "))
	}
	if len(r.Sources) > 0 {
		sources := sourcesOf(s)
		if len(sources) == 0 {
			return "does not say which repository it was built from"
		}
		for _, source := range sources {
			if !anyGlob(r.Sources, predicate(source)) {
				return fmt.Sprintf("says that it was built from %.200q, which is none of %s", source, strings.Join(r.Sources, ", "))
			}
		}
	}
	if r.CEL == "" {
		return ""
	}
	certificate := map[string]any{}
	for name, value := range s.Certificate {
		certificate[name] = value
	}
	ok, err := r.condition.Holds(map[string]any{"predicate": s.Predicate, "predicateType": s.PredicateType, "certificate": certificate})
	switch {
	case ok:
		return ""
	case err != nil:
		return fmt.Sprintf("is not as it should be: %s (the expression cannot be evaluated: %v)", r.Message, err)
	}
	return "is not as it should be: " + r.Message
}

// builderOf returns the builder's id: of SLSA provenance v1 runDetails.builder.id, of older ones builder.id.
func builderOf(s Statement) string {
	if id, ok := textAt(s.Predicate, "runDetails", "builder", "id"); ok {
		return id
	}
	id, _ := textAt(s.Predicate, "builder", "id")
	return id
}

// Where SLSA provenance names the one repository that was built, by build type: GitHub's, Google's, the generic ones of
// v1, and v0.2's.
var sourcePaths = [][]string{
	{"buildDefinition", "externalParameters", "workflow", "repository"},
	{"buildDefinition", "externalParameters", "buildConfigSource", "repository"},
	{"buildDefinition", "externalParameters", "configSource", "uri"},
	{"buildDefinition", "externalParameters", "source", "uri"},
	{"buildDefinition", "externalParameters", "source"},
	{"invocation", "configSource", "uri"},
}

// sourcesOf returns the repository that was built, as the certificate has it and as the statement has it: both must fit.
// What is only one dependency among others is not taken for it.
func sourcesOf(s Statement) []string {
	var all []string
	if uri := s.Certificate["sourceRepositoryURI"]; uri != "" {
		all = append(all, sourceRepository(uri))
	}
	for _, path := range sourcePaths {
		if uri, ok := textAt(s.Predicate, path...); ok && uri != "" {
			return append(all, sourceRepository(uri))
		}
	}
	return all
}

// sourceRepository is a repository's address without how git is told to fetch it and which commit is meant.
func sourceRepository(uri string) string {
	uri = strings.TrimPrefix(uri, "git+")
	uri, _, _ = strings.Cut(uri, "#")
	uri, _, _ = strings.Cut(uri, "?")
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	host, path, _ := strings.Cut(rest, "/")
	path, _, _ = strings.Cut(path, "@") // one before the host is a user's name, and stays
	return scheme + "://" + host + "/" + strings.TrimSuffix(strings.TrimSuffix(path, "/"), ".git")
}

func textAt(in map[string]any, path ...string) (string, bool) {
	for _, name := range path[:len(path)-1] {
		next, ok := in[name].(map[string]any)
		if !ok {
			return "", false
		}
		in = next
	}
	text, ok := in[path[len(path)-1]].(string)
	return text, ok
}

// Where a referrer says what its statement is about: Waybill and BuildKit, cosign's bundles.
var predicateAnnotations = []string{"in-toto.io/predicate-type", "dev.sigstore.bundle.predicateType", "predicateType"}

// predicateOf returns the predicate type that a referrer names, without its scheme.
func predicateOf(d artifact.Descriptor) string { return predicate(PredicateHint(d)) }

// PredicateHint returns the predicate type that a referrer or a layer says its statement is of; "" when it does not.
func PredicateHint(d artifact.Descriptor) string {
	for _, name := range predicateAnnotations {
		if t := d.Annotations[name]; t != "" {
			return t
		}
	}
	return ""
}

// predicate is a type as patterns, which know one slash at a time, match it.
func predicate(t string) string { return strings.TrimPrefix(t, "https://") }
