package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/builder"
	"waybill/policy"
	"waybill/postgres"
	"waybill/registry"
)

// buildStore fits the database's rows to builder's.
type buildStore struct{ db *postgres.DB }

func (s buildStore) LockBuild(ctx context.Context, r artifact.Repository, key artifact.Digest) (func(), error) {
	return s.db.LockBuild(ctx, r, key)
}

func (s buildStore) Build(ctx context.Context, r artifact.Repository, key artifact.Digest) (builder.Record, bool, error) {
	row, ok, err := s.db.Build(ctx, r, key)
	return builder.Record{Repository: r, Key: key, Digest: row.Digest, StartedBy: row.StartedBy, StartedAt: row.StartedAt}, ok, err
}

func (s buildStore) StartBuild(ctx context.Context, r builder.Record) error {
	return s.db.StartBuild(ctx, r.Repository, r.Key, r.StartedBy)
}

func (s buildStore) IntendBuild(ctx context.Context, r builder.Record, provenance json.RawMessage) error {
	return s.db.IntendBuild(ctx, r.Repository, r.Key, r.Digest, provenance)
}

func (s buildStore) IntendedBuild(ctx context.Context, r artifact.Repository, key artifact.Digest) (builder.Record, json.RawMessage, bool, error) {
	row, provenance, ok, err := s.db.IntendedBuild(ctx, r, key)
	return builder.Record{Repository: r, Key: key, Digest: row.Digest, StartedBy: row.StartedBy, StartedAt: row.StartedAt}, provenance, ok, err
}

func (s buildStore) EndBuild(ctx context.Context, r builder.Record, provenance json.RawMessage, failure string) error {
	return s.db.EndBuild(ctx, r.Repository, r.Key, r.Digest, provenance, failure)
}

// bases resolves what a Dockerfile builds on, for one who may pull it. What policy denies by now, and what was recalled, is
// nothing to build on.
type bases struct {
	registry *registry.Registry
	judge    *policy.Judge
	db       *postgres.DB
	mirrors  map[string]bool // names of registries: docker.io/library/debian:12 is mirror/docker.io/library/debian:12 here
}

// local is where a reference is in this registry.
func (b bases) local(ref artifact.Reference) (artifact.Reference, error) {
	host, _, _ := strings.Cut(ref.Repository.String(), "/")
	if b.mirrors[host] {
		var err error
		ref.Repository, err = artifact.ParseRepository("mirror/" + ref.Repository.String())
		return ref, err
	}
	if strings.Contains(host, ".") {
		return ref, artifact.Errorf(artifact.Denied, "%s is no registry that bases may come from: they are in this one, or in one that its configuration mirrors", host)
	}
	return ref, nil
}

func (b bases) allowed(ctx context.Context, r artifact.Repository, digest artifact.Digest) error {
	verdict, err := b.judge.JudgeStored(ctx, r, digest)
	if err != nil {
		return err
	}
	if verdict.Outcome == artifact.Deny {
		denied := artifact.Errorf(artifact.Denied, "policy denies it")
		denied.Reasons = verdict.Reasons
		return denied
	}
	who, why, recalled, err := b.db.Recalled(ctx, r, digest)
	if err == nil && recalled {
		return artifact.Errorf(artifact.Denied, "%s recalled it: %s", who, why)
	}
	return err
}

func (b bases) Base(ctx context.Context, p artifact.Principal, ref artifact.Reference, platform artifact.Platform) (gcr.Image, artifact.Digest, error) {
	ref, err := b.local(ref)
	if err != nil {
		return nil, ref.Digest, err
	}
	m, err := b.registry.GetManifest(ctx, p, ref)
	if err != nil {
		return nil, ref.Digest, err
	}
	digest := m.Digest
	if err := b.allowed(ctx, ref.Repository, digest); err != nil {
		return nil, digest, err
	}
	if m.Manifest.IsIndex() {
		found := artifact.Digest{}
		for _, d := range m.Manifest.Manifests {
			if d.Platform != nil && d.Platform.OS == platform.OS && d.Platform.Architecture == platform.Architecture && (platform.Variant == "" || d.Platform.Variant == platform.Variant) {
				found = d.Digest
				break
			}
		}
		if found.IsZero() {
			return nil, digest, artifact.Errorf(artifact.NotFound, "%s has no image for %s", ref, platform)
		}
		digest = found
	}
	image, err := b.registry.Image(ctx, ref.Repository, digest)
	return image, digest, err
}

// publisher pushes what was built by the path of every push.
type publisher struct {
	registry *registry.Registry
	db       *postgres.DB
}

func (p publisher) Expect(ctx context.Context) { p.registry.Expect(ctx) }

func (p publisher) Publish(ctx context.Context, by artifact.Principal, r artifact.Repository, tags []artifact.Tag, built builder.Artifact) (artifact.Digest, error) {
	if index, ok := built.(gcr.ImageIndex); ok {
		return p.registry.PutIndex(ctx, by, r, tags, index)
	}
	image, ok := built.(gcr.Image)
	if !ok {
		return artifact.Digest{}, fmt.Errorf("a %T is neither image nor index", built)
	}
	return p.registry.PutImage(ctx, by, r, tags, image)
}

// Layer stores what is read of a layer at once; its manifest asks for it by its digest soon.
func (p publisher) Layer(ctx context.Context, by artifact.Principal, r artifact.Repository, body io.Reader) (artifact.Descriptor, func() (io.ReadCloser, error), error) {
	d, err := p.registry.PutStream(ctx, by, r, body)
	return d, func() (io.ReadCloser, error) {
		file, _, err := p.registry.OpenBlob(ctx, by, r, d.Digest)
		return file, err
	}, err
}

func (p publisher) Stored(ctx context.Context, by artifact.Principal, r artifact.Repository, digest artifact.Digest) (builder.Artifact, error) {
	m, err := p.registry.GetManifest(ctx, by, artifact.Reference{Repository: r, Digest: digest})
	if err != nil {
		return nil, err
	}
	if m.Manifest.IsIndex() {
		return p.registry.Index(ctx, r, digest)
	}
	return p.registry.Image(ctx, r, digest)
}

func (p publisher) Tag(ctx context.Context, by artifact.Principal, r artifact.Repository, tags []artifact.Tag, digest artifact.Digest) error {
	m, err := p.db.Manifest(ctx, r, digest)
	if err != nil || len(tags) == 0 {
		return err
	}
	at := make(map[artifact.Tag]bool)
	there, err := p.db.TagsOf(ctx, r, digest)
	if err != nil {
		return err
	}
	for _, t := range there {
		at[t] = true
	}
	for _, t := range tags {
		if !at[t] {
			_, err := p.registry.PutManifest(ctx, by, artifact.Reference{Repository: r, Digest: digest}, m.Manifest.MediaType, m.Body, tags)
			return err
		}
	}
	return nil
}
