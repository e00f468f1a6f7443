package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"

	"waybill/artifact"
)

// ProviderConfig says which tokens of an OpenID provider are believed, and what those it vouches for may do.
type ProviderConfig struct {
	URL      string // the issuer, as the claim iss has it
	Audience string // that a token must be for
	CA       []byte // PEM; nil: whom the system trusts
	Keys     []byte // a JSON Web Key Set; nil: by discovery
	Rules    []Rule // the first that matches decides
	// Name is the claim that names somebody, after the issuer: it must be nobody else's, ever. Empty: sub.
	Name string
	// Kind is what names begin with: workload or user.
	Kind string
	// Life is how long what a token is exchanged for lasts.
	Life time.Duration
	Now  func() time.Time
}

// Rule gives a role to those whose claims match.
type Rule struct {
	Claims       map[string][]string // by claim the patterns of which one must match; every claim must
	Role         artifact.Role
	Repositories []string
	Environments []artifact.Environment
}

// algorithms are those that tokens may be signed by: asymmetric, and not "none".
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// Bounds of what is asked of a provider, and of what it answers.
const (
	providerTimeout = 10 * time.Second
	providerBody    = 1 << 20
	providerEvery   = 5 * time.Second // discovery and keys: a token with an unknown key makes one more request
	providerBurst   = 6
	discoveryLife   = time.Hour
	clockSkew       = time.Minute
	maxIDToken      = 16 << 10
	maxDisplay      = 100
)

// Provider verifies the tokens of one issuer. What it fetches it keeps. It is safe for concurrent use.
type Provider struct {
	cfg    ProviderConfig
	client *http.Client
	fixed  *oidc.IDTokenVerifier // with keys that are given

	mu       sync.Mutex // held while discovering: who comes meanwhile waits for the same answer
	found    *oidc.Provider
	foundAt  time.Time
	failedAt time.Time
}

// NewProvider returns a provider. It asks it for nothing yet: a server starts also while its provider is away.
func NewProvider(cfg ProviderConfig) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return nil, fmt.Errorf("issuer %.200q: want https://HOST[/PATH], exactly as the tokens' claim iss has it", cfg.URL)
	}
	client, err := providerClient(cfg.CA)
	if err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, client: client}
	if cfg.Keys != nil {
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(cfg.Keys, &set); err != nil || len(set.Keys) == 0 {
			return nil, errors.New("want a JSON Web Key Set (RFC 7517) with at least one key")
		}
		keys := &oidc.StaticKeySet{}
		for _, k := range set.Keys {
			if !k.Valid() || !k.IsPublic() {
				return nil, fmt.Errorf("key %.80q is not a public key", k.KeyID)
			}
			keys.PublicKeys = append(keys.PublicKeys, k.Key)
		}
		p.fixed = oidc.NewVerifier(cfg.URL, keys, p.verifierConfig())
	}
	return p, nil
}

func loopback(host string) bool { return host == "127.0.0.1" || host == "::1" || host == "localhost" }

func providerClient(ca []byte) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if ca != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("the file of certificate authorities holds no certificate in PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Timeout: providerTimeout, Transport: &frugal{transport, rate.NewLimiter(rate.Every(providerEvery), providerBurst)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// frugal bounds how often a provider is read, and how much of its answer: the senders of tokens decide when.
type frugal struct {
	next    http.RoundTripper
	limiter *rate.Limiter
}

func (f *frugal) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && !f.limiter.Allow() {
		return nil, errors.New("the provider was asked too often; wait some seconds")
	}
	answer, err := f.next.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, providerBody)
	}
	return answer, err
}

func (p *Provider) verifierConfig() *oidc.Config {
	return &oidc.Config{ClientID: p.cfg.Audience, SupportedSigningAlgs: algorithms, Now: p.cfg.Now}
}

// discover returns what the provider says of itself, at most discoveryLife old unless it is away.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	if p.found != nil && now.Sub(p.foundAt) < discoveryLife {
		return p.found, nil
	}
	if now.Sub(p.failedAt) >= providerEvery {
		found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.cfg.URL)
		if err == nil {
			p.found, p.foundAt = found, now
			return found, nil
		}
		if ctx.Err() == nil {
			p.failedAt = now
		}
		if p.found == nil {
			return nil, &artifact.Error{Kind: artifact.Unavailable, Message: "the provider " + p.cfg.URL + " does not answer, or not as OpenID Connect Discovery wants; try again, or have an admin look at the log", Err: err}
		}
	}
	if p.found == nil {
		return nil, artifact.Errorf(artifact.Unavailable, "the provider %s did not answer a moment ago; try again", p.cfg.URL)
	}
	return p.found, nil
}

func (p *Provider) verifier(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	if p.fixed != nil {
		return p.fixed, nil
	}
	found, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	return found.Verifier(p.verifierConfig()), nil
}

// verified is what a token says that its signature holds for.
type verified struct {
	subject, nonce string
	claims         map[string]any
}

// verify checks signature, issuer, audience and times (OpenID Connect Core 1.0, section 3.1.3.7).
func (p *Provider) verify(ctx context.Context, raw string) (verified, error) {
	v, err := p.verifier(ctx)
	if err != nil {
		return verified{}, err
	}
	token, err := v.Verify(oidc.ClientContext(ctx, p.client), raw)
	if err != nil {
		var old *oidc.TokenExpiredError
		if errors.As(err, &old) {
			return verified{}, artifact.Errorf(artifact.Unauthentic, "the token of %s has expired; get another", p.cfg.URL)
		}
		if strings.Contains(err.Error(), "fetching keys") { // go-oidc does not wrap it
			return verified{}, &artifact.Error{Kind: artifact.Unavailable, Message: "the keys of " + p.cfg.URL + " cannot be read; try again, or have an admin look at the log", Err: err}
		}
		return verified{}, refuseToken(p.cfg.URL, err)
	}
	var claims exact
	if err := token.Claims(&claims); err != nil {
		return verified{}, refuseToken(p.cfg.URL, err)
	}
	if number, ok := claims["nbf"].(json.Number); ok {
		if at, err := number.Float64(); err != nil || time.Unix(int64(at), 0).After(p.cfg.Now().Add(clockSkew)) {
			return verified{}, refuseToken(p.cfg.URL, errors.New("it is not valid yet"))
		}
	}
	if azp, ok := claims["azp"].(string); len(token.Audience) > 1 && ok && azp != p.cfg.Audience {
		return verified{}, refuseToken(p.cfg.URL, errors.New("it is for several, and was issued to another"))
	}
	if token.Subject == "" || len(token.Subject) > 255 {
		return verified{}, refuseToken(p.cfg.URL, errors.New("its subject has no name, or one of more than 255 bytes"))
	}
	return verified{token.Subject, token.Nonce, claims}, nil
}

// refuseToken does not say what is wrong, but where to look: the reason is in the log.
func refuseToken(issuer string, why error) error {
	return &artifact.Error{Kind: artifact.Unauthentic, Code: "UNAUTHORIZED",
		Message: "the token is not a valid one of " + issuer + " for this server: its signature, audience or times are wrong; ask for one with the audience that `waybill login --help` names", Err: errors.Join(errGuess, why)}
}

// exact are claims whose numbers are as they are written: ids of more than 53 bits are told apart, and 7.4 is not 7.
type exact map[string]any

func (e *exact) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode((*map[string]any)(e))
}

// grant returns the session that the rules give that match, each its role.
func (p *Provider) grant(v verified) (Token, error) {
	name, err := p.nameOf(v)
	if err != nil {
		return Token{}, err
	}
	var given []artifact.Binding
	for _, r := range p.cfg.Rules {
		if r.matches(v.claims) {
			given = append(given, artifact.Binding{Role: r.Role, Repositories: r.Repositories, Environments: r.Environments})
		}
	}
	if len(given) > 0 {
		t := Token{Name: display(v), Session: p.cfg.Kind + ":" + p.cfg.URL + "#" + name, More: given[1:]}
		t.Role, t.Repositories, t.Environments = given[0].Role, given[0].Repositories, given[0].Environments
		return t, nil
	}
	return Token{}, artifact.Errorf(artifact.Denied, "%s vouches for %s, and none of its rules here matches the claims; an admin adds one to identity in the configuration", p.cfg.URL, printable(name))
}

func (p *Provider) nameOf(v verified) (string, error) {
	if p.cfg.Name == "" || p.cfg.Name == "sub" {
		return printable(v.subject), nil
	}
	name, _ := v.claims[p.cfg.Name].(string)
	if name == "" || len(name) > 255 {
		return "", artifact.Errorf(artifact.Denied, "%s names nobody by claim %s, which the configuration wants; ask an admin", p.cfg.URL, p.cfg.Name)
	}
	if verified, said := v.claims["email_verified"].(bool); p.cfg.Name == "email" && (!said || !verified) {
		return "", artifact.Errorf(artifact.Denied, "%s has not verified the address %s; do so there", p.cfg.URL, printable(name))
	}
	return printable(name), nil
}

// display is how people know somebody, for lists; nothing is decided by it.
func display(v verified) string {
	for _, claim := range []string{"preferred_username", "email", "name"} {
		if s, _ := v.claims[claim].(string); s != "" && len(s) <= maxDisplay {
			return printable(s)
		}
	}
	return printable(v.subject[:min(len(v.subject), maxDisplay)])
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}

func (r Rule) matches(claims map[string]any) bool {
	for name, patterns := range r.Claims {
		values := claimValues(claims, name)
		if !slices.ContainsFunc(values, func(v string) bool {
			return slices.ContainsFunc(patterns, func(p string) bool { return matchClaim(p, v) })
		}) {
			return false
		}
	}
	return len(r.Claims) > 0
}

// matchClaim compares exactly, unless the pattern has a * or ?: those are as in patterns of repositories, so that a *
// does not go beyond a slash.
func matchClaim(pattern, value string) bool {
	if !strings.ContainsAny(pattern, "*?[") {
		return pattern == value
	}
	return artifact.MatchGlob(pattern, value)
}

// claimValues returns a claim as texts: of a list each. A name that begins with a slash is a JSON pointer (RFC 6901).
func claimValues(claims map[string]any, name string) []string {
	var value any = claims
	if rest, nested := strings.CutPrefix(name, "/"); nested {
		for _, part := range strings.Split(rest, "/") {
			object, _ := value.(map[string]any)
			value = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
		}
	} else {
		value = claims[name]
	}
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var texts []string
	for _, v := range list {
		switch v := v.(type) {
		case string:
			texts = append(texts, v)
		case bool:
			texts = append(texts, fmt.Sprint(v))
		case json.Number:
			texts = append(texts, v.String())
		}
	}
	return texts
}

// shared are issuers whose tokens anybody can get; a rule for one names who.
var shared = map[string][]string{
	"https://token.actions.githubusercontent.com": {"sub", "repository", "repository_id", "repository_owner", "repository_owner_id", "enterprise", "enterprise_id"},
	"https://gitlab.com":                          {"sub", "project_path", "project_id", "namespace_path", "namespace_id", "user_login", "user_id"},
	"https://accounts.google.com":                 {"sub", "email", "hd"},
}

// saysWhose reports whether the pattern of a claim that names an owner lets no other owner through: repo:acme/* does, and repo:*/shop or
// a*/shop do not. An address is its domain's.
func saysWhose(claim, pattern string) bool {
	owner, _, _ := strings.Cut(pattern, "/")
	if claim == "email" {
		owner = pattern[strings.LastIndexByte(pattern, '@')+1:]
	}
	return owner != "" && !strings.ContainsAny(owner, `*?[\`)
}

// Check returns what is wrong with a rule of an issuer, and the key of the rule where it is.
func (r Rule) Check(issuer string) (key string, wrong error) {
	if len(r.Claims) == 0 {
		return "", errors.New("want claims, such as {sub: 'repo:acme/shop:ref:refs/heads/main'}: without one everybody whom the issuer knows would match")
	}
	who := shared[issuer]
	narrow := who == nil
	for name, patterns := range r.Claims {
		if len(patterns) == 0 {
			return ".claims", fmt.Errorf("claim %s has no pattern", name)
		}
		for _, p := range patterns {
			if p == "" || strings.ContainsAny(p, "*?[") && !artifact.ValidGlob(p) {
				return ".claims", fmt.Errorf("claim %s: %.80q is no pattern; want a value, or one with *, ? or **", name, p)
			}
		}
		if slices.Contains(who, name) && !slices.ContainsFunc(patterns, func(p string) bool { return !saysWhose(name, p) }) {
			narrow = true
		}
	}
	if !narrow {
		return ".claims", fmt.Errorf("anybody can get a token of %s; say whose counts, by one of %s, with no wildcard in the owner's name", issuer, strings.Join(who, ", "))
	}
	g := Grant{Name: "rule", Role: r.Role, Repositories: r.Repositories, Environments: r.Environments}
	if err := g.check(); err != nil {
		return ".role", err
	}
	return "", nil
}
