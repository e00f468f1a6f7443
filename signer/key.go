// Package signer signs what policy allows. It is the only importer of cosign, and takes nothing but a policy.Pass.
package signer

import (
	"bytes"
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

	"github.com/sigstore/cosign/v2/pkg/cosign"
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
	private, password := filepath.Join(folder, "cosign.key"), filepath.Join(folder, "cosign.password")
	if err := generate(folder, private, password); err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	sealed, err := os.ReadFile(private)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	secret, err := os.ReadFile(password)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	key, err := cosign.LoadPrivateKey(sealed, secret, nil)
	if err != nil {
		return nil, errors.New("signing key: its password does not open it, or it is damaged")
	}
	public, err := key.PublicKey()
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
	return &Signer{key: key, pem: encoded, keyID: hex.EncodeToString(sum[:])}, nil
}

// generate writes the password first: a crash before the key leaves a password that the next call goes on with.
func generate(folder, private, password string) error {
	if _, err := os.Stat(private); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	secret := []byte(base64.RawURLEncoding.EncodeToString(random[:]))
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return secret, nil })
	if err != nil {
		return err
	}
	if err := writeWhole(password, secret); err != nil {
		return err
	}
	return writeWhole(private, pair.PrivateBytes)
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
	return os.Rename(f.Name(), path)
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

var errNoPass = errors.New("nothing is signed without a pass")

// Sign signs the digest that a pass is for.
func (s *Signer) Sign(pass policy.Pass) (Signature, error) {
	if !pass.Valid() {
		return Signature{}, errNoPass
	}
	p, err := payload(pass)
	if err != nil {
		return Signature{}, err
	}
	raw, err := s.key.SignMessage(bytes.NewReader(p))
	return Signature{Payload: p, Base64: base64.StdEncoding.EncodeToString(raw)}, err
}
