package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/auth"
)

// IdentityConfig says whom to believe who somebody is. Lists and people are in the file only.
type IdentityConfig struct {
	// Issuers are OpenID providers whose workloads exchange a token for one of ten minutes.
	Issuers []IssuerConfig `yaml:"issuers"`
	// People is the OpenID provider that people sign in at. Default none: with a token only.
	People *PeopleConfig `yaml:"people"`
	// FailedLogins is how many wrong credentials an address, or a token's id, may have in a minute. Default 30.
	FailedLogins int `yaml:"failedLogins"`
	// TrustedProxies are addresses and networks of proxies before the server, such as 10.0.0.0/8: the address of a client
	// is as their X-Forwarded-For says. Default none.
	TrustedProxies []string `yaml:"trustedProxies"`
}

// ProviderConfig says where an OpenID provider is.
type ProviderConfig struct {
	// Issuer is its address, exactly as the claim iss has it, such as https://token.actions.githubusercontent.com.
	Issuer string `yaml:"issuer"`
	// CAFile holds the certificate authorities to trust there, in PEM. Default those of the system.
	CAFile string `yaml:"caFile"`
	// Rules give roles; the first that matches decides, and nobody whom none matches gets in.
	Rules []RuleConfig `yaml:"rules"`
}

// IssuerConfig is an OpenID provider of workloads.
type IssuerConfig struct {
	ProviderConfig `yaml:",inline"`
	// Audience that tokens must be for, such as https://registry.example.com.
	Audience string `yaml:"audience"`
	// JWKSFile holds its keys, a JSON Web Key Set, where the server cannot or should not ask it. Default: it is asked.
	JWKSFile string `yaml:"jwksFile"`
}

// PeopleConfig is the OpenID provider that people sign in at.
type PeopleConfig struct {
	ProviderConfig `yaml:",inline"`
	// ClientID of the server there. Its redirect address is externalURL and /login/callback.
	ClientID string `yaml:"clientID"`
	// ClientSecretFile holds the client's secret; it is read at each sign-in. Empty: a public client.
	ClientSecretFile string `yaml:"clientSecretFile"`
	// CommandClientID is a public client for `waybill login`, with the redirect address http://127.0.0.1/callback, on any
	// port. Empty: the command line takes tokens only.
	CommandClientID string `yaml:"commandClientID"`
	// Scopes to ask for. Default openid, profile, email.
	Scopes []string `yaml:"scopes"`
	// NameClaim is the claim that names a person in the ledger; it must never be given to another. Default sub.
	NameClaim string `yaml:"nameClaim"`
	// Session is how long a sign-in lasts. Default 12h.
	Session time.Duration `yaml:"session"`
}

// RuleConfig gives a role to those whose claims match.
type RuleConfig struct {
	// Claims are, by name, the value that one must have or a list of such; * and ? stand for what is within two slashes,
	// ** for any number of parts. A name that begins with a slash is a JSON pointer: /kubernetes.io/namespace.
	Claims map[string]Values `yaml:"claims"`
	// Role is reader, pusher, promoter, approver, auditor, deployer or admin.
	Role string `yaml:"role"`
	// Repositories are patterns that it is bound to. Default every repository.
	Repositories []string `yaml:"repositories"`
	// Environments that it is bound to, of a deployer (which needs one) or a promoter.
	Environments []string `yaml:"environments"`
}

// Values are one text or several.
type Values []string

// UnmarshalYAML takes a text or a list of them.
func (v *Values) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*v = Values{one}
		return nil
	}
	var several []string
	err := decode(&several)
	*v = several
	return err
}

// PublicConfig says what anybody may pull without signing in.
type PublicConfig struct {
	// Repositories are patterns, such as public/**. Default none. What mirrors fetch is never public.
	Repositories []string `yaml:"repositories"`
}

func (c *IdentityConfig) setDefaults() {
	setDefault(&c.FailedLogins, 30)
	if p := c.People; p != nil {
		setDefault(&p.Session, 12*time.Hour)
		if p.Scopes == nil {
			p.Scopes = []string{"openid", "profile", "email"}
		}
	}
}

// wrongIdentity returns what is wrong with identity or public, and where that is written.
func (cfg *Config) wrongIdentity() (at string, wrong error) {
	for i, pattern := range cfg.Public.Repositories {
		if !artifact.ValidGlob(pattern) {
			return fmt.Sprintf("$.public.repositories[%d]", i), fmt.Errorf("%.80q is no pattern; want one such as public/**", pattern)
		}
	}
	c := cfg.Identity
	if c.FailedLogins < 1 {
		return "$.identity.failedLogins", errors.New("want at least 1")
	}
	for i, text := range c.TrustedProxies {
		_, err := netip.ParsePrefix(text)
		if _, alone := netip.ParseAddr(text); err != nil && alone != nil {
			return fmt.Sprintf("$.identity.trustedProxies[%d]", i), fmt.Errorf("%.80q is no address or network; want one such as 10.0.0.0/8", text)
		}
	}
	seen := map[[2]string]bool{}
	for i, issuer := range c.Issuers {
		place := fmt.Sprintf("$.identity.issuers[%d]", i)
		if seen[[2]string{issuer.Issuer, issuer.Audience}] {
			return place + ".issuer", fmt.Errorf("issuer %s is there already, with the same audience; put all rules into one", issuer.Issuer)
		}
		seen[[2]string{issuer.Issuer, issuer.Audience}] = true
		if issuer.Audience == "" {
			return place + ".audience", errors.New("want an audience, such as https://registry.example.com: a token for another service must not work here")
		}
		if key, wrong := issuer.wrong(); wrong != nil {
			return place + key, wrong
		}
	}
	if c.People != nil {
		if key, wrong := c.People.wrong(); wrong != nil {
			return "$.identity.people" + key, wrong
		}
	}
	return "", nil
}

func (c IssuerConfig) wrong() (key string, wrong error) {
	if key, wrong := c.ProviderConfig.wrong(); wrong != nil {
		return key, wrong
	}
	if _, err := readOptional(c.JWKSFile); err != nil {
		return ".jwksFile", err
	}
	if _, err := c.provider(); err != nil {
		return ".issuer", err
	}
	return "", nil
}

func (c PeopleConfig) wrong() (key string, wrong error) {
	if key, wrong := c.ProviderConfig.wrong(); wrong != nil {
		return key, wrong
	}
	switch {
	case c.ClientID == "":
		return ".clientID", errors.New("want the id that the provider knows the server by")
	case !slices.Contains(c.Scopes, "openid"):
		return ".scopes", errors.New("want openid among the scopes")
	case c.Session < time.Minute || c.Session > 30*24*time.Hour:
		return ".session", errors.New("want 1m to 720h")
	}
	if _, err := readOptional(c.ClientSecretFile); err != nil {
		return ".clientSecretFile", err
	}
	if _, err := c.provider(c.ClientID); err != nil {
		return ".issuer", err
	}
	return "", nil
}

func (c ProviderConfig) wrong() (key string, wrong error) {
	if _, err := readOptional(c.CAFile); err != nil {
		return ".caFile", err
	}
	if len(c.Rules) == 0 {
		return ".issuer", errors.New("want rules: without one nobody of this issuer gets in")
	}
	for i, r := range c.Rules {
		place := fmt.Sprintf(".rules[%d]", i)
		rule, err := r.rule()
		if err != nil {
			return place + ".environments", err
		}
		if key, wrong := rule.Check(c.Issuer); wrong != nil {
			return place + key, wrong
		}
	}
	return "", nil
}

func (r RuleConfig) rule() (auth.Rule, error) {
	rule := auth.Rule{Claims: map[string][]string{}, Role: artifact.Role(r.Role), Repositories: r.Repositories}
	for name, values := range r.Claims {
		rule.Claims[name] = values
	}
	for _, name := range r.Environments {
		e, err := artifact.ParseEnvironment(name)
		if err != nil {
			return rule, err
		}
		rule.Environments = append(rule.Environments, e)
	}
	return rule, nil
}

// base is what both kinds of provider have.
func (c ProviderConfig) base(kind, audience string, life time.Duration) (auth.ProviderConfig, error) {
	ca, err := readOptional(c.CAFile)
	if err != nil {
		return auth.ProviderConfig{}, err
	}
	p := auth.ProviderConfig{URL: c.Issuer, Audience: audience, CA: ca, Kind: kind, Life: life}
	for _, r := range c.Rules {
		rule, err := r.rule()
		if err != nil {
			return p, err
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

func (c IssuerConfig) provider() (*auth.Provider, error) {
	p, err := c.base("workload", c.Audience, auth.WorkloadLife)
	if err != nil {
		return nil, err
	}
	if p.Keys, err = readOptional(c.JWKSFile); err != nil {
		return nil, err
	}
	return auth.NewProvider(p)
}

func (c PeopleConfig) provider(client string) (*auth.Provider, error) {
	p, err := c.base("user", client, c.Session)
	if err != nil {
		return nil, err
	}
	p.Name = c.NameClaim
	return auth.NewProvider(p)
}

// providers are all whose tokens are exchanged, and where people sign in.
func (c IdentityConfig) providers() ([]*auth.Provider, *auth.People, error) {
	var all []*auth.Provider
	for _, issuer := range c.Issuers {
		p, err := issuer.provider()
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p)
	}
	if c.People == nil {
		return all, nil, nil
	}
	server, err := c.People.provider(c.People.ClientID)
	if err != nil {
		return nil, nil, err
	}
	if id := c.People.CommandClientID; id != "" {
		p, err := c.People.provider(id)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p)
	}
	config := auth.PeopleConfig{Provider: server, Scopes: c.People.Scopes, CommandID: c.People.CommandClientID}
	if file := c.People.ClientSecretFile; file != "" {
		config.Secret = func() (string, error) {
			secret, err := readOptional(file)
			return strings.TrimSpace(string(secret)), err
		}
	}
	return all, auth.NewPeople(config), nil
}

// readOptional reads a file; without a name it is nil.
func readOptional(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	return os.ReadFile(name)
}
