package artifact

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// ImageConfig is the image config of OCI image-spec 1.1, config.md, as far as Waybill reads it.
type ImageConfig struct {
	Created      *time.Time `json:"created,omitempty"`
	Author       string     `json:"author,omitempty"`
	Architecture string     `json:"architecture"`
	OS           string     `json:"os"`
	Variant      string     `json:"variant,omitempty"`
	Config       RunConfig  `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []Digest `json:"diff_ids"`
	} `json:"rootfs"`
	History []History `json:"history,omitempty"`
}

// RunConfig is the execution part of an image config.
type RunConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	Healthcheck  Healthcheck         `json:"Healthcheck,omitzero"`
}

// Healthcheck is what docker runs in a container from time to time (Docker image spec 1.3, "Healthcheck").
type Healthcheck struct {
	Test []string `json:"Test,omitempty"` // NONE, or CMD or CMD-SHELL and the words of a command
}

// History is how one layer came to be, or a step that made none (EmptyLayer).
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// ParseImageConfig parses an image config; it refuses one whose diff_ids do not match the number of layers, since
// no runtime takes it and no fact could be tied to it.
func ParseImageConfig(body []byte, layers int) (ImageConfig, error) {
	var c ImageConfig
	if err := json.Unmarshal(body, &c); err != nil {
		return c, Coded(Invalid, "MANIFEST_INVALID", "image config: %w", err)
	}
	if one, other := ambiguous(body, "config", "rootfs"); one != "" {
		return c, Coded(Invalid, "MANIFEST_INVALID", "image config: it has both %.80q and %.80q, of which one runtime takes this and another that", one, other)
	}
	if key, name := misspelt(body, configNames); key != "" {
		return c, Coded(Invalid, "MANIFEST_INVALID", "image config: it has %.80q, which some runtimes take for %q and others pass over; spell it as the image spec does", key, name)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return c, Coded(Invalid, "MANIFEST_INVALID", "image config: rootfs has %s, the manifest has %s", Count(len(c.RootFS.DiffIDs), "diff_id"), Count(layers, "layer"))
	}
	return c, nil
}

// names are the keys of a JSON object that count, each with those of the object that it stands for.
type names map[string]names

// configNames are those of an image config by which a runtime runs it.
var configNames = names{
	"os": nil, "architecture": nil, "variant": nil, "rootfs": {"type": nil, "diff_ids": nil},
	"config": {"User": nil, "ExposedPorts": nil, "Env": nil, "Entrypoint": nil, "Cmd": nil, "Volumes": nil, "WorkingDir": nil, "Labels": nil, "StopSignal": nil, "Healthcheck": {"Test": nil}},
}

// misspelt returns a key that is one of the names in another case: Go's runtimes read it all the same, others do not.
func misspelt(object []byte, of names) (key, name string) {
	var values map[string]json.RawMessage
	if json.Unmarshal(object, &values) != nil {
		return "", ""
	}
	for key, value := range values {
		for name, below := range of {
			if key != name && fold(key) == fold(name) {
				return key, name
			}
			if key == name && below != nil {
				if key, name := misspelt(value, below); key != "" {
					return key, name
				}
			}
		}
	}
	return "", ""
}

// fold makes keys one that are one to Go's encoding/json: ſ and K (Kelvin) are s and k to it.
func fold(key string) string { return strings.ToLower(strings.ToUpper(key)) }

// ambiguous returns two keys of a JSON object, or of one of those named in it, that are one to whoever reads keys as Go's
// encoding/json does: in any case, the last one counts. Others read them by their case, or take the first.
func ambiguous(object []byte, within ...string) (one, other string) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return "", ""
	}
	seen := map[string]string{}
	for dec.More() {
		var value json.RawMessage
		token, err := dec.Token()
		key, _ := token.(string)
		if err != nil || dec.Decode(&value) != nil {
			return "", ""
		}
		folded := fold(key)
		if before, twice := seen[folded]; twice {
			return before, key
		}
		seen[folded] = key
		if slices.Contains(within, folded) {
			if one, other := ambiguous(value); one != "" {
				return one, other
			}
		}
	}
	return "", ""
}

// ambiguousWithin is ambiguous of a document and of all objects in it, so many levels deep: a manifest's descriptors and their
// platforms are. Annotations are told apart by case by everybody.
func ambiguousWithin(document []byte, levels int) (one, other string) {
	var list []json.RawMessage
	if json.Unmarshal(document, &list) == nil {
		for _, item := range list {
			if one, other := ambiguousWithin(item, levels-1); one != "" {
				return one, other
			}
		}
		return "", ""
	}
	var object map[string]json.RawMessage
	if levels == 0 || json.Unmarshal(document, &object) != nil {
		return "", ""
	}
	if one, other := ambiguous(document); one != "" {
		return one, other
	}
	for key, value := range object {
		if key == "annotations" {
			continue
		}
		if one, other := ambiguousWithin(value, levels-1); one != "" {
			return one, other
		}
	}
	return "", ""
}

// Platform returns what the config says it runs on.
func (c ImageConfig) Platform() Platform {
	return Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
}
