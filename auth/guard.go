package auth

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"waybill/artifact"
)

// errGuess marks a credential that nobody was ever given: a guess, where one that expired or was revoked is none.
var errGuess = errors.New("not a credential of this server")

// Bounds of guessing, where the configuration has no other.
const (
	failedLogins  = 30 // a minute and address, and as many at once
	exchanges     = 60 // a minute and principal
	guardedAtOnce = 10_000
)

// guard counts by key what may happen so many times a minute, in bounded memory.
type guard struct {
	perMinute int
	mu        sync.Mutex
	counts    map[string]count
}

// count is how much of an allowance was spent at a time; it comes back steadily, all of it within a minute.
type count struct {
	spent float64
	at    time.Time
}

func newGuard(perMinute int) *guard {
	return &guard{perMinute: perMinute, counts: map[string]count{}}
}

// at returns what of a key's allowance is spent. The caller holds mu.
func (g *guard) at(key string, now time.Time) float64 {
	c := g.counts[key]
	return max(0, c.spent-now.Sub(c.at).Minutes()*float64(g.perMinute))
}

// spent reports whether nothing is left of a key's allowance.
func (g *guard) spent(key string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at(key, now) > float64(g.perMinute-1)
}

// used reports whether a key has less than its allowance.
func (g *guard) used(key string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at(key, now) > 0
}

// take takes one of a key's allowance, and reports whether there was one.
func (g *guard) take(key string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	spent := g.at(key, now) + 1
	if spent > float64(g.perMinute) {
		return false
	}
	g.set(key, count{spent, now}, now)
	return true
}

// hear takes over what others counted, where that is more.
func (g *guard) hear(key string, c count, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if spent := min(c.spent, float64(g.perMinute)) - now.Sub(c.at).Minutes()*float64(g.perMinute); spent > g.at(key, now) {
		g.set(key, count{spent, now}, now)
	}
}

func (g *guard) set(key string, c count, now time.Time) {
	if _, ok := g.counts[key]; !ok {
		g.makeRoom(now)
	}
	g.counts[key] = c
}

// makeRoom forgets those who have all of their allowance again, and then, when there are too many still, any: who has
// ten thousand addresses is not stopped by counting them.
func (g *guard) makeRoom(now time.Time) {
	if len(g.counts) < guardedAtOnce {
		return
	}
	for key := range g.counts {
		if g.at(key, now) == 0 {
			delete(g.counts, key)
		}
	}
	for key := range g.counts {
		if len(g.counts) < guardedAtOnce {
			return
		}
		delete(g.counts, key)
	}
}

type addressKey struct{}

// WithAddress says which address a request comes from, as Service counts failed logins by it.
func WithAddress(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, addressKey{}, address)
}

// addressOf returns who is counted for an address: of IPv6 its /64, since each host has a whole one.
func addressOf(ctx context.Context) string {
	text, _ := ctx.Value(addressKey{}).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		return ""
	}
	if address = address.Unmap(); address.Is6() {
		if network, err := address.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return address.String()
}

// guarded runs try unless there were too many guesses: from the address, or at a token's id by addresses that guessed
// before. An address that never guessed may always try, or else whoever knows an id, which is public, could lock its
// holder out.
func (s *Service) guarded(ctx context.Context, id string, try func() error) error {
	now, address := s.cfg.Now(), addressOf(ctx)
	from, at := "address "+address, "token "+id
	known := address != ""
	s.shared.exchange(ctx, s.failures, s.cfg.Now)
	if known && s.failures.spent(from, now) || id != "" && (!known || s.failures.used(from, now)) && s.failures.spent(at, now) {
		return errTooMany()
	}
	err := try()
	if errors.Is(err, errGuess) {
		if known && s.failures.take(from, now) {
			s.shared.add(from)
		}
		if id != "" && s.failures.take(at, now) {
			s.shared.add(at)
		}
		s.shared.soon(ctx, s.failures, s.cfg.Now)
	}
	return err
}

func errTooMany() error {
	return artifact.Coded(artifact.TooMany, "TOOMANYREQUESTS", "too many failed logins; wait a minute, and then use a token that is valid")
}
