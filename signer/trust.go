package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"waybill/policy"
)

// TrustRoot is what vouches for certificates and for when something was signed. It is used offline: nothing is asked of
// the network.
type TrustRoot struct {
	name     string
	material root.TrustedMaterial
	verifier *verify.Verifier
}

// Bounds of a trust root.
const (
	maxPEM        = 64 << 10 // bytes
	maxAuthority  = 20       // certificates of a chain
	maxTrustParts = 50       // authorities and logs, of each kind
)

// NewTrustRoot reads a trust root; name is how reasons call it. What it has is asked for: an entry of a transparency log
// where it has logs, an entry of a certificate transparency log likewise. It needs one of a log and a timestamp
// authority: certificates live for minutes, and nothing else says that one was used while it lived.
func NewTrustRoot(name string, src policy.TrustRoot) (*TrustRoot, error) {
	if name == "" {
		name = "of the rule"
	}
	r := &TrustRoot{name: name}
	var err error
	if src.TrustedRoot != "" {
		r.material, err = root.NewTrustedRootFromJSON([]byte(src.TrustedRoot))
	} else {
		r.material, err = trustOf(src)
	}
	if err != nil {
		return nil, fmt.Errorf("trust root: %w", err)
	}
	logs, certificateLogs, stamps, cas := len(r.material.RekorLogs()), len(r.material.CTLogs()), len(r.material.TimestampingAuthorities()), len(r.material.FulcioCertificateAuthorities())
	if max(logs, certificateLogs, stamps, cas) > maxTrustParts {
		return nil, fmt.Errorf("trust root: more than %d logs or authorities of a kind", maxTrustParts)
	}
	if cas == 0 {
		return nil, errors.New("trust root: it has no certificate authority, so that no certificate could be verified")
	}
	if logs+stamps == 0 {
		return nil, errors.New("trust root: it has neither a transparency log nor a timestamp authority, so that nothing could say when something was signed")
	}
	asks := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
	if logs > 0 {
		asks = append(asks, verify.WithTransparencyLog(1))
	}
	if certificateLogs > 0 {
		asks = append(asks, verify.WithSignedCertificateTimestamps(1))
	}
	r.verifier, err = verify.NewVerifier(r.material, asks...)
	return r, err
}

// trustOf makes a trust root of keys and certificates in PEM, which hold as long as they do themselves.
func trustOf(src policy.TrustRoot) (root.TrustedMaterial, error) {
	var cas []root.CertificateAuthority
	for i, text := range src.CertificateAuthorities {
		chain, err := certificates(text)
		if err != nil {
			return nil, fmt.Errorf("certificate authority %d: %w", i+1, err)
		}
		anchor, rest := anchorOf(chain)
		cas = append(cas, &root.FulcioCertificateAuthority{Root: anchor, Intermediates: rest})
	}
	var stamps []root.TimestampingAuthority
	for i, text := range src.TimestampAuthorities {
		chain, err := certificates(text)
		if err != nil {
			return nil, fmt.Errorf("timestamp authority %d: %w", i+1, err)
		}
		// Timestamps of two authorities are told apart by their addresses; a chain in PEM has none.
		tsa := &root.SigstoreTimestampingAuthority{URI: fmt.Sprintf("timestamp authority %d", i+1)}
		anchor, rest := anchorOf(chain)
		tsa.Root = anchor
		for _, c := range rest {
			if c.IsCA {
				tsa.Intermediates = append(tsa.Intermediates, c)
			} else {
				tsa.Leaf = c
			}
		}
		stamps = append(stamps, tsa)
	}
	logs, err := logsOf("transparency log", src.TransparencyLogs)
	if err != nil {
		return nil, err
	}
	certificateLogs, err := logsOf("certificate transparency log", src.CertificateTransparencyLogs)
	if err != nil {
		return nil, err
	}
	return root.NewTrustedRoot(root.TrustedRootMediaType01, cas, certificateLogs, stamps, logs)
}

// logsOf reads public keys of logs, and names them as logs do (RFC 6962, section 3.2).
func logsOf(what string, keys []string) (map[string]*root.TransparencyLog, error) {
	logs := map[string]*root.TransparencyLog{}
	for i, text := range keys {
		key, err := publicKeyOf(text)
		if err != nil {
			return nil, fmt.Errorf("%s %d: %w", what, i+1, err)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("%s %d: %w", what, i+1, err)
		}
		id := sha256.Sum256(der)
		logs[hex.EncodeToString(id[:])] = &root.TransparencyLog{ID: id[:], HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: hashOf(key), ValidityPeriodStart: time.Unix(0, 0)}
	}
	return logs, nil
}

func publicKeyOf(text string) (crypto.PublicKey, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%d bytes; at most %d are read", len(text), maxPEM)
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("it is no public key in PEM: %w", err)
	}
	return key, cryptoutils.ValidatePubKey(key)
}

// hashOf is what logs hash with before they sign.
func hashOf(key crypto.PublicKey) crypto.Hash {
	if k, ok := key.(*ecdsa.PublicKey); ok {
		switch k.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
	}
	return crypto.SHA256
}

// certificates reads a chain in PEM, strictly: nothing but certificates.
func certificates(text string) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%d bytes of certificates; at most %d are read", len(text), maxPEM)
	}
	var chain []*x509.Certificate
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is no chain of certificates in PEM; want blocks that begin with -----BEGIN CERTIFICATE-----")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if chain = append(chain, c); len(chain) > maxAuthority {
			return nil, fmt.Errorf("more than %d certificates in a chain", maxAuthority)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return chain, nil
}

// anchorOf returns the certificate to trust, the one that signed itself or else the last, and the others.
func anchorOf(chain []*x509.Certificate) (anchor *x509.Certificate, rest []*x509.Certificate) {
	at := len(chain) - 1
	for i, c := range chain {
		if bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil {
			at = i
		}
	}
	for i, c := range chain {
		if i != at {
			rest = append(rest, c)
		}
	}
	return chain[at], rest
}

// trustedKey verifies what one public key signed.
type trustedKey struct {
	name      string // SHA256:HEX
	verifiers []*verify.Verifier
}

// newTrustedKey takes a public key in PEM. A key signs with more than one hash: cosign's older versions used SHA-256
// whatever the curve, and Ed25519 comes with a hash before it and without.
func newTrustedKey(text string) (*trustedKey, error) {
	public, err := publicKeyOf(text)
	if err != nil {
		return nil, err
	}
	k := &trustedKey{name: policy.KeyName(text)}
	first, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	all := []signature.Verifier{first}
	if other, err := signature.LoadDefaultVerifier(public, options.WithED25519ph()); err == nil {
		all = append(all, other)
	}
	for _, one := range all {
		key := root.NewExpiringKey(one, timeless, timeless)
		material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
		v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
		if err != nil {
			return nil, err
		}
		k.verifiers = append(k.verifiers, v)
	}
	return k, nil
}

// verify returns the statement that the key signed, nil of a signature.
func (k *trustedKey) verify(c *candidate) (result *verify.VerificationResult, err error) {
	for _, v := range k.verifiers {
		if result, err = v.Verify(c.entity, verify.NewPolicy(c.artifact(), verify.WithKey())); err == nil {
			return result, nil
		}
	}
	return nil, err
}

// Trust is the trust roots of the configuration, by name.
type Trust map[string]*TrustRoot

// Sound reports what is wrong with a trust root that a policy or pipeline names.
func (t Trust) Sound(src policy.TrustRoot) error {
	_, err := t.find(src)
	return err
}

func (t Trust) find(src policy.TrustRoot) (*TrustRoot, error) {
	if src.Name == "" {
		return NewTrustRoot("", src)
	}
	if found := t[src.Name]; found != nil {
		return found, nil
	}
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	known := "it has none"
	if len(names) > 0 {
		known = "it has " + strings.Join(sorted(names), ", ")
	}
	return nil, fmt.Errorf("trust root %.100q is not in the server's configuration (trustRoots); %s", src.Name, known)
}

func sorted(all []string) []string {
	slices.Sort(all)
	return all
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
