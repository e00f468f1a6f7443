// Package signer signs what policy allows. It is the only importer of cosign, and takes nothing but a policy.Pass.
package signer

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"waybill/policy"
)

// Signer holds the service's key. It is safe for concurrent use.
type Signer struct {
	key   signature.SignerVerifier
	pem   []byte // public, PKIX
	keyID string
}

// Open reads the key in folder, and makes it when there is none: an ECDSA P-256 key, encrypted as cosign does, and
// beside it the password it is encrypted with, each of mode 0600.
func Open(folder string) (*Signer, error) {
	private := filepath.Join(folder, firstKey)
	if err := generate(folder, private); err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return (&Keys{cfg: KeysConfig{Folder: folder}}).openManaged(firstKey)
}

// The files of the key that is made first, and of the password that all keys in the folder are encrypted with.
const (
	firstKey     = "cosign.key"
	passwordFile = "cosign.password"
)

// newSigner returns a signer that signs with a key, and checks what came of it with the public half.
func newSigner(key signature.Signer, public crypto.PublicKey) (*Signer, error) {
	if _, err := algorithm(public); err != nil {
		return nil, err
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	encoded, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Signer{key: checked{key, verifier}, pem: encoded, keyID: hex.EncodeToString(sum[:])}, nil
}

// generate writes the password first: a crash before the key leaves a password that the next call goes on with.
func generate(folder, private string) error {
	if _, err := os.Stat(private); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	secret, err := password(folder)
	if err != nil {
		return err
	}
	sealed, _, err := newSealed(secret)
	if err != nil {
		return err
	}
	return writeWhole(private, sealed)
}

// password reads what the keys in a folder are encrypted with, and makes it when there is none.
func password(folder string) ([]byte, error) {
	path := filepath.Join(folder, passwordFile)
	secret, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	secret = []byte(base64.RawURLEncoding.EncodeToString(random[:]))
	return secret, writeWhole(path, secret)
}

// writeWhole writes a file of mode 0600, whole or not at all.
func writeWhole(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// What says that a key is in force must not outlive the key.
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// PublicKeyPEM is the key for `cosign verify --key`.
func (s *Signer) PublicKeyPEM() []byte { return bytes.Clone(s.pem) }

// KeyID is the SHA-256 of the public key's DER, in hexadecimal.
func (s *Signer) KeyID() string { return s.keyID }

// Signature is a simple-signing payload and the key's signature of it.
type Signature struct {
	Payload []byte
	Base64  string
}

// simpleSigning is the payload of containers-signature(5), with the digest alone for identity: the image may be copied.
type simpleSigning struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]string `json:"optional"`
}

// payload is the same for one pass each time, so that a signature is found again.
func payload(pass policy.Pass) ([]byte, error) {
	var p simpleSigning
	p.Critical.Identity.DockerReference = pass.Repository().String()
	p.Critical.Image.DockerManifestDigest = pass.Digest().String()
	p.Critical.Type = "cosign container image signature"
	p.Optional = map[string]string{"creator": "waybill", "policy": pass.PolicyHash().String()}
	return json.Marshal(p)
}

var (
	errNoPass   = errors.New("nothing is signed without a pass")
	errWithheld = errors.New("the image waits for somebody else's signature, and is not signed before")
)

// Sign signs the digest that a pass is for.
func (s *Signer) Sign(pass policy.Pass) (Signature, error) {
	if !pass.Valid() {
		return Signature{}, errNoPass
	}
	if !pass.Signs() {
		return Signature{}, errWithheld
	}
	p, err := payload(pass)
	if err != nil {
		return Signature{}, err
	}
	raw, err := s.key.SignMessage(bytes.NewReader(p))
	return Signature{Payload: p, Base64: base64.StdEncoding.EncodeToString(raw)}, err
}
