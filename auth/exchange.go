package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"waybill/artifact"
)

// WorkloadLife is how long a session of a workload lasts.
const WorkloadLife = 10 * time.Minute

// Exchange returns a Waybill token for one of a provider that is trusted: of a workload, or of a person who signed in
// with the command line.
func (s *Service) Exchange(ctx context.Context, raw string) (secret string, t Token, err error) {
	err = s.guarded(ctx, "", func() error {
		p, err := s.providerOf(raw)
		if err != nil {
			return err
		}
		v, err := p.verify(ctx, raw)
		if err != nil {
			s.cfg.Logger.InfoContext(ctx, "token not exchanged", "issuer", p.cfg.URL, "address", addressOf(ctx), "error", err)
			return err
		}
		secret, t, err = s.begin(ctx, p, v)
		return err
	})
	return secret, t, err
}

// providerOf returns the provider that a token says it is of, and for whom it says it is; nothing of that is verified.
func (s *Service) providerOf(raw string) (*Provider, error) {
	var unverified jwt.Claims
	signed := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, a := range algorithms {
		signed[i] = jose.SignatureAlgorithm(a)
	}
	token, err := jwt.ParseSigned(raw[:min(len(raw), maxIDToken)], signed)
	if err != nil || len(raw) > maxIDToken || token.UnsafeClaimsWithoutVerification(&unverified) != nil {
		return nil, &artifact.Error{Kind: artifact.Unauthentic, Message: "that is not an OpenID Connect ID token: want a JSON Web Token that is signed with a private key", Err: errGuess}
	}
	var of *Provider
	for _, p := range s.cfg.Providers {
		if p.cfg.URL == unverified.Issuer && (of == nil || unverified.Audience.Contains(p.cfg.Audience)) {
			of = p
		}
	}
	if of == nil {
		return nil, &artifact.Error{Kind: artifact.Unauthentic, Message: "tokens of " + quoted(unverified.Issuer) + " are not trusted here; an admin adds the issuer to identity.issuers in the configuration", Err: errGuess}
	}
	return of, nil
}

func quoted(s string) string { return `"` + printable(s[:min(len(s), 200)]) + `"` }

// begin makes the session of somebody whom a provider vouched for.
func (s *Service) begin(ctx context.Context, p *Provider, v verified) (string, Token, error) {
	t, err := p.grant(v)
	if err != nil {
		return "", Token{}, err
	}
	now := s.cfg.Now().UTC()
	if !s.exchanges.take(t.Session, now) {
		return "", Token{}, artifact.Coded(artifact.TooMany, "TOOMANYREQUESTS", "%s was given %d tokens in a minute; use one for a whole job", t.Session, exchanges)
	}
	secret, id, err := newSecret()
	if err != nil {
		return "", Token{}, err
	}
	t.ID, t.CreatedBy, t.CreatedAt, t.ExpiresAt = id, t.Session, now, now.Add(p.cfg.Life)
	return secret, t, s.cfg.Store.CreateToken(ctx, t, hashOf(secret))
}

// End ends the session of who holds a token that a provider was asked about: signing out. Of another token it does
// nothing: that is an admin's to revoke.
func (s *Service) End(ctx context.Context, token string) error {
	p, err := s.Authenticate(ctx, token)
	if err != nil {
		return err
	}
	c, err := s.load(ctx, idOf(token))
	if err != nil || c.token.Session == "" {
		return err
	}
	return s.forget(idOf(token), s.cfg.Store.RevokeToken(ctx, idOf(token), p.Name))
}

// Trusted are the issuers whose workloads may exchange tokens, and the audience that each must be for.
func (s *Service) Trusted() map[string]string {
	all := map[string]string{}
	for _, p := range s.cfg.Providers {
		if p.cfg.Kind == "workload" {
			all[p.cfg.URL] = p.cfg.Audience
		}
	}
	return all
}

// SignIn says how people sign in with the command line; ok is false where they do with a token only.
func (s *Service) SignIn() (issuer, clientID string, scopes []string, ok bool) {
	if s.cfg.People == nil || s.cfg.People.cfg.CommandID == "" {
		return "", "", nil, false
	}
	c := s.cfg.People.cfg
	return c.Provider.cfg.URL, c.CommandID, slices.Clone(c.Scopes), true
}

// publicMirrors is never public: reading it fetches from elsewhere.
const publicMirrors = "mirror/"

// Public reports whether anybody may pull from a repository that one of the patterns names.
func Public(patterns []string, r artifact.Repository) bool {
	return !strings.HasPrefix(r.String(), publicMirrors) && slices.ContainsFunc(patterns, func(p string) bool { return artifact.MatchGlob(p, r.String()) })
}
