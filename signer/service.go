package signer

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/policy"
)

// Record is one thing signed: the image itself (no Predicate) or a statement about it.
type Record struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	Predicate  string
	KeyID      string
	PolicyHash artifact.Digest
}

// Store keeps what is signed and that it was.
type Store interface {
	// Image returns the image at a tag, or nil when there is none.
	Image(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (gcr.Image, error)
	// Put pushes what was signed, under a tag or (the zero Tag) its digest alone.
	Put(ctx context.Context, repository artifact.Repository, tag artifact.Tag, image gcr.Image) (artifact.Digest, error)
	// Subject describes the manifest that is signed; NotFound when it is gone.
	Subject(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.Descriptor, error)
	// Intend commits that this will be signed; done reports that it was already, by a key that was not revoked.
	Intend(ctx context.Context, r Record) (done bool, err error)
	// Signed commits the outcome: the manifest that carries it. It is an error when the key was revoked meanwhile.
	Signed(ctx context.Context, r Record, manifest artifact.Digest) error
}

// Service signs and stores: intent, act, outcome. Whatever is killed in between, the next call finds nothing or the
// signature, and never makes a second one.
type Service struct {
	keys  InForce
	store Store
	locks sync.Map // by repository@digest: the tags are read, changed and written
}

// InForce says which key signs; *Keys does, and *Signer, where there is but one.
type InForce interface {
	InForce(ctx context.Context) (*Signer, error)
}

// NewService returns a service; it is safe for concurrent use.
func NewService(keys InForce, store Store) *Service { return &Service{keys: keys, store: store} }

func (s *Service) lock(pass policy.Pass) (unlock func()) {
	mu, _ := s.locks.LoadOrStore(pass.Repository().String()+"@"+pass.Digest().String(), &sync.Mutex{})
	mu.(*sync.Mutex).Lock()
	return mu.(*sync.Mutex).Unlock
}

// cosignTag is where cosign looks for what belongs to a digest.
func cosignTag(d artifact.Digest, suffix string) (artifact.Tag, error) {
	return artifact.ParseTag(strings.Replace(d.String(), ":", "-", 1) + suffix)
}

// SignImage signs the digest that a pass is for, once.
func (s *Service) SignImage(ctx context.Context, pass policy.Pass) error {
	if !pass.Valid() {
		return errNoPass
	}
	if !pass.Signs() {
		return errWithheld
	}
	defer s.lock(pass)()
	signer, err := s.keys.InForce(ctx)
	if err != nil {
		return err
	}
	r := signer.record(pass, "")
	if done, err := s.store.Intend(ctx, r); err != nil || done {
		return err
	}
	tag, err := cosignTag(pass.Digest(), ".sig")
	if err != nil {
		return err
	}
	there, err := s.store.Image(ctx, pass.Repository(), tag)
	if err != nil {
		return fmt.Errorf("read signatures: %w", err)
	}
	content, err := payload(pass)
	if err != nil {
		return err
	}
	already, err := signer.signed(there, content)
	if err != nil {
		return fmt.Errorf("read signatures: %w", err)
	}
	image := there
	if !already {
		signature, err := signer.Sign(pass)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		if image, err = AppendSignature(there, signature); err != nil {
			return err
		}
		if _, err := s.store.Put(ctx, pass.Repository(), tag, image); err != nil {
			return fmt.Errorf("store signature: %w", err)
		}
	}
	return s.outcome(ctx, r, image)
}

// AttestImage signs a statement about the digest that a pass is for, once per predicate type: for cosign at its tag,
// and as a referrer of the image.
func (s *Service) AttestImage(ctx context.Context, pass policy.Pass, predicateType string, predicate json.RawMessage) error {
	if !pass.Valid() {
		return errNoPass
	}
	defer s.lock(pass)()
	signer, err := s.keys.InForce(ctx)
	if err != nil {
		return err
	}
	r := signer.record(pass, predicateType)
	if done, err := s.store.Intend(ctx, r); err != nil || done {
		return err
	}
	subject, err := s.store.Subject(ctx, pass.Repository(), pass.Digest())
	if err != nil {
		return err
	}
	attestation, err := signer.Attest(pass, predicateType, predicate)
	if err != nil {
		return fmt.Errorf("attest: %w", err)
	}
	tag, err := cosignTag(pass.Digest(), ".att")
	if err != nil {
		return err
	}
	there, err := s.store.Image(ctx, pass.Repository(), tag)
	if err != nil {
		return fmt.Errorf("read attestations: %w", err)
	}
	already, err := signer.attested(there, attestation.Statement)
	if err != nil {
		return fmt.Errorf("read attestations: %w", err)
	}
	image := there
	if !already {
		// The referrer goes first: the tag is what tells that both are there.
		referrer, err := Referrer(attestation, subject)
		if err != nil {
			return err
		}
		if _, err := s.store.Put(ctx, pass.Repository(), artifact.Tag{}, referrer); err != nil {
			return fmt.Errorf("store attestation: %w", err)
		}
		if image, err = AppendAttestation(there, attestation); err != nil {
			return err
		}
		if _, err := s.store.Put(ctx, pass.Repository(), tag, image); err != nil {
			return fmt.Errorf("store attestation: %w", err)
		}
	}
	return s.outcome(ctx, r, image)
}

func (s *Signer) record(pass policy.Pass, predicate string) Record {
	return Record{Repository: pass.Repository(), Digest: pass.Digest(), Predicate: predicate, KeyID: s.KeyID(), PolicyHash: pass.PolicyHash()}
}

func (s *Service) outcome(ctx context.Context, r Record, image gcr.Image) error {
	hash, err := image.Digest()
	if err != nil {
		return err
	}
	digest, err := artifact.ParseDigest(hash.String())
	if err != nil {
		return err
	}
	return s.store.Signed(ctx, r, digest)
}
