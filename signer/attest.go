package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	gcrmutate "github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/in-toto/attestation/go/v1"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	cosignstatic "github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"waybill/artifact"
	"waybill/policy"
)

// MaxPredicate bounds a predicate, in bytes: in its envelope it takes a third more, and what is read of one that is
// attached is bounded by maxAttached.
const MaxPredicate = 20 << 20

// Attestation is a DSSE envelope around an in-toto statement.
type Attestation struct {
	PredicateType string
	Statement     []byte
	Envelope      []byte
}

// Attest signs a statement about the digest that a pass is for. predicate is a JSON object.
func (s *Signer) Attest(pass policy.Pass, predicateType string, predicate json.RawMessage) (Attestation, error) {
	if !pass.Valid() {
		return Attestation{}, errNoPass
	}
	statement, err := encodeStatement(pass, predicateType, predicate)
	if err != nil {
		return Attestation{}, err
	}
	envelope, err := dsse.WrapSigner(s.key, intotoType).SignMessage(bytes.NewReader(statement))
	return Attestation{PredicateType: predicateType, Statement: statement, Envelope: envelope}, err
}

// encodeStatement is an in-toto statement (in-toto.io/Statement/v1), the same bytes for the same predicate, so that one
// is found again. Not protojson, whose spacing differs from run to run on purpose.
func encodeStatement(pass policy.Pass, predicateType string, predicate json.RawMessage) ([]byte, error) {
	if predicateType == "" {
		return nil, fmt.Errorf("a statement needs a predicate type")
	}
	if len(predicate) > MaxPredicate {
		return nil, artifact.Errorf(artifact.TooLarge, "the predicate %s has %d bytes; at most %d are signed", predicateType, len(predicate), MaxPredicate)
	}
	if trimmed := bytes.TrimLeft(predicate, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, fmt.Errorf("predicate %s: it is no JSON object", predicateType)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	type subject struct {
		Digest map[string]string `json:"digest"`
		Name   string            `json:"name"`
	}
	err := encoder.Encode(struct {
		Type          string          `json:"_type"`
		Predicate     json.RawMessage `json:"predicate"`
		PredicateType string          `json:"predicateType"`
		Subject       []subject       `json:"subject"`
	}{v1.StatementTypeUri, predicate, predicateType,
		[]subject{{map[string]string{pass.Digest().Algorithm(): pass.Digest().Hex()}, pass.Repository().String()}}})
	if err != nil {
		return nil, fmt.Errorf("predicate %s: %w", predicateType, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Statement is what is to be said of a digest: of each predicate type one thing, or one for each Name.
type Statement struct {
	PredicateType string
	// Name tells statements of one type apart: the predicate's field Field holds it. Both are empty where there is one.
	Name, Field string
	// Basis identifies what the statement rests on. One that was signed for this basis and is younger than Keep (zero:
	// of any age) is not made again.
	Basis string
	Keep  time.Duration
	// Predicate makes the predicate, a JSON object; it is called when there is something to sign.
	Predicate func() (json.RawMessage, error)
}

// Attested is an attestation that was stored.
type Attested struct {
	Record
	Referrer artifact.Digest // the manifest that refers to the image
	Envelope artifact.Digest
}

// AttestationStore keeps attestations and that they were made.
type AttestationStore interface {
	// LockAttestations has nobody else, on any replica, write attestations of a digest until release is called.
	LockAttestations(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (release func(), err error)
	// IntendAttestation commits that a statement will be signed; done reports that it was, by this key, for r.Basis, less
	// than r.Keep ago, and that it is still attached.
	IntendAttestation(ctx context.Context, r Record) (done bool, err error)
	// PutAttestations pushes the image of a digest's .att tag. Of what the tag holds by then, all is kept but drops.
	PutAttestations(ctx context.Context, repository artifact.Repository, tag artifact.Tag, image gcr.Image, drops []artifact.Digest) error
	// RemoveSuperseded removes what the service itself attached before in place of made, and manifests that the tag stood at.
	RemoveSuperseded(ctx context.Context, repository artifact.Repository, digest artifact.Digest, tag artifact.Tag, made []Attested) error
	// Attested commits the outcome, all in one.
	Attested(ctx context.Context, made []Attested) error
}

// Attest signs what is not signed yet of statements about the digest that a pass is for, and attaches it: for cosign at
// its .att tag, and as referrers of the image. In the tag a statement takes the place of the one that the service made
// before, so that there is never a second.
//
// Intents are committed first, then referrers are pushed, the tag is moved, what is superseded removed, and the outcome
// committed. Whatever is killed in between, the next run finds in the tag what was signed, and goes on from there.
func (s *Service) Attest(ctx context.Context, pass policy.Pass, all ...Statement) error {
	if !pass.Valid() {
		return errNoPass
	}
	defer s.lock(pass)()
	release, err := s.store.LockAttestations(ctx, pass.Repository(), pass.Digest())
	if err != nil {
		return err
	}
	defer release()
	signer, err := s.keys.InForce(ctx)
	if err != nil {
		return err
	}
	var wanted []Statement
	for _, one := range all {
		done, err := s.store.IntendAttestation(ctx, signer.attestationRecord(pass, one))
		if err != nil {
			return err
		}
		if !done {
			wanted = append(wanted, one)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return s.attest(ctx, signer, pass, wanted)
}

func (s *Signer) attestationRecord(pass policy.Pass, one Statement) Record {
	r := s.record(pass, one.PredicateType)
	r.Name, r.Basis, r.Keep = one.Name, one.Basis, one.Keep
	return r
}

// attest makes and stores statements. The caller holds the locks.
func (s *Service) attest(ctx context.Context, signer *Signer, pass policy.Pass, wanted []Statement) error {
	subject, err := s.store.Subject(ctx, pass.Repository(), pass.Digest())
	if err != nil {
		return err
	}
	tag, err := cosignTag(pass.Digest(), ".att")
	if err != nil {
		return err
	}
	there, err := s.store.Image(ctx, pass.Repository(), tag)
	if err != nil {
		return fmt.Errorf("read attestations: %w", err)
	}
	known, err := s.keys.Known(ctx)
	if err != nil {
		return err
	}
	own, err := attestedIn(there, known, wanted)
	if err != nil {
		return fmt.Errorf("read attestations: %w", err)
	}
	var (
		made  []Attested
		added []Attestation
		drops []artifact.Digest
	)
	for i, one := range wanted {
		a, old, err := signer.make(pass, one, own[i])
		if err != nil {
			return fmt.Errorf("attest %s: %w", one.PredicateType, err)
		}
		referrer, err := Referrer(a, one.Name, subject)
		if err != nil {
			return err
		}
		digest, err := s.store.Put(ctx, pass.Repository(), artifact.Tag{}, referrer)
		if err != nil {
			return fmt.Errorf("store attestation: %w", err)
		}
		envelope := artifact.DigestOf(a.Envelope)
		made = append(made, Attested{Record: signer.attestationRecord(pass, one), Referrer: digest, Envelope: envelope})
		drops = append(drops, old...)
		if !slices.ContainsFunc(own[i], func(h held) bool { return artifact.DigestOf(h.Envelope) == envelope }) {
			added = append(added, a)
		}
	}
	if len(added) > 0 || len(drops) > 0 {
		image, err := ReplaceAttestations(there, drops, added)
		if err != nil {
			return err
		}
		if err := s.store.PutAttestations(ctx, pass.Repository(), tag, image, drops); err != nil {
			return fmt.Errorf("store attestations: %w", err)
		}
	}
	if err := s.store.RemoveSuperseded(ctx, pass.Repository(), pass.Digest(), tag, made); err != nil {
		return fmt.Errorf("remove attestations that others replace: %w", err)
	}
	return s.store.Attested(ctx, made)
}

// make signs a statement, unless it is among those that are there, and returns the envelopes that it replaces.
func (s *Signer) make(pass policy.Pass, one Statement, there []held) (a Attestation, replaced []artifact.Digest, err error) {
	predicate, err := one.Predicate()
	if err != nil {
		return a, nil, err
	}
	statement, err := encodeStatement(pass, one.PredicateType, predicate)
	if err != nil {
		return a, nil, err
	}
	for _, h := range there {
		if a.Envelope == nil && h.by == s.keyID && bytes.Equal(h.Statement, statement) {
			a = h.Attestation
		} else {
			replaced = append(replaced, artifact.DigestOf(h.Envelope))
		}
	}
	if a.Envelope == nil {
		a, err = s.Attest(pass, one.PredicateType, predicate)
	}
	return a, replaced, err
}

// held is an attestation that is there, and the id of the key that signed it.
type held struct {
	Attestation
	by string
}

// attestedIn returns, for each of the wanted, those in an image at an .att tag that one of the keys signed and that it would
// replace.
func attestedIn(image gcr.Image, keys []*Verifier, wanted []Statement) ([][]held, error) {
	found := make([][]held, len(wanted))
	if image == nil {
		return found, nil
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	for _, d := range manifest.Layers {
		named := func(one Statement) bool { return one.PredicateType == d.Annotations["predicateType"] }
		if d.Size > maxAttached || !slices.ContainsFunc(wanted, named) {
			continue
		}
		envelope, err := layerOf(image, d.Digest)
		if err != nil {
			return nil, err
		}
		a, ok := openedBy(keys, envelope)
		if !ok {
			continue // somebody else's
		}
		a.PredicateType = d.Annotations["predicateType"]
		for i, one := range wanted {
			if named(one) && one.means(a.Statement) {
				found[i] = append(found[i], a)
			}
		}
	}
	return found, nil
}

func openedBy(keys []*Verifier, envelope []byte) (held, bool) {
	for _, key := range keys {
		if statement, err := key.Open(envelope); err == nil {
			return held{Attestation{Statement: statement, Envelope: envelope}, key.ID()}, true
		}
	}
	return held{}, false
}

// means reports whether an encoded statement is of the wanted one's type and name.
func (one Statement) means(encoded []byte) bool {
	var statement struct {
		PredicateType string                     `json:"predicateType"`
		Predicate     map[string]json.RawMessage `json:"predicate"`
	}
	if json.Unmarshal(encoded, &statement) != nil || statement.PredicateType != one.PredicateType {
		return false
	}
	if one.Field == "" {
		return true
	}
	var name string
	return json.Unmarshal(statement.Predicate[one.Field], &name) == nil && name == one.Name
}

func layerOf(image gcr.Image, digest gcr.Hash) ([]byte, error) {
	layer, err := image.LayerByDigest(digest)
	if err != nil {
		return nil, err
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxAttached))
}

// ReplaceAttestations returns the image at an .att tag without some envelopes and with some more; image is nil when
// there is none yet.
func ReplaceAttestations(image gcr.Image, drops []artifact.Digest, added []Attestation) (gcr.Image, error) {
	to := base(image)
	if image != nil && len(drops) > 0 {
		kept, err := keptOf(image, drops)
		if err != nil {
			return nil, err
		}
		rest, err := gcrmutate.Append(empty.Signatures(), kept...)
		if err != nil {
			return nil, err
		}
		to = base(rest)
	}
	for _, a := range added {
		attestation, err := cosignstatic.NewAttestation(a.Envelope, cosignstatic.WithLayerMediaType(dsseType),
			cosignstatic.WithAnnotations(map[string]string{"predicateType": a.PredicateType}))
		if err != nil {
			return nil, err
		}
		if to, err = mutate.AppendSignatures(to, false, attestation); err != nil {
			return nil, err
		}
	}
	return to, nil
}

func keptOf(image gcr.Image, drops []artifact.Digest) ([]gcrmutate.Addendum, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	var kept []gcrmutate.Addendum
	for _, d := range manifest.Layers {
		if slices.ContainsFunc(drops, func(drop artifact.Digest) bool { return drop.String() == d.Digest.String() }) {
			continue
		}
		layer, err := image.LayerByDigest(d.Digest)
		if err != nil {
			return nil, err
		}
		kept = append(kept, gcrmutate.Addendum{Layer: layer, Annotations: d.Annotations, MediaType: d.MediaType})
	}
	return kept, nil
}

// Annotations of a referrer: the type of its statement, and its name, where there are several of a type.
const (
	PredicateAnnotation = "in-toto.io/predicate-type"
	NameAnnotation      = "dev.waybill.attestation.name"
)

// Referrer is the attestation as an artifact whose subject is the image (OCI image-spec 1.1, "Guidelines for Artifact
// Usage").
func Referrer(a Attestation, name string, subject artifact.Descriptor) (gcr.Image, error) {
	annotations := map[string]string{PredicateAnnotation: a.PredicateType}
	if name != "" {
		annotations[NameAnnotation] = name
	}
	return attach(intotoType, dsseType, a.Envelope, subject, annotations)
}
