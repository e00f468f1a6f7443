package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// Identity is who a request comes from. Scopes narrow what an access token of Docker's flow may do; nil does not. One of
// nobody, for a public repository, has the anonymous principal, and scopes.
type Identity struct {
	Principal artifact.Principal
	TokenID   string
	Scopes    []Scope
}

// maxAuthorization bounds the header, in bytes.
const maxAuthorization = 16 << 10

// FromRequest returns who an Authorization header stands for: Basic with any user name and a token as the password,
// Bearer with a token, or Bearer with an access token of Docker's flow. No header is the anonymous identity; anything
// else that does not hold is an Unauthentic error.
func (s *Service) FromRequest(ctx context.Context, authorization string) (Identity, error) {
	if authorization == "" {
		return Identity{}, nil
	}
	if len(authorization) > maxAuthorization {
		return Identity{}, errUnauthentic()
	}
	return s.known(sha256.Sum256([]byte(authorization)), func() (Identity, error) { return s.fromHeader(ctx, authorization) })
}

func (s *Service) fromHeader(ctx context.Context, authorization string) (Identity, error) {
	scheme, value, ok := strings.Cut(authorization, " ")
	value = strings.TrimSpace(value)
	if !ok {
		return Identity{}, errUnauthentic()
	}
	switch strings.ToLower(scheme) {
	case "basic":
		plain, err := base64.StdEncoding.DecodeString(value)
		_, password, found := strings.Cut(string(plain), ":")
		if err != nil || !found {
			return Identity{}, errUnauthentic()
		}
		return s.byToken(ctx, password)
	case "bearer":
		if strings.HasPrefix(value, prefix) {
			return s.byToken(ctx, value)
		}
		var id Identity
		err := s.guarded(ctx, "", func() (err error) {
			id, err = s.byAccessToken(ctx, value)
			return err
		})
		return id, err
	}
	return Identity{}, errUnauthentic()
}

func (s *Service) byToken(ctx context.Context, token string) (Identity, error) {
	p, err := s.Authenticate(ctx, token)
	return Identity{Principal: p, TokenID: idOf(token)}, err
}

// byAccessToken checks the signature, and that the token behind it still stands: revoking it ends both.
func (s *Service) byAccessToken(ctx context.Context, access string) (Identity, error) {
	claims, err := s.cfg.Issuer.verify(access, s.cfg.Now())
	if err != nil {
		return Identity{}, err
	}
	if claims.TokenID == "" { // nobody's: for what is public
		return Identity{Scopes: append([]Scope{}, claims.Access...)}, nil
	}
	c, err := s.load(ctx, claims.TokenID)
	if err != nil {
		return Identity{}, err
	}
	p, err := s.valid(ctx, c)
	return Identity{Principal: p, TokenID: claims.TokenID, Scopes: append([]Scope{}, claims.Access...)}, err
}

// seen is an identity that a header stood for a moment ago, by the header's hash: checking a signature for each of
// thousands of requests a second would be most of the work of answering them.
type seen struct {
	identity Identity
	until    time.Time
}

// known returns what a header stood for less than cacheLife ago, or checks it. An access token lasts as much longer at
// most, and so does one that was revoked elsewhere; one that was revoked here is forgotten at once.
func (s *Service) known(header [sha256.Size]byte, check func() (Identity, error)) (Identity, error) {
	now := s.cfg.Now()
	s.mu.Lock()
	v, ok := s.seen[header]
	revoked := s.revocations
	s.mu.Unlock()
	if ok && now.Before(v.until) {
		return v.identity, nil
	}
	identity, err := check()
	if err != nil {
		return identity, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revocations != revoked {
		return identity, nil
	}
	if len(s.seen) >= cacheSize {
		clear(s.seen)
	}
	// The token's row may have been read up to cacheLife ago.
	if until := s.cache[identity.TokenID].read.Add(cacheLife); until.After(now) {
		s.seen[header] = seen{identity, until}
	}
	return identity, nil
}

// Allows reports whether the identity's scopes, if it has any, let it do an action of Docker's (pull, push, delete) in
// a repository. The principal's role must allow it besides.
func (i Identity) Allows(repository artifact.Repository, action string) bool {
	if i.Scopes == nil {
		return true
	}
	return slices.ContainsFunc(i.Scopes, func(s Scope) bool {
		return s.Type == "repository" && s.Name == repository.String() && slices.Contains(s.Actions, action)
	})
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
