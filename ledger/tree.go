package ledger

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree: RFC 6962 section 2.1, SHA-256.
type Hash = tlog.Hash

// LeafHash returns the leaf hash of an entry's body.
func LeafHash(body []byte) Hash { return tlog.RecordHash(body) }

// Append returns the hashes to store for the body at index n, and where the first of them goes: they are consecutive
// from tlog.StoredHashIndex(0, n). read returns stored hashes by their index.
func Append(n int64, body []byte, read func([]int64) ([]Hash, error)) (first int64, hashes []Hash, err error) {
	hashes, err = tlog.StoredHashes(n, body, tlog.HashReaderFunc(read))
	return tlog.StoredHashIndex(0, n), hashes, err
}

// Root returns the root of the tree of the first size entries.
func Root(size int64, read func([]int64) ([]Hash, error)) (Hash, error) {
	return tlog.TreeHash(size, tlog.HashReaderFunc(read))
}

// Prove returns the inclusion proof (RFC 6962 section 2.1.1) of entry index in the tree of size entries.
func Prove(size, index int64, read func([]int64) ([]Hash, error)) ([]Hash, error) {
	return tlog.ProveRecord(size, index, tlog.HashReaderFunc(read))
}

// ProveConsistency returns the proof (RFC 6962 section 2.1.2) that the tree of newer entries extends that of older.
func ProveConsistency(newer, older int64, read func([]int64) ([]Hash, error)) ([]Hash, error) {
	return tlog.ProveTree(newer, older, tlog.HashReaderFunc(read))
}

// Checkpoint is what the ledger commits to at one size (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Hash
}

// Signer signs checkpoints; its name is the log's origin.
type Signer struct {
	signer note.Signer
	public string
}

// GenerateKey returns a new Ed25519 signer key in the note format (C2SP signed-note), and its verifier key. The
// origin tells this log from every other.
func GenerateKey() (private, public string, err error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", "", err
	}
	return note.GenerateKey(rand.Reader, "waybill/"+hex.EncodeToString(random[:]))
}

// NewSigner parses a signer key that GenerateKey made.
func NewSigner(private string) (*Signer, error) {
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, errors.New("ledger key: not a signer key of the signed-note format")
	}
	public, err := verifierOf(private)
	return &Signer{signer, public}, err
}

// verifierOf derives the verifier key: PRIVATE+KEY+name+hash+base64(algorithm byte, Ed25519 seed).
func verifierOf(private string) (string, error) {
	parts := strings.SplitN(private, "+", 5)
	if len(parts) != 5 {
		return "", errors.New("ledger key: not a signer key of the signed-note format")
	}
	seed, err := decodeKey(parts[4])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("ledger key: not an Ed25519 signer key")
	}
	return note.NewEd25519VerifierKey(parts[2], ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
}

// PublicKey returns the verifier key, one line of text to hand to whoever checks.
func (s *Signer) PublicKey() string { return s.public }

// Origin returns the log's name.
func (s *Signer) Origin() string { return s.signer.Name() }

// Sign returns the signed note of a tree.
func (s *Signer) Sign(size int64, root Hash) (string, error) {
	text := log.Checkpoint{Origin: s.Origin(), Size: uint64(size), Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(text)}, s.signer)
	return string(signed), err
}

// CheckVerifier refuses what is no public key of a ledger (C2SP signed-note, "Verifier keys").
func CheckVerifier(public string) error {
	if _, err := note.NewVerifier(public); err != nil {
		return errors.New("it is no ledger's public key; `waybill key ledger` prints one")
	}
	return nil
}

// OpenCheckpoint checks a signed note with a verifier key and returns what it commits to.
func OpenCheckpoint(signed, public string) (Checkpoint, error) {
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("ledger public key: %w", err)
	}
	parsed, rest, _, err := log.ParseCheckpoint([]byte(signed), verifier.Name(), verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if len(rest) > 0 || len(parsed.Hash) != tlog.HashSize {
		return Checkpoint{}, errors.New("checkpoint: not of this ledger's form")
	}
	c := Checkpoint{Origin: parsed.Origin, Size: int64(parsed.Size)}
	copy(c.Root[:], parsed.Hash)
	return c, nil
}

// CheckInclusion reports whether body is entry index of the tree that a checkpoint commits to.
func CheckInclusion(c Checkpoint, index int64, body []byte, proof []Hash) error {
	if err := tlog.CheckRecord(proof, c.Size, c.Root, index, LeafHash(body)); err != nil {
		return fmt.Errorf("entry %d is not proven to be in the ledger of %d entries: %w", index, c.Size, err)
	}
	return nil
}

// CheckConsistency reports whether newer extends older without changing it.
func CheckConsistency(newer, older Checkpoint, proof []Hash) error {
	return tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root)
}

func decodeKey(s string) ([]byte, error) { return base64.StdEncoding.DecodeString(s) }
