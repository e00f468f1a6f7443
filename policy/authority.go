package policy

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Authorities are those whose signatures count, any of them. Keys and Identities are as a policy or pipeline has them;
// Check takes the word waybill out of Keys.
type Authorities struct {
	Keys       []string   `yaml:"keys" json:"keys,omitempty"` // public, PKIX in PEM; the word waybill stands for the service's own
	Identities []Identity `yaml:"identities" json:"identities,omitempty"`
	Own        bool       `yaml:"-" json:"own,omitempty"` // the service's own keys
}

// Identity is whom a certificate was issued to, and by whom that is vouched for.
type Identity struct {
	Issuer        string    `yaml:"issuer" json:"issuer"`                         // the OpenID issuer, whole: OID 1.3.6.1.4.1.57264.1.8
	Subject       string    `yaml:"subject" json:"subject,omitempty"`             // the subject alternative name, whole
	SubjectRegExp string    `yaml:"subjectRegExp" json:"subjectRegExp,omitempty"` // or a regular expression (RE2) that it fits as a whole
	TrustRoot     TrustRoot `yaml:"trustRoot" json:"trustRoot"`

	subject *regexp.Regexp
}

// TrustRoot is what vouches for certificates and for when something was signed: by the name that the server's
// configuration gives it, as sigstore's trusted_root.json, or as keys and certificates in PEM.
type TrustRoot struct {
	Name                        string   `yaml:"-" json:"name,omitempty"`
	TrustedRoot                 string   `yaml:"trustedRoot" json:"trustedRoot,omitempty"`
	CertificateAuthorities      []string `yaml:"certificateAuthorities" json:"certificateAuthorities,omitempty"`           // chains
	TransparencyLogs            []string `yaml:"transparencyLogs" json:"transparencyLogs,omitempty"`                       // public keys of Rekor
	CertificateTransparencyLogs []string `yaml:"certificateTransparencyLogs" json:"certificateTransparencyLogs,omitempty"` // public keys
	TimestampAuthorities        []string `yaml:"timestampAuthorities" json:"timestampAuthorities,omitempty"`               // chains, RFC 3161
}

// UnmarshalYAML takes a name or a mapping.
func (t *TrustRoot) UnmarshalYAML(n ast.Node) error {
	if n.Type() == ast.MappingType || n.Type() == ast.MappingValueType {
		type plain TrustRoot
		return yaml.NodeToValue(n, (*plain)(t), yaml.Strict())
	}
	return yaml.NodeToValue(n, &t.Name)
}

// Bounds of what one rule or gate names. Each costs a verification of each signature that is there.
const (
	maxAuthorityKeys = 20
	maxIdentities    = 20
	maxSubject       = 500       // bytes of a subject, an issuer or an expression
	maxTrustRoot     = 256 << 10 // bytes of an inline trust root
)

// ownKeys is what stands for the service's own keys.
const ownKeys = "waybill"

// Check refuses what can match nobody, or would match everybody; at is where the two lists stand.
func (a *Authorities) Check(at Node) error {
	if len(a.Keys) > maxAuthorityKeys || len(a.Identities) > maxIdentities {
		return at.Errorf("%d keys and %d identities; at most %d and %d are taken", len(a.Keys), len(a.Identities), maxAuthorityKeys, maxIdentities)
	}
	var keys []string
	for i, text := range a.Keys {
		if text == ownKeys {
			a.Own = true
			continue
		}
		key, err := publicKey(text)
		if err != nil {
			return at.At("$.keys[%d]", i).Errorf("%v", err)
		}
		keys = append(keys, key)
	}
	a.Keys = keys
	for i := range a.Identities {
		if err := a.Identities[i].check(at.At("$.identities[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}

// None reports whether nobody is named.
func (a Authorities) None() bool { return len(a.Keys) == 0 && len(a.Identities) == 0 && !a.Own }

// publicKey returns a key in PEM, spelled in one way.
func publicKey(text string) (string, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return "", fmt.Errorf("it is no public key in PEM; want one that begins with -----BEGIN PUBLIC KEY-----, as cosign writes it")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", err
	}
	if weak, ok := key.(*rsa.PublicKey); ok && weak.N.BitLen() < 2048 {
		return "", fmt.Errorf("it is an RSA key of %d bits; want 2048 at least", weak.N.BitLen())
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})), nil
}

// KeyName is how reasons call a public key in PEM: by the SHA-256 of its DER.
func KeyName(key string) string {
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		return "?"
	}
	sum := sha256.Sum256(block.Bytes)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

func (i *Identity) check(at Node) (err error) {
	switch {
	case i.Issuer == "" || len(i.Issuer) > maxSubject:
		return at.Errorf("an identity wants issuer, the OpenID issuer that the certificate names, such as https://token.actions.githubusercontent.com")
	case (i.Subject == "") == (i.SubjectRegExp == ""):
		return at.Errorf("an identity wants either subject or subjectRegExp: whom the certificate was issued to")
	case len(i.Subject) > maxSubject || len(i.SubjectRegExp) > maxSubject:
		return at.Errorf("the subject has more than %d bytes", maxSubject)
	}
	if i.SubjectRegExp != "" {
		if i.subject, err = regexp.Compile(`\A(?:` + i.SubjectRegExp + `)\z`); err != nil {
			return at.At("$.subjectRegExp").Errorf("%v", err)
		}
		if i.subject.MatchString("") || i.subject.MatchString("anybody@example.org") && i.subject.MatchString("https://anything.example.org/") {
			return at.At("$.subjectRegExp").Errorf("%q fits everybody whom the issuer knows; say whom you mean", i.SubjectRegExp)
		}
	}
	return i.TrustRoot.check(at)
}

func (t TrustRoot) check(at Node) error {
	size := len(t.TrustedRoot)
	lists := [][]string{t.CertificateAuthorities, t.TransparencyLogs, t.CertificateTransparencyLogs, t.TimestampAuthorities}
	for _, list := range lists {
		for _, one := range list {
			size += len(one)
		}
	}
	parts := slices.ContainsFunc(lists, func(l []string) bool { return len(l) > 0 })
	switch {
	case t.Name == "" && size == 0:
		return at.Errorf("an identity wants trustRoot: the name of one in the server's configuration, or a mapping with trustedRoot (trusted_root.json) or certificateAuthorities and more")
	case t.TrustedRoot != "" && parts:
		return at.At("$.trustRoot").Errorf("trustedRoot has all of a trust root; give nothing beside it")
	case size > maxTrustRoot:
		return at.At("$.trustRoot").Errorf("the trust root has %d bytes; at most %d are taken", size, maxTrustRoot)
	}
	return nil
}

// Matches reports whether a certificate's issuer and subject are those of the identity. Of one that was not checked, never.
func (i Identity) Matches(issuer, subject string) bool {
	if i.Issuer == "" || issuer != i.Issuer {
		return false
	}
	if i.SubjectRegExp != "" {
		return i.subject != nil && i.subject.MatchString(subject)
	}
	return i.Subject != "" && subject == i.Subject
}

// String says whom it is.
func (i Identity) String() string {
	if i.Subject != "" {
		return i.Subject + " of " + i.Issuer
	}
	return "/" + i.SubjectRegExp + "/ of " + i.Issuer
}

// String says who they are.
func (a Authorities) String() string {
	var who []string
	if a.Own {
		who = append(who, "Waybill's own key")
	}
	for _, key := range a.Keys {
		who = append(who, "key "+KeyName(key))
	}
	for _, i := range a.Identities {
		who = append(who, i.String())
	}
	const most = 3
	if more := len(who) - most; more > 0 {
		who = append(who[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(who, " or ")
}

// TrustRoots calls sound for each trust root that the policy's rules name, and says where in the document one is that is
// not.
func (d Document) TrustRoots(sound func(TrustRoot) error) error {
	for _, r := range d.rules {
		if r.asks == nil {
			continue
		}
		if err := r.asks.Sound(r.at, sound); err != nil {
			return err
		}
	}
	return nil
}

// Sound calls sound for each trust root; at is as for Check.
func (a Authorities) Sound(at Node, sound func(TrustRoot) error) error {
	for i, identity := range a.Identities {
		if err := sound(identity.TrustRoot); err != nil {
			return at.At("$.identities[%d].trustRoot", i).Errorf("%v", err)
		}
	}
	return nil
}
