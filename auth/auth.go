// Package auth says who asks: tokens, Docker's token flow, and one function from an Authorization header to an identity.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"waybill/artifact"
)

// Grant is what a new token is to give.
type Grant struct {
	Name         string
	Role         artifact.Role
	Repositories []string // globs; none means every repository
	Environments []artifact.Environment
	Expires      time.Time
}

// Token is what is known of a token; its secret is stored nowhere.
type Token struct {
	ID           string
	Name         string
	Role         artifact.Role
	Repositories []string
	Environments []artifact.Environment
	More         []artifact.Binding // of a session, for which more than one rule matched
	CreatedBy    string
	// Session is who a provider vouched for, as issuer and subject name them; empty of a token that an admin made.
	Session    string
	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time
	LastUsedAt time.Time
}

// Principal is who holds the token.
func (t Token) Principal() artifact.Principal {
	name := t.Session
	if name == "" {
		name = "token:" + t.Name + "/" + t.ID
	}
	return artifact.Principal{Name: name, Role: t.Role, Repositories: t.Repositories, Environments: t.Environments, More: t.More, Token: t.ID}
}

// Hash is of all that the token gives to whoever has the secret of a hash, and of nothing that changes.
func (t Token) Hash(secret []byte) artifact.Digest {
	instant := func(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) } // as a database keeps it
	canonical, err := json.Marshal(struct {
		ID, Name   string
		Secret     []byte
		Bindings   []artifact.Binding
		CreatedBy  string
		Session    string `json:",omitempty"`
		Began, End time.Time
	}{t.ID, t.Name, secret, t.Principal().Bindings(), t.CreatedBy, t.Session, instant(t.CreatedAt), instant(t.ExpiresAt)})
	if err != nil { // a time outside of the years that JSON has
		return artifact.Digest{}
	}
	return artifact.DigestOf(canonical)
}

// Store keeps tokens; *postgres.DB is one.
type Store interface {
	CreateToken(ctx context.Context, t Token, hash []byte) error
	// Token returns a token and its hash by its id, or NotFound.
	Token(ctx context.Context, id string) (Token, []byte, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id, actor string) error
	TouchToken(ctx context.Context, id string) error
}

// Config names what the service needs.
type Config struct {
	Store     Store
	Issuer    *Issuer
	Providers []*Provider // whom to believe who somebody is; none: only tokens
	People    *People     // sign-in in a browser; nil: with a token only
	Failures  Failures    // what other replicas count of failed logins; nil: there are none
	// FailedLogins is how many wrong credentials an address may send in a minute. 0: 30.
	FailedLogins int
	Logger       *slog.Logger
	Now          func() time.Time
}

// Service authenticates. It is safe for concurrent use.
type Service struct {
	cfg       Config
	mu        sync.Mutex
	cache     map[string]cached // by token id
	seen      map[[sha256.Size]byte]seen
	failures  *guard
	shared    gossip
	exchanges *guard
	// revocations counts those of this process: what was being checked meanwhile is not kept.
	revocations int
}

// cached is a token as it was at most cacheLife ago: so long may a revoked one live.
type cached struct {
	token Token
	hash  []byte
	read  time.Time
}

const (
	cacheLife = time.Second
	cacheSize = 10_000
	touchLag  = time.Minute // how exact last-used is
)

// NewService returns a service.
func NewService(cfg Config) *Service {
	if cfg.FailedLogins == 0 {
		cfg.FailedLogins = failedLogins
	}
	return &Service{cfg: cfg, cache: map[string]cached{}, seen: map[[sha256.Size]byte]seen{}, failures: newGuard(cfg.FailedLogins), shared: gossip{with: cfg.Failures}, exchanges: newGuard(exchanges)}
}

// A token reads wbt_<id>_<secret><checksum>: a prefix for secret scanners, a public id, 32 random bytes, and the
// CRC-32 of all before it, so that a typing error is told from a wrong token without a look-up.
const (
	prefix      = "wbt_"
	idBytes     = 6
	secretBytes = 32
)

var (
	encoding     = base64.RawURLEncoding
	secretLength = encoding.EncodedLen(secretBytes)
	sumLength    = encoding.EncodedLen(4)
)

// errWrong is errUnauthentic of a guess; the two differ for the guard alone.
func errWrong() error {
	return &artifact.Error{Kind: artifact.Unauthentic, Code: "UNAUTHORIZED", Message: errUnauthentic().Error(), Err: errGuess}
}

// errUnauthentic is the one answer to every wrong credential: which part is wrong is nobody's business.
func errUnauthentic() error {
	return artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "the token is not valid: unknown, expired or revoked; an admin makes another with `waybill token create`")
}

// newSecret returns a new token and its id.
func newSecret() (token, id string, err error) {
	var random [idBytes + secretBytes]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", "", err
	}
	id = fmt.Sprintf("%x", random[:idBytes])
	body := prefix + id + "_" + encoding.EncodeToString(random[idBytes:])
	return body + checksum(body), id, nil
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	return encoding.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// idOf returns a token's public id, or "" when it is not of a token's form.
func idOf(token string) string {
	rest, ok := strings.CutPrefix(token, prefix)
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(id) != 2*idBytes || len(secret) != secretLength+sumLength || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	body := token[:len(token)-sumLength]
	if checksum(body) != token[len(token)-sumLength:] {
		return ""
	}
	return id
}

// Create makes a token and returns it, the only time that it is shown.
func (s *Service) Create(ctx context.Context, actor artifact.Principal, g Grant) (string, Token, error) {
	if !actor.Can(artifact.ActionManage, artifact.Repository{}) {
		return "", Token{}, artifact.Errorf(artifact.Denied, "%s, %s, may not make tokens; that takes role admin", actor.Name, artifact.An(actor.Roles()))
	}
	if err := s.check(g); err != nil {
		return "", Token{}, err
	}
	secret, id, err := newSecret()
	if err != nil {
		return "", Token{}, err
	}
	t := Token{ID: id, Name: g.Name, Role: g.Role, Repositories: g.Repositories, Environments: g.Environments, CreatedBy: actor.Name, CreatedAt: s.cfg.Now().UTC(), ExpiresAt: g.Expires.UTC()}
	return secret, t, s.cfg.Store.CreateToken(ctx, t, hashOf(secret))
}

func (s *Service) check(g Grant) error {
	switch {
	case !g.Expires.After(s.cfg.Now()):
		return artifact.Errorf(artifact.Invalid, "the token would have expired already")
	case g.Expires.After(s.cfg.Now().AddDate(5, 0, 1)):
		return artifact.Errorf(artifact.Invalid, "a token lasts five years at most")
	}
	return g.check()
}

// check refuses a role that cannot be bound so.
func (g Grant) check() error {
	invalid := func(format string, args ...any) error { return artifact.Errorf(artifact.Invalid, format, args...) }
	switch {
	case !slices.Contains(artifact.Roles, g.Role):
		return invalid("role %q is not known; known are %v", g.Role, artifact.Roles)
	case g.Name == "" || len(g.Name) > 100 || strings.ContainsFunc(g.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid("a token's name has 1 to 100 characters, and no control characters")
	case g.Role == artifact.Deployer && len(g.Environments) == 0:
		return invalid("a deployer is one of an environment; name it with --environment")
	case len(g.Environments) > 0 && !slices.Contains([]artifact.Role{artifact.Deployer, artifact.Promoter, artifact.Approver}, g.Role):
		return invalid("role %s is not bound to environments; leave --environment out, or use role deployer, promoter or approver", g.Role)
	case g.Role == artifact.Admin && len(g.Repositories) > 0:
		return invalid("an admin manages the whole server; leave --repository out")
	}
	for _, pattern := range g.Repositories {
		if !artifact.ValidGlob(pattern) {
			return invalid("repository pattern %q: want path components such as shop/** or */returns", pattern)
		}
	}
	return nil
}

// List returns every token, newest first.
func (s *Service) List(ctx context.Context) ([]Token, error) { return s.cfg.Store.Tokens(ctx) }

// Revoke ends a token, here at once and on other replicas within a second.
func (s *Service) Revoke(ctx context.Context, actor artifact.Principal, id string) error {
	if !actor.Can(artifact.ActionManage, artifact.Repository{}) {
		return artifact.Errorf(artifact.Denied, "%s, %s, may not revoke tokens; that takes role admin", actor.Name, artifact.An(actor.Roles()))
	}
	return s.forget(id, s.cfg.Store.RevokeToken(ctx, id, actor.Name))
}

// forget makes this process ask again for a token that was, or may have been, revoked.
func (s *Service) forget(id string, err error) error {
	s.mu.Lock()
	delete(s.cache, id)
	clear(s.seen)
	s.revocations++
	s.mu.Unlock()
	return err
}

// Authenticate returns who holds a token, or an Unauthentic error; a TooMany one after too many guesses.
func (s *Service) Authenticate(ctx context.Context, token string) (p artifact.Principal, err error) {
	id := idOf(token)
	err = s.guarded(ctx, id, func() error {
		if id == "" {
			return errWrong()
		}
		c, err := s.load(ctx, id)
		if err != nil {
			return err
		}
		if !equal(hashOf(token), c.hash) {
			return errWrong()
		}
		p, err = s.valid(ctx, c)
		return err
	})
	return p, err
}

// load returns a token from the cache or the store.
func (s *Service) load(ctx context.Context, id string) (cached, error) {
	now := s.cfg.Now()
	s.mu.Lock()
	c, ok := s.cache[id]
	s.mu.Unlock()
	if ok && now.Sub(c.read) < cacheLife {
		return c, nil
	}
	t, hash, err := s.cfg.Store.Token(ctx, id)
	if artifact.KindOf(err) == artifact.NotFound {
		return cached{}, errWrong()
	}
	if err != nil {
		return cached{}, err
	}
	c = cached{t, hash, now}
	s.mu.Lock()
	if len(s.cache) >= cacheSize {
		clear(s.cache)
	}
	s.cache[id] = c
	s.mu.Unlock()
	return c, nil
}

func (s *Service) valid(ctx context.Context, c cached) (artifact.Principal, error) {
	now := s.cfg.Now()
	if !c.token.RevokedAt.IsZero() || !now.Before(c.token.ExpiresAt) {
		return artifact.Principal{}, errUnauthentic()
	}
	if now.Sub(c.token.LastUsedAt) > touchLag {
		if err := s.cfg.Store.TouchToken(ctx, c.token.ID); err != nil {
			s.cfg.Logger.WarnContext(ctx, "token use not recorded", "token", c.token.ID, "error", err)
		}
		s.mu.Lock()
		c.token.LastUsedAt = now
		s.cache[c.token.ID] = c
		s.mu.Unlock()
	}
	return c.token.Principal(), nil
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
