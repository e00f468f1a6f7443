package signer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// Bounds of what is read of attestations, which anybody who may push attaches.
const (
	maxEnvelope   = 4 << 20 // bytes
	maxEnvelopes  = 100     // of a digest
	maxSignatures = 10      // of an envelope
)

// Attached reads what is attached to a digest.
type Attached interface {
	Referrers(ctx context.Context, repository artifact.Repository, subject artifact.Digest) ([]artifact.Descriptor, error)
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
}

// Attestations finds signed statements about digests.
type Attestations struct {
	attached Attached
	own      OwnKeys
}

// OwnKeys are the service's own keys; *Keys are some, and a *Signer is one.
type OwnKeys interface {
	Counting(ctx context.Context) ([]Counting, error)
	SignedBefore(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, before time.Time) ([]artifact.Digest, error)
}

// NewAttestations returns those that are attached.
func NewAttestations(attached Attached, own OwnKeys) *Attestations {
	return &Attestations{attached, own}
}

// Attested returns the predicates of statements about a digest that are of a type and signed by one of the keys, public
// ones in PEM; without any, by the service's own. It looks at referrers and at cosign's .att tag. What does not verify,
// is malformed or too large is passed over: it proves nothing.
func (v *Attestations) Attested(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicateType string, keys []string) ([]map[string]any, error) {
	verifiers, err := v.verifiers(ctx, repository, digest, predicateType, keys)
	if err != nil {
		return nil, err
	}
	manifests, err := v.manifests(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	var (
		predicates []map[string]any
		seen       []artifact.Digest
	)
	for _, m := range manifests {
		stored, err := v.attached.Manifest(ctx, repository, m)
		if artifact.KindOf(err) == artifact.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, layer := range stored.Manifest.Layers {
			if !slices.Contains([]string{dsseType, intotoType}, layer.MediaType) || layer.Size > maxEnvelope || slices.Contains(seen, layer.Digest) {
				continue
			}
			// What says that it is of another type is not read, SBOMs above all: they may be large.
			if saysOther(layer.Annotations["predicateType"], predicateType) || saysOther(stored.Manifest.Annotations[PredicateAnnotation], predicateType) {
				continue
			}
			if seen = append(seen, layer.Digest); len(seen) > maxEnvelopes {
				return nil, artifact.Errorf(artifact.TooLarge, "%s@%s has more than %d attestations; delete some", repository, digest, maxEnvelopes)
			}
			envelope, err := v.attached.Blob(ctx, repository, layer.Digest)
			if kind := artifact.KindOf(err); kind == artifact.NotFound || kind == artifact.TooLarge {
				continue
			} else if err != nil {
				return nil, err
			}
			if predicate, err := predicateOf(envelope, digest, predicateType, verifiers.of(layer.Digest)); err == nil {
				predicates = append(predicates, predicate)
			}
		}
	}
	return predicates, nil
}

// manifests returns those of artifacts that may hold attestations of a digest.
func (v *Attestations) manifests(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Digest, error) {
	referrers, err := v.attached.Referrers(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	var all []artifact.Digest
	for _, d := range referrers {
		if d.ArtifactType == intotoType || d.ArtifactType == dsseType {
			all = append(all, d.Digest)
		}
	}
	tag, err := cosignTag(digest, ".att")
	if err != nil {
		return nil, err
	}
	legacy, err := v.attached.ResolveTag(ctx, repository, tag)
	if artifact.KindOf(err) == artifact.NotFound {
		return all, nil
	}
	return append(all, legacy), err
}

func saysOther(said, predicateType string) bool { return said != "" && said != predicateType }

var errNotAttested = errors.New("it is no attestation of this")

// predicateOf opens a DSSE envelope with any of the keys, and returns the predicate of the in-toto statement in it, if
// that is of the type and about the digest.
func predicateOf(envelope []byte, digest artifact.Digest, predicateType string, keys []*Verifier) (map[string]any, error) {
	var signed struct {
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(envelope, &signed); err != nil || len(signed.Signatures) > maxSignatures {
		return nil, errNotAttested
	}
	for _, key := range keys {
		payload, err := key.Open(envelope)
		if err != nil {
			continue
		}
		var statement struct {
			Type          string `json:"_type"`
			PredicateType string `json:"predicateType"`
			Subject       []struct {
				Digest map[string]string `json:"digest"`
			} `json:"subject"`
			Predicate map[string]any `json:"predicate"`
		}
		if err := json.Unmarshal(payload, &statement); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(statement.Type, "https://in-toto.io/Statement/") || statement.PredicateType != predicateType {
			return nil, errNotAttested
		}
		for _, s := range statement.Subject {
			if s.Digest[digest.Algorithm()] == digest.Hex() {
				return statement.Predicate, nil
			}
		}
	}
	return nil, errNotAttested
}
