package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/policy"
	"waybill/postgres"
	"waybill/registry"
	"waybill/signer"
)

// How OpenVEX documents are attached: as they are, or as the predicate of a signed statement.
const (
	vexType      = "application/vnd.openvex+json"
	inTotoType   = "application/vnd.in-toto+json"
	dsseType     = "application/vnd.dsse.envelope.v1+json"
	bundleType   = "application/vnd.dev.sigstore.bundle." // and a version: an envelope with what verifies it
	vexPredicate = "https://openvex.dev/ns"
)

// maxVEXDocuments bounds how many documents of one image are read.
const maxVEXDocuments = 100

// vexDocuments reads what refers to an image (policy.VEXSource).
type vexDocuments struct {
	images *registry.Registry
	db     *postgres.DB
	own    *signer.Keys
	keys   []*signer.Verifier // of others
	trust  policy.VEXTrust
	logger *slog.Logger
}

func newVEXDocuments(cfg VEXConfig, own *signer.Keys, images *registry.Registry, db *postgres.DB, logger *slog.Logger) (*vexDocuments, error) {
	v := &vexDocuments{images: images, db: db, own: own, trust: policy.VEXTrust{Pushers: cfg.Pushers}, logger: logger}
	var keys [][]byte
	for _, path := range cfg.Keys {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("vex.keys: %w", err)
		}
		keys = append(keys, pem)
	}
	for i, pem := range keys {
		key, err := signer.NewVerifier(pem)
		if err != nil {
			return nil, fmt.Errorf("vex.keys[%d]: %w", i, err)
		}
		v.keys = append(v.keys, key)
	}
	return v, nil
}

// Apply adds to findings what trusted documents say of them.
func (v *vexDocuments) Apply(ctx context.Context, repository artifact.Repository, digest artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error) {
	documents, err := v.VEX(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	return policy.ApplyVEX(digest, findings, documents, v.trust), nil
}

// VEX returns the documents that refer to an image; one that cannot be read is logged, and left out.
func (v *vexDocuments) VEX(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]policy.AttachedVEX, error) {
	referrers, err := v.db.Referrers(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	var manifests []artifact.Digest
	for _, d := range referrers {
		if d.ArtifactType == vexType || d.ArtifactType == inTotoType || strings.HasPrefix(d.ArtifactType, bundleType) {
			manifests = append(manifests, d.Digest)
		}
	}
	// cosign attests to a tag.
	if tag, err := artifact.ParseTag(strings.Replace(digest.String(), ":", "-", 1) + ".att"); err == nil {
		switch at, err := v.db.ResolveTag(ctx, repository, tag); {
		case err == nil:
			manifests = append(manifests, at)
		case artifact.KindOf(err) != artifact.NotFound:
			return nil, err
		}
	}
	var all []policy.AttachedVEX
	for _, d := range manifests {
		found, err := v.read(ctx, repository, d, digest)
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); len(all) >= maxVEXDocuments {
			break
		}
	}
	return all, nil
}

func (v *vexDocuments) read(ctx context.Context, repository artifact.Repository, manifest, subject artifact.Digest) ([]policy.AttachedVEX, error) {
	m, err := v.db.Manifest(ctx, repository, manifest)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil, nil // deleted meanwhile
	} else if err != nil {
		return nil, err
	}
	var candidates []artifact.Descriptor
	for _, l := range m.Manifest.Layers {
		predicate := l.Annotations["predicateType"]
		unlike := predicate != "" && !strings.HasPrefix(predicate, vexPredicate)
		signed := l.MediaType == dsseType || strings.HasPrefix(l.MediaType, bundleType)
		if (l.MediaType == vexType || signed && !unlike) && l.Size <= 2*policy.MaxVEX {
			candidates = append(candidates, l)
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	image, err := v.images.Image(ctx, repository, manifest)
	if err != nil {
		return nil, err
	}
	trusted, err := v.own.Verifiers(ctx)
	if err != nil {
		return nil, err
	}
	trusted = append(trusted, v.keys...)
	var all []policy.AttachedVEX
	for _, l := range candidates {
		content, err := layerOf(image, l)
		if err != nil {
			return nil, err
		}
		one := policy.AttachedVEX{Manifest: manifest, AttachedBy: m.PushedBy}
		if l.MediaType != vexType {
			content, one.SignedBy = statementBy(trusted, enveloped(l.MediaType, content), subject)
		}
		if content == nil {
			continue
		}
		if one.Document, err = policy.ParseVEX(content); err != nil {
			v.logger.WarnContext(ctx, "a VEX document counts for nothing", "repository", repository, "manifest", manifest, "error", err)
			continue
		}
		all = append(all, one)
	}
	return all, nil
}

// enveloped returns the envelope in a Sigstore bundle (sigstore/protobuf-specs, Bundle.dsse_envelope), and anything else as
// it is. What else a bundle has proves nothing here: the keys that count are configured.
func enveloped(mediaType string, content []byte) []byte {
	if !strings.HasPrefix(mediaType, bundleType) {
		return content
	}
	var bundle struct {
		Envelope json.RawMessage `json:"dsseEnvelope"`
	}
	if json.Unmarshal(content, &bundle) != nil {
		return nil
	}
	return bundle.Envelope
}

func layerOf(image gcr.Image, d artifact.Descriptor) ([]byte, error) {
	hash, err := gcr.NewHash(d.Digest.String())
	if err != nil {
		return nil, err
	}
	layer, err := image.LayerByDigest(hash)
	if err != nil {
		return nil, err
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, d.Size))
}

// statementBy returns the predicate of a signed statement about the subject, and which trusted key signed it. What no
// trusted key signed, or is about something else, is nothing.
func statementBy(trusted []*signer.Verifier, envelope []byte, subject artifact.Digest) (predicate []byte, keyID string) {
	for _, key := range trusted {
		payload, err := key.Open(envelope)
		if err != nil {
			continue
		}
		var statement struct {
			PredicateType string `json:"predicateType"`
			Subject       []struct {
				Digest map[string]string `json:"digest"`
			} `json:"subject"`
			Predicate json.RawMessage `json:"predicate"`
		}
		if json.Unmarshal(payload, &statement) != nil || !strings.HasPrefix(statement.PredicateType, vexPredicate) {
			return nil, ""
		}
		for _, s := range statement.Subject {
			if s.Digest[subject.Algorithm()] == subject.Hex() {
				return statement.Predicate, key.ID()
			}
		}
		return nil, ""
	}
	return nil, ""
}
