package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"waybill/artifact"
)

// PeopleConfig says where people sign in.
type PeopleConfig struct {
	Provider  *Provider // its audience is the client's id
	Secret    func() (string, error)
	Scopes    []string
	CommandID string // the client id of the command line; empty: it does not sign people in
}

// People signs people in by OpenID Connect's authorization code flow with PKCE (RFC 7636).
type People struct{ cfg PeopleConfig }

// NewPeople returns it.
func NewPeople(cfg PeopleConfig) *People { return &People{cfg} }

// Flow is one sign-in under way. The browser that began it keeps it, sealed: nobody else can end it.
type Flow struct{ State, Nonce, Verifier string }

func (p *People) oauth(ctx context.Context, redirect string) (*oauth2.Config, error) {
	found, err := p.cfg.Provider.discover(ctx)
	if err != nil {
		return nil, err
	}
	secret := ""
	if p.cfg.Secret != nil {
		if secret, err = p.cfg.Secret(); err != nil {
			return nil, err
		}
	}
	return &oauth2.Config{ClientID: p.cfg.Provider.cfg.Audience, ClientSecret: secret, Endpoint: found.Endpoint(), RedirectURL: redirect, Scopes: p.cfg.Scopes}, nil
}

// Begin returns where to send a browser, and what Finish needs. redirect is where the provider sends it back to.
func (p *People) Begin(ctx context.Context, redirect string) (to string, f Flow, err error) {
	c, err := p.oauth(ctx, redirect)
	if err != nil {
		return "", Flow{}, err
	}
	f = Flow{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
	return c.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), f, nil
}

// Returned is what a provider sends a browser back with.
type Returned struct{ State, Code, Issuer, Error string }

// FinishSignIn redeems what the browser came back with for a session.
func (s *Service) FinishSignIn(ctx context.Context, redirect string, f Flow, r Returned) (secret string, t Token, err error) {
	err = s.guarded(ctx, "", func() error {
		secret, t, err = s.finish(ctx, redirect, f, r)
		return err
	})
	return secret, t, err
}

func (s *Service) finish(ctx context.Context, redirect string, f Flow, r Returned) (string, Token, error) {
	p := s.cfg.People
	issuer := p.cfg.Provider.cfg.URL
	switch {
	case f.State == "" || subtle.ConstantTimeCompare([]byte(f.State), []byte(r.State)) != 1:
		return "", Token{}, artifact.Errorf(artifact.Unauthentic, "the sign-in was not begun in this browser, or too long ago; begin again")
	case r.Issuer != "" && r.Issuer != issuer: // RFC 9207: another provider's answer
		return "", Token{}, artifact.Errorf(artifact.Unauthentic, "the answer is of another provider than %s; begin again", issuer)
	case r.Error != "":
		return "", Token{}, artifact.Errorf(artifact.Unauthentic, "%s did not sign you in: %s", issuer, quoted(r.Error))
	}
	c, err := p.oauth(ctx, redirect)
	if err != nil {
		return "", Token{}, err
	}
	answer, err := c.Exchange(p.context(ctx), r.Code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "sign-in code not redeemed", "issuer", issuer, "error", err)
		return "", Token{}, &artifact.Error{Kind: artifact.Unauthentic, Message: issuer + " did not redeem the sign-in; begin again, and if that does not help have an admin look at the log", Err: err}
	}
	raw, _ := answer.Extra("id_token").(string)
	v, err := p.cfg.Provider.verify(ctx, raw)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "sign-in refused", "issuer", issuer, "error", err)
		return "", Token{}, err
	}
	if subtle.ConstantTimeCompare([]byte(v.nonce), []byte(f.Nonce)) != 1 {
		return "", Token{}, artifact.Errorf(artifact.Unauthentic, "the token is not of this sign-in; begin again")
	}
	return s.begin(ctx, p.cfg.Provider, v)
}

func (p *People) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, p.cfg.Provider.client)
}
