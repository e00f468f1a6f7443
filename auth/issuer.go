package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"waybill/artifact"
)

// Scope is one resource scope of Docker's token flow (distribution "Token Scope Documentation").
type Scope struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// maxScopes bounds what one request may ask for.
const maxScopes = 50

// ParseScopes parses scope parameters: each is one or more type:name:action,action separated by spaces. What is no
// repository scope is kept, and granted nothing.
func ParseScopes(parameters []string) ([]Scope, error) {
	var all []Scope
	for _, parameter := range parameters {
		for _, text := range strings.Fields(parameter) {
			first, last := strings.Index(text, ":"), strings.LastIndex(text, ":")
			if first < 1 || last <= first || len(text) > 1000 || len(all) == maxScopes {
				return nil, artifact.Errorf(artifact.Invalid, "scope %.100q: want repository:NAME:pull,push, at most %d of them", text, maxScopes)
			}
			all = append(all, Scope{Type: text[:first], Name: text[first+1 : last], Actions: strings.Split(text[last+1:], ",")})
		}
	}
	return all, nil
}

// dockerActions are what a scope may ask for. Docker's "*" is all of them that the principal has: who asks for it to
// delete, as skopeo does, pulls the manifest first.
var dockerActions = map[string][]string{"pull": {"pull"}, "push": {"push"}, "delete": {"delete"}, "*": {"pull", "push", "delete"}}

// cut returns what of the asked scopes a principal has.
func cut(p artifact.Principal, asked []Scope) []Scope {
	granted := []Scope{}
	for _, s := range asked {
		repository, err := artifact.ParseRepository(s.Name)
		if s.Type != "repository" || err != nil {
			continue
		}
		g := Scope{Type: s.Type, Name: s.Name, Actions: []string{}}
		for _, asked := range s.Actions {
			for _, action := range dockerActions[asked] {
				if has(p, action, repository) && !slices.Contains(g.Actions, action) {
					g.Actions = append(g.Actions, action)
				}
			}
		}
		granted = append(granted, g)
	}
	return granted
}

// has reports whether a principal has an action of Docker's; each is ours of the same name. A deployer may pull from its
// repositories: what, the gate says.
func has(p artifact.Principal, action string, repository artifact.Repository) bool {
	return p.Can(artifact.Action(action), repository) || action == "pull" && len(p.Deploys(repository)) > 0
}

// accessLife is how long an access token of Docker's flow lasts.
const accessLife = 5 * time.Minute

// Issuer signs and checks access tokens: JWTs by Ed25519 (RFC 8037).
type Issuer struct {
	signer  jose.Signer
	public  ed25519.PublicKey
	service string
}

type claims struct {
	jwt.Claims
	TokenID string  `json:"tid"`
	Access  []Scope `json:"access"`
}

// NewIssuer reads the key in path, and makes it when there is none. service is the audience of the tokens.
func NewIssuer(path, service string) (*Issuer, error) {
	key, err := loadKey(path)
	if err != nil {
		return nil, fmt.Errorf("access token key: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	return &Issuer{signer, key.Public().(ed25519.PublicKey), service}, err
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	} else if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no Ed25519 key", path)
	}
	return key, nil
}

func makeKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, WriteSecret(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// WriteSecret writes a file of mode 0600, whole or not at all.
func WriteSecret(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Service is the name that challenges give.
func (i *Issuer) Service() string { return i.service }

// Issue returns an access token for what the identity has of the asked scopes, and how long it lasts.
func (i *Issuer) Issue(id Identity, asked []Scope, now time.Time) (token string, life time.Duration, err error) {
	if id.Principal.Anonymous() || id.Scopes != nil {
		return "", 0, errUnauthentic()
	}
	return i.sign(id, cut(id.Principal, asked), now)
}

// IssuePublic returns an access token of nobody, to pull what of the asked scopes is public. With nothing of that it is
// an Unauthentic error, which makes clients sign in.
func (i *Issuer) IssuePublic(asked []Scope, public func(artifact.Repository) bool, now time.Time) (token string, life time.Duration, err error) {
	granted := []Scope{}
	for _, s := range asked {
		repository, err := artifact.ParseRepository(s.Name)
		if s.Type == "repository" && err == nil && public(repository) && slices.ContainsFunc(s.Actions, func(a string) bool { return slices.Contains(dockerActions[a], "pull") }) {
			granted = append(granted, Scope{Type: s.Type, Name: s.Name, Actions: []string{"pull"}})
		}
	}
	if len(granted) == 0 {
		return "", 0, errUnauthentic()
	}
	return i.sign(Identity{Principal: artifact.Principal{Name: "anonymous"}}, granted, now)
}

func (i *Issuer) sign(id Identity, granted []Scope, now time.Time) (token string, life time.Duration, err error) {
	token, err = jwt.Signed(i.signer).Claims(claims{
		Claims: jwt.Claims{Issuer: i.service, Audience: jwt.Audience{i.service}, Subject: id.Principal.Name,
			IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(accessLife))},
		TokenID: id.TokenID, Access: granted,
	}).Serialize()
	return token, accessLife, err
}

func (i *Issuer) verify(token string, now time.Time) (claims, error) {
	var c claims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || parsed.Claims(i.public, &c) != nil {
		return claims{}, errWrong()
	}
	if c.ValidateWithLeeway(jwt.Expected{Issuer: i.service, AnyAudience: jwt.Audience{i.service}, Time: now}, time.Second) != nil || c.Expiry == nil {
		return claims{}, errUnauthentic()
	}
	return c, nil
}
