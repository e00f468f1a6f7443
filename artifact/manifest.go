package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// MaxManifest is the largest manifest or image config that is read, in bytes (distribution-spec 1.1 asks for at
// least 4 MiB).
const MaxManifest = 4 << 20

// Manifest is what a manifest or an index of any accepted media type says. Bytes are kept beside it, never
// re-encoded: the digest is of the bytes.
type Manifest struct {
	MediaType    string
	ArtifactType string // top-level artifactType, else the config's media type: what the referrers API answers
	Config       *Descriptor
	Layers       []Descriptor
	Manifests    []Descriptor // of an index
	Subject      *Descriptor
	Annotations  map[string]string
}

// IsIndex reports whether m lists manifests rather than layers.
func (m Manifest) IsIndex() bool {
	return m.MediaType == MediaTypeIndex || m.MediaType == MediaTypeDockerList
}

// Blobs returns what must be here: the config and the layers, in that order, without those that may lie elsewhere; none
// of an index.
func (m Manifest) Blobs() []Descriptor {
	var all []Descriptor
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	for _, d := range m.Layers {
		if !d.IsForeign() {
			all = append(all, d)
		}
	}
	return all
}

// IsForeign reports whether a layer need not be pushed with its image: it is a non-distributable one (OCI image-spec
// 1.1, layer.md) or one of Docker's foreign ones, which their publisher serves.
func (d Descriptor) IsForeign() bool {
	return strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.") || strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.")
}

// Lacks returns the layers of another manifest that m does not have. Signatures of one payload by two keys are layers of
// one digest that differ in their annotations.
func (m Manifest) Lacks(other Manifest) []Descriptor {
	var lacks []Descriptor
	for _, d := range other.Layers {
		if !slices.ContainsFunc(m.Layers, func(have Descriptor) bool {
			return have.Digest == d.Digest && maps.Equal(have.Annotations, d.Annotations)
		}) {
			lacks = append(lacks, d)
		}
	}
	return lacks
}

// Without returns descriptors but those of some digests.
func Without(all []Descriptor, drops []Digest) []Descriptor {
	return slices.DeleteFunc(slices.Clone(all), func(d Descriptor) bool { return slices.Contains(drops, d.Digest) })
}

// Tar layer media types start so; a layer of any other type is never unpacked by a runtime.
var layerPrefixes = []string{
	"application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.",
	"application/vnd.docker.container.image.rootfs.",
}

// Layers of these types belong to signatures and attestations, which borrow the image config's media type.
var statementLayers = []string{
	"application/vnd.dev.cosign.", "application/vnd.dsse.", "application/vnd.in-toto+json",
	"application/vnd.dev.sigstore.bundle", "application/vnd.cyclonedx", "application/vnd.syft+json",
	"application/spdx+json", "text/spdx",
}

// ClaimsStatements reports whether there are layers and every one claims to be a signature's or an attestation's. It is
// a claim: runtimes unpack layers whatever type they bear, so who believes it looks at the bytes first.
func (m Manifest) ClaimsStatements() bool {
	return len(m.Layers) > 0 && !slices.ContainsFunc(m.Layers, func(d Descriptor) bool {
		return !slices.ContainsFunc(statementLayers, func(p string) bool { return strings.HasPrefix(d.MediaType, p) })
	})
}

// IsImage reports whether a runtime could run m, given its config's bytes. It errs towards "image", since only
// images meet the rules about images: a config that could serve as an image config makes an image whatever
// media type it or its layers claim. Signatures borrow that config; see ClaimsStatements.
func (m Manifest) IsImage(config []byte) bool {
	if m.IsIndex() || m.Config == nil {
		return false
	}
	if m.Config.MediaType == MediaTypeConfig || m.Config.MediaType == MediaTypeDockerConfig {
		return true
	}
	var probe struct {
		RootFS struct {
			DiffIDs []json.RawMessage `json:"diff_ids"`
		} `json:"rootfs"`
	}
	// Some pass over what follows, and of two keys that are one to some, either may count: then having it is enough.
	first := func(into any) { _ = json.NewDecoder(bytes.NewReader(config)).Decode(into) }
	first(&probe)
	if one, _ := ambiguous(config, "rootfs"); one == "" {
		return len(probe.RootFS.DiffIDs) > 0
	}
	var keys map[string]json.RawMessage
	first(&keys)
	return slices.ContainsFunc(slices.Collect(maps.Keys(keys)), func(key string) bool { return fold(key) == "rootfs" })
}

// followers are the configs of artifacts that speak for their subject: none (OCI image-spec 1.1, "Guidelines for Artifact Usage"), an image's, as
// cosign has, or a document's.
var followers = []string{"", "application/vnd.oci.empty.", "application/vnd.oci.image.config.", "application/vnd.docker.container.image.", "application/vnd.cyclonedx", "application/spdx",
	"text/spdx", "application/vnd.in-toto", "application/vnd.dsse", "application/vnd.openvex", "application/vnd.dev.sigstore.", "application/vnd.dev.cosign", "application/vnd.cncf.notary.", "application/vnd.unknown.config."}

// Follows reports whether an artifact goes where its subject goes. What is itself something to run or install, such as a chart
// or a module, is promoted by itself; so is an index.
func (m Manifest) Follows() bool {
	return !m.IsIndex() && (m.Config == nil || slices.ContainsFunc(followers, func(p string) bool {
		return p != "" && strings.HasPrefix(m.Config.MediaType, p) || m.Config.MediaType == p
	}))
}

// IsLayer reports whether a media type is that of an image layer's tar.
func IsLayer(mediaType string) bool {
	return slices.ContainsFunc(layerPrefixes, func(p string) bool { return strings.HasPrefix(mediaType, p) })
}

// malformed says of JSON that it is not what it should be, in JSON's words and not in Go's.
func malformed(err error) string {
	var typed *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return "the body is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the body is cut off"
	case !errors.As(err, &typed):
		return err.Error()
	}
	what, want := typed.Field, "a number"
	if what == "" {
		what = "the body"
	}
	switch typed.Type.Kind() {
	case reflect.Slice:
		want = "an array"
	case reflect.Struct, reflect.Map, reflect.Pointer:
		want = "an object"
	case reflect.String:
		want = "a string"
	}
	return what + " is of type " + typed.Value + "; want " + want
}

// ParseManifest parses strictly what the OCI image spec and Docker schema 2 require. contentType is the request's
// Content-Type without parameters; it must agree with the body's own mediaType where both stand
// (distribution-spec 1.1, "Pushing Manifests").
func ParseManifest(contentType string, body []byte) (Manifest, error) {
	var raw struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *Descriptor       `json:"config"`
		Layers        []Descriptor      `json:"layers"`
		Manifests     []Descriptor      `json:"manifests"`
		Subject       *Descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if len(body) > MaxManifest {
		return Manifest{}, Coded(TooLarge, "SIZE_INVALID", "manifest of %d bytes: at most %d are accepted", len(body), MaxManifest)
	}
	invalid := func(format string, args ...any) (Manifest, error) {
		return Manifest{}, Coded(Invalid, "MANIFEST_INVALID", "manifest: "+format, args...)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&raw); err != nil {
		return invalid("%s", malformed(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("bytes follow the JSON document")
	}
	if one, other := ambiguousWithin(body, 4); one != "" {
		return invalid("it has both %.80q and %.80q in one object, of which one client takes this and another that", one, other)
	}
	if raw.SchemaVersion == 1 {
		return invalid("schemaVersion is 1, a format that Docker gave up, whose digests do not cover what is run; push the image again with a client that is newer than 2016, or copy it with `skopeo copy --format oci`")
	}
	if raw.SchemaVersion != 2 {
		return invalid("schemaVersion is %d; only 2 is accepted", raw.SchemaVersion)
	}
	m := Manifest{MediaType: contentType, ArtifactType: raw.ArtifactType, Config: raw.Config, Layers: raw.Layers,
		Manifests: raw.Manifests, Subject: raw.Subject, Annotations: raw.Annotations}
	if m.MediaType == "" {
		m.MediaType = raw.MediaType
	}
	if raw.MediaType != "" && raw.MediaType != m.MediaType {
		return invalid("its mediaType %q is not the request's Content-Type %q", raw.MediaType, m.MediaType)
	}
	switch m.MediaType {
	case MediaTypeManifest, MediaTypeDockerManifest:
		if m.Config == nil || len(m.Manifests) > 0 {
			return invalid("an image manifest has a config and no manifests")
		}
		if m.ArtifactType == "" {
			m.ArtifactType = m.Config.MediaType
		}
	case MediaTypeIndex, MediaTypeDockerList:
		if m.Config != nil || len(m.Layers) > 0 {
			return invalid("an index has manifests, and neither config nor layers")
		}
	default:
		return invalid("media type %.120q is not accepted; push an OCI or Docker schema 2 manifest or index", m.MediaType)
	}
	return m, m.check()
}

// check refuses descriptors that no client can follow.
func (m Manifest) check() error {
	named := func(what string, ds ...Descriptor) error {
		for i, d := range ds {
			if d.Digest.IsZero() || d.Size < 0 || d.MediaType == "" {
				return Coded(Invalid, "MANIFEST_INVALID", "manifest: %s needs mediaType, digest and a size of at least 0", strings.ReplaceAll(what, "%d", strconv.Itoa(i)))
			}
		}
		return nil
	}
	if m.Config != nil {
		if err := named("config", *m.Config); err != nil {
			return err
		}
	}
	if m.Subject != nil {
		if err := named("subject", *m.Subject); err != nil {
			return err
		}
	}
	if err := named("layers[%d]", m.Layers...); err != nil {
		return err
	}
	return named("manifests[%d]", m.Manifests...)
}
