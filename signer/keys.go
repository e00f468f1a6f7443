package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"waybill/artifact"
)

// KeyStore keeps the public halves of the keys; *postgres.DB is one.
type KeyStore interface {
	// SigningKeys returns the keys that ever signed, the one in force last. It is asked often.
	SigningKeys(ctx context.Context) ([]artifact.SigningKey, error)
	// RotateKey commits that the key which next returns is in force, with its ledger entry, one rotation after another. It
	// is a Conflict when replaces is not the key in force. next may be called again, after a crash too.
	RotateKey(ctx context.Context, actor, reason, replaces string, next func(ctx context.Context, known []artifact.SigningKey) (artifact.SigningKey, error)) (artifact.SigningKey, error)
	// RevokeKey commits that a key's signatures count no longer, but for those that the ledger proves to be older than
	// before, and that what it signed is to be signed again.
	RevokeKey(ctx context.Context, actor, id, reason string, before time.Time) (artifact.SigningKey, error)
	// SignedBefore returns the manifests that carried what a key signed, as the ledger proves, before an instant.
	SignedBefore(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, before time.Time) ([]artifact.Digest, error)
}

// KeysConfig names what keys need.
type KeysConfig struct {
	Folder    string                 // where keys are that the service makes
	Reference string                 // the key in a KMS or the file to sign with; "": one that the service makes
	Password  func() ([]byte, error) // of that file
	KMS       KMS                    // where keys are that references with a scheme name
	Store     KeyStore
	Logger    *slog.Logger
}

// Keys are the service's keys: the one in force, which signs, and the public halves of all that ever did. Which is in force
// is in the database, so that every replica signs with the same. It is safe for concurrent use.
type Keys struct {
	cfg KeysConfig

	mu     sync.Mutex
	opened map[string]*Signer // by key id
}

// OpenKeys returns the keys, and puts the configured one in force if it never was. A key in force that cannot be reached is
// logged: what there is can be pulled meanwhile, and is signed later.
func OpenKeys(ctx context.Context, cfg KeysConfig) (*Keys, error) {
	k := &Keys{cfg: cfg, opened: map[string]*Signer{}}
	known, err := cfg.Store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Folder, firstKey)); err == nil && cfg.Reference != "" && len(known) == 0 {
		// An older version signed with it: what it signed counts still.
		older := cfg
		older.Reference = ""
		if _, err := OpenKeys(ctx, older); err != nil {
			return nil, err
		}
		if known, err = cfg.Store.SigningKeys(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.Reference == "" && len(known) > 0 {
		k.warn(ctx)
		return k, nil
	}
	reason := "first start"
	if len(known) > 0 {
		reason = "the configuration names another key"
		s, err := k.openConfigured(ctx)
		switch {
		case err != nil && slices.ContainsFunc(known, func(row artifact.SigningKey) bool { return row.Reference == cfg.Reference }):
			cfg.Logger.WarnContext(ctx, "the signing key cannot be used yet", "error", err)
			return k, nil
		case err != nil:
			return nil, fmt.Errorf("signer.key: %w", err)
		}
		if at := indexOf(known, s.KeyID()); at >= 0 {
			if !known[at].InForce() {
				cfg.Logger.WarnContext(ctx, "the configured key is not the one that signs: another was put in force after it", "configured", s.KeyID(), "inForce", inForce(known).ID)
			}
			return k, nil
		}
	}
	_, err = k.Rotate(ctx, Rotation{Actor: artifact.System.Name, Reason: reason, Replaces: inForce(known).ID})
	if artifact.KindOf(err) == artifact.Conflict { // another replica was first
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	k.warn(ctx)
	return k, nil
}

func (k *Keys) warn(ctx context.Context) {
	if _, err := k.InForce(ctx); err != nil {
		k.cfg.Logger.WarnContext(ctx, "the signing key cannot be used", "error", err)
	}
}

func indexOf(known []artifact.SigningKey, id string) int {
	return slices.IndexFunc(known, func(row artifact.SigningKey) bool { return row.ID == id })
}

// inForce returns the last of all keys; the zero value when there is none.
func inForce(known []artifact.SigningKey) (k artifact.SigningKey) {
	if len(known) > 0 {
		k = known[len(known)-1]
	}
	return k
}

// InForce returns the key that signs now. Another may be in force a moment later; what this one signs counts still.
func (k *Keys) InForce(ctx context.Context) (*Signer, error) {
	known, err := k.cfg.Store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	row := inForce(known)
	k.mu.Lock()
	s := k.opened[row.ID]
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	if s, err = k.open(ctx, row); err != nil {
		return nil, err
	}
	if s.KeyID() != row.ID {
		return nil, artifact.Errorf(artifact.Unavailable, "%s holds key %.12s, and %.12s is in force; put that there again, or put another in force with `waybill key rotate`", row.Reference, s.KeyID(), row.ID)
	}
	k.keep(s)
	return s, nil
}

// keep has the key in force stay open: opening one takes a while, and much memory. What signed before need not.
func (k *Keys) keep(s *Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.opened)
	k.opened[s.KeyID()] = s
}

// open opens the private half of a key. Of files it opens those in its folder and the configured one: a row of the database
// cannot have it read another.
func (k *Keys) open(ctx context.Context, row artifact.SigningKey) (*Signer, error) {
	name, managed := strings.CutPrefix(row.Reference, artifact.ManagedKey)
	switch {
	case managed && filepath.Base(name) == name:
		return k.openManaged(name)
	case row.Reference != "" && row.Reference == k.cfg.Reference:
		return k.openConfigured(ctx)
	case CheckKMS(row.Reference) == nil:
		return k.openKMS(ctx, row.Reference)
	}
	return nil, artifact.Errorf(artifact.Unavailable, "the key in force is %s, which this server's configuration does not name as signer.key", row.Reference)
}

func (k *Keys) openConfigured(ctx context.Context) (*Signer, error) {
	if CheckKMS(k.cfg.Reference) == nil {
		return k.openKMS(ctx, k.cfg.Reference)
	}
	sealed, err := os.ReadFile(k.cfg.Reference)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "signing key: " + err.Error(), Err: err}
	}
	secret, err := k.cfg.Password()
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "signing key " + k.cfg.Reference + ": " + err.Error(), Err: err}
	}
	return unseal(k.cfg.Reference, sealed, secret)
}

func (k *Keys) openManaged(name string) (*Signer, error) {
	path := filepath.Join(k.cfg.Folder, name)
	sealed, err := os.ReadFile(path)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "signing key: " + err.Error() + "; replicas share the data folder, or have a signer.key in a KMS", Err: err}
	}
	secret, err := os.ReadFile(filepath.Join(k.cfg.Folder, passwordFile))
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "signing key: " + err.Error(), Err: err}
	}
	return unseal(path, sealed, secret)
}

// describe is the row of a key.
func (s *Signer) describe(reference string) (artifact.SigningKey, error) {
	public, err := cryptoutils.UnmarshalPEMToPublicKey(s.pem)
	if err != nil {
		return artifact.SigningKey{}, err
	}
	name, err := algorithm(public)
	return artifact.SigningKey{ID: s.keyID, Algorithm: name, PublicKey: string(s.pem), Reference: reference}, err
}

// SigningKeys returns the keys that ever signed, the one in force last.
func (k *Keys) SigningKeys(ctx context.Context) ([]artifact.SigningKey, error) {
	return k.cfg.Store.SigningKeys(ctx)
}

// Rotation asks for another key to sign.
type Rotation struct {
	Actor     string
	Reason    string
	Replaces  string // id of the key in force, as the caller knows it
	Reference string // of a key in a KMS; "": whatever the configured one is by now, or a new one that the service makes
}

// Rotate puts another key in force. The order is: the new private key is there, and has signed; then it is in force, with
// its ledger entry. A crash before that leaves a key of which nobody knows, which the next rotation takes.
func (k *Keys) Rotate(ctx context.Context, r Rotation) (artifact.SigningKey, error) {
	if r.Reference != "" && r.Reference != k.cfg.Reference {
		if err := CheckKMS(r.Reference); err != nil {
			return artifact.SigningKey{}, err
		}
	}
	var last *Signer
	row, err := k.cfg.Store.RotateKey(ctx, r.Actor, r.Reason, r.Replaces, func(ctx context.Context, known []artifact.SigningKey) (artifact.SigningKey, error) {
		s, reference, err := k.next(ctx, r.Reference, known)
		if err != nil {
			return artifact.SigningKey{}, err
		}
		if at := indexOf(known, s.KeyID()); at >= 0 && known[at].InForce() {
			return artifact.SigningKey{}, artifact.Errorf(artifact.Conflict, "%s still holds the key in force, %.12s; put a new key there first, or name another", reference, s.KeyID())
		} else if at >= 0 {
			return artifact.SigningKey{}, artifact.Errorf(artifact.Conflict, "%s holds key %.12s, which signed until %s; a key comes in force once", reference, s.KeyID(), known[at].Until.Format(time.RFC3339))
		}
		// It must be able to sign before it has to.
		if _, err := s.key.SignMessage(strings.NewReader("waybill: this key can sign")); errors.Is(err, errOtherKey) {
			return artifact.SigningKey{}, artifact.Errorf(artifact.Invalid, "%s signs in a way that cosign does not verify with its public key; want ECDSA or RSA PKCS #1 v1.5 with SHA-256, or Ed25519", reference)
		} else if err != nil {
			return artifact.SigningKey{}, fmt.Errorf("%s: %w", reference, err)
		}
		last = s
		return s.describe(reference)
	})
	if err != nil {
		return row, err
	}
	if last != nil && last.KeyID() == row.ID {
		k.keep(last)
	}
	said := "another key signs"
	if r.Replaces == "" {
		said = "a signing key is in force" // the first there is
	}
	k.cfg.Logger.InfoContext(ctx, said, "key", row.ID, "reference", row.Reference, "actor", row.AddedBy, "entry", row.LedgerIndex)
	return row, nil
}

// next returns the key to put in force.
func (k *Keys) next(ctx context.Context, reference string, known []artifact.SigningKey) (*Signer, string, error) {
	switch {
	case reference != "" && reference != k.cfg.Reference:
		s, err := k.openKMS(ctx, reference)
		return s, reference, err
	case k.cfg.Reference != "":
		s, err := k.openConfigured(ctx)
		return s, k.cfg.Reference, err
	}
	name, err := k.make(known)
	if err != nil {
		return nil, "", fmt.Errorf("make signing key: %w", err)
	}
	s, err := k.openManaged(name)
	return s, artifact.ManagedKey + name, err
}

// make returns the file of a key that is not known: one that a rotation which did not end left behind, or a new one.
func (k *Keys) make(known []artifact.SigningKey) (string, error) {
	paths, err := filepath.Glob(filepath.Join(k.cfg.Folder, "cosign*.key"))
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if slices.ContainsFunc(known, func(row artifact.SigningKey) bool { return row.Reference == artifact.ManagedKey+name }) {
			continue
		}
		if _, err := k.openManaged(name); err == nil {
			return name, nil
		} else if name == firstKey {
			return "", err // the only key of an older version: another would not be the one that signed until now
		}
		k.cfg.Logger.Warn("a key file cannot be opened, and is left alone", "file", path)
	}
	if len(known) == 0 {
		return firstKey, generate(k.cfg.Folder, filepath.Join(k.cfg.Folder, firstKey))
	}
	return k.another()
}

// another makes a key beside others, named by its id.
func (k *Keys) another() (string, error) {
	secret, err := password(k.cfg.Folder)
	if err != nil {
		return "", err
	}
	private, public, err := newSealed(secret)
	if err != nil {
		return "", err
	}
	v, err := NewVerifier(public)
	if err != nil {
		return "", err
	}
	name := "cosign-" + v.ID()[:16] + ".key"
	return name, writeWhole(filepath.Join(k.cfg.Folder, name), private)
}

// Revoke ends that a key's signatures count. Of a key that the service made the private half is removed.
func (k *Keys) Revoke(ctx context.Context, actor, id, reason string, before time.Time) (artifact.SigningKey, error) {
	row, err := k.cfg.Store.RevokeKey(ctx, actor, id, reason, before)
	if err != nil {
		return row, err
	}
	k.cfg.Logger.WarnContext(ctx, "a signing key was revoked", "key", row.ID, "actor", actor, "reason", reason, "entry", row.Revocation.LedgerIndex)
	// A crash before this leaves an encrypted file with which nothing that counts can be signed.
	if name, managed := strings.CutPrefix(row.Reference, artifact.ManagedKey); managed && filepath.Base(name) == name {
		if err := os.Remove(filepath.Join(k.cfg.Folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.cfg.Logger.WarnContext(ctx, "the private half of the revoked key could not be removed", "error", err)
		}
	}
	return row, nil
}

// Counting is a key whose signatures count: all, or, of a revoked one, those that the ledger proves to be older than Before.
type Counting struct {
	ID     string
	PEM    []byte
	Before time.Time // zero: all
}

// Counting returns the keys whose signatures count.
func (k *Keys) Counting(ctx context.Context) ([]Counting, error) {
	known, err := k.cfg.Store.SigningKeys(ctx)
	var all []Counting
	for _, row := range slices.Backward(known) {
		switch r := row.Revocation; {
		case r == nil:
			all = append(all, Counting{ID: row.ID, PEM: []byte(row.PublicKey)})
		case !r.Before.IsZero():
			all = append(all, Counting{ID: row.ID, PEM: []byte(row.PublicKey), Before: r.Before})
		}
	}
	return all, err
}

// SignedBefore returns the manifests that carried what a key signed about a digest, as the ledger proves, before an instant.
func (k *Keys) SignedBefore(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate, keyID string, before time.Time) ([]artifact.Digest, error) {
	return k.cfg.Store.SignedBefore(ctx, repository, digest, predicate, keyID, before)
}

// Verifiers returns those of the keys whose signatures count whenever they were made.
func (k *Keys) Verifiers(ctx context.Context) ([]*Verifier, error) {
	all, err := k.Counting(ctx)
	if err != nil {
		return nil, err
	}
	var verifiers []*Verifier
	for _, c := range all {
		if !c.Before.IsZero() {
			continue
		}
		v, err := NewVerifier(c.PEM)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", c.ID, err)
		}
		verifiers = append(verifiers, v)
	}
	return verifiers, nil
}

// Known returns all keys that ever signed here, revoked ones too.
func (k *Keys) Known(ctx context.Context) ([]*Verifier, error) {
	known, err := k.cfg.Store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*Verifier, len(known))
	for i, row := range known {
		if all[i], err = NewVerifier([]byte(row.PublicKey)); err != nil {
			return nil, fmt.Errorf("signing key %s: %w", row.ID, err)
		}
	}
	return all, nil
}

// PEMs returns the public halves of the keys whose signatures count whenever they were made.
func (k *Keys) PEMs(ctx context.Context) ([]string, error) {
	all, err := k.Counting(ctx)
	var pems []string
	for _, c := range all {
		if c.Before.IsZero() {
			pems = append(pems, string(c.PEM))
		}
	}
	return pems, err
}

// The methods that follow let one key stand for all keys, where there is but one.

// InForce returns the key itself.
func (s *Signer) InForce(context.Context) (*Signer, error) { return s, nil }

// Known returns the key itself.
func (s *Signer) Known(context.Context) ([]*Verifier, error) {
	v, err := NewVerifier(s.pem)
	return []*Verifier{v}, err
}

// Counting returns the key itself.
func (s *Signer) Counting(context.Context) ([]Counting, error) {
	return []Counting{{ID: s.keyID, PEM: s.PublicKeyPEM()}}, nil
}

// SignedBefore returns nothing: the key is not revoked.
func (s *Signer) SignedBefore(context.Context, artifact.Repository, artifact.Digest, string, string, time.Time) ([]artifact.Digest, error) {
	return nil, nil
}
