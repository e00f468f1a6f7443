package auth

import (
	"context"
	"sync"
	"time"
)

// Failure is how much of the allowance of failed logins a key has spent, as all replicas together counted, so long ago.
type Failure struct {
	Key   string
	Spent float64
	Age   time.Duration
}

// Failures are what replicas tell each other of failed logins; *postgres.DB is one.
type Failures interface {
	// ShareFailures adds what was counted here to what others did, and returns what all counted since a time of its clock, and
	// that clock; the zero time when nothing was.
	ShareFailures(ctx context.Context, own map[string]int, perMinute int, since time.Time) (all []Failure, now time.Time, err error)
}

// Bounds of what guesses have written: however many there are and from wherever, a replica tells so often, of so many.
const (
	tellEvery  = time.Second
	tellAtOnce = 200
	tellFor    = time.Second
	tellAgain  = 10 * time.Second // how far back is read again: what was written by then may be seen later
)

// gossip is what this replica has to tell others of its failed logins. Where there are no others it does nothing.
type gossip struct {
	with Failures // nil: there are none

	mu      sync.Mutex // guards all below
	own     map[string]int
	since   time.Time // of the database's clock
	last    time.Time // when others were asked
	waiting bool      // somebody will tell own
}

// add counts one that others are to hear of; of too many at once, those that come first.
func (s *gossip) add(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.with == nil || s.own[key] == 0 && len(s.own) >= tellAtOnce {
		return
	}
	if s.own == nil {
		s.own = map[string]int{}
	}
	s.own[key]++
}

// exchange tells and hears, if that was not done a moment ago. Others go on meanwhile, with what is known.
func (s *gossip) exchange(ctx context.Context, g *guard, now func() time.Time) {
	s.mu.Lock()
	if s.with == nil || time.Since(s.last) < tellEvery {
		s.mu.Unlock()
		return
	}
	own, since := s.own, s.since
	s.own, s.last = nil, time.Now()
	s.mu.Unlock()

	asking, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	all, at, err := s.with.ShareFailures(asking, own, g.perMinute, since)
	if err != nil {
		return // others do not hear of these; here they count
	}
	for _, f := range all {
		g.hear(f.Key, count{f.Spent, now().Add(-f.Age)}, now())
	}
	if !at.IsZero() {
		s.mu.Lock()
		s.since = at.Add(-tellAgain)
		s.mu.Unlock()
	}
}

// soon has what was counted told within a moment, whether or not anybody comes again.
func (s *gossip) soon(ctx context.Context, g *guard, now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.with == nil || s.waiting || len(s.own) == 0 {
		return
	}
	s.waiting = true
	ctx = context.WithoutCancel(ctx)
	time.AfterFunc(tellEvery-min(tellEvery, time.Since(s.last)), func() {
		s.mu.Lock()
		s.waiting = false
		s.mu.Unlock()
		s.exchange(ctx, g, now)
		s.soon(ctx, g, now) // of what came since somebody else told
	})
}
