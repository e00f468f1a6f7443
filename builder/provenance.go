package builder

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// buildType says how to read the external parameters.
const buildType = "https://waybill.dev/build-types/dockerfile/v1"

// resource is a ResourceDescriptor of in-toto (in-toto.io/Statement/v1).
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// commitID is what Git calls a commit or a tree: SHA-1 or SHA-256.
var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func named(name string, d artifact.Digest) resource {
	return resource{Name: name, Digest: map[string]string{d.Algorithm(): d.Hex()}}
}

// built is all that provenance says of a build.
type built struct {
	Builder    map[string]any
	Request    Request
	Platform   string // or several, with commas
	Key        artifact.Digest
	Context    artifact.Digest // of all files that were sent
	Dockerfile artifact.Digest
	Bases      map[string]artifact.Reference // by the reference as it is written, each with its digest
	Started    time.Time
	Ended      time.Time
}

// provenance is the predicate of SLSA provenance, version 1 (slsa.dev/spec/v1.0/provenance): all that went in, and who built it when. Source, commit and tree are what the caller said;
// digests are what was read.
func (b built) provenance() (json.RawMessage, error) {
	dependencies := []resource{named("context", b.Context), named(b.Request.Dockerfile, b.Dockerfile)}
	for _, name := range slices.Sorted(maps.Keys(b.Bases)) {
		base := named(name, b.Bases[name].Digest)
		base.URI = "pkg:oci/" + b.Bases[name].Repository.String() + "@" + b.Bases[name].Digest.String()
		dependencies = append(dependencies, base)
	}
	if source := b.Request.Source; source.URI != "" {
		digest := map[string]string{}
		if commitID.MatchString(source.Commit) {
			digest["gitCommit"] = source.Commit
		}
		if commitID.MatchString(source.Tree) {
			digest["gitTree"] = source.Tree
		}
		// Of what has no digest the specification allows a URI alone, which tells nothing that the parameters do not.
		if len(digest) > 0 {
			dependencies = append(dependencies, resource{Name: "source", URI: source.URI, Digest: digest})
		}
	}
	args := map[string]string{}
	maps.Copy(args, b.Request.Args)
	parameters := map[string]any{"dockerfile": b.Request.Dockerfile, "target": b.Request.Target, "platform": b.Platform, "args": args, "source": b.Request.Source}
	if len(b.Request.Labels) > 0 {
		parameters["labels"] = b.Request.Labels
	}
	return json.Marshal(map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            buildType,
			"externalParameters":   parameters,
			"internalParameters":   map[string]any{"key": b.Key.String()},
			"resolvedDependencies": dependencies,
		},
		"runDetails": map[string]any{
			"builder":  b.Builder,
			"metadata": map[string]any{"invocationId": b.Key.String(), "startedOn": b.Started.Format(time.RFC3339), "finishedOn": b.Ended.Format(time.RFC3339)},
		},
	})
}

// engineName is the engine's without whose it is and its version: native, or buildkit.
func (p *Plan) engineName() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(p.engine.Name(), "waybill-"), "/")
	return name
}

// provenance is that of a plan that was built.
func (p *Plan) provenance(cfg Config, record Record, ended time.Time) (json.RawMessage, error) {
	b := built{Builder: map[string]any{"id": cfg.ID + "/" + p.engineName(), "version": p.builderVersion(cfg.Version)}, Request: p.request, Platform: p.request.Platform, Key: p.key,
		Context: p.contextSum, Dockerfile: artifact.DigestOf(p.dockerfile), Bases: map[string]artifact.Reference{}, Started: record.StartedAt, Ended: ended}
	for name, base := range p.bases {
		b.Bases[name] = artifact.Reference{Repository: base.ref.Repository, Digest: base.digest}
	}
	return b.provenance()
}
