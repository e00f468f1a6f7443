package storage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"waybill/artifact"
)

// Pull is how often somebody pulled a manifest on one day, of UTC. Of nobody (an empty Principal) only At is kept.
type Pull struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	Principal  string
	Count      int64
	First, At  time.Time // At: the last
}

// Day is the day of the pulls: midnight, UTC.
func (p Pull) Day() time.Time { return p.At.UTC().Truncate(24 * time.Hour) }

// PullRows keeps pulls.
type PullRows interface {
	// SavePulls adds the counts to what is kept. No two of the pulls are of one manifest, principal and day.
	SavePulls(ctx context.Context, pulls []Pull) error
}

// saveEvery is how often pulls are written; a kill loses so much of them.
const saveEvery = 10 * time.Second

// maxNoted bounds what is noted between two writes. Past it, who pulled is not told apart any more; that something was
// pulled, which keeps it from being removed, is.
const maxNoted = 1 << 16

// anonymous is the principal of pulls without a token.
const anonymous = "anonymous"

type notedKey struct {
	reference artifact.Reference // by digest
	principal string
	day       int64 // since 1970
}

type notedPulls struct {
	count       int64
	first, last time.Time
}

// Pulls notes pulls in memory and writes them together, so that no pull waits for a write. It is safe for concurrent use.
type Pulls struct {
	rows   PullRows
	logger *slog.Logger

	mu    sync.Mutex
	noted map[notedKey]notedPulls
	lost  int64 // pulls of which it is not known who did

	saving sync.Mutex // one writer at a time
	stop   chan struct{}
	ended  chan struct{}
	once   sync.Once
}

// NewPulls returns a notebook that writes what it has every ten seconds until Close.
func NewPulls(rows PullRows, logger *slog.Logger) *Pulls {
	p := &Pulls{rows: rows, logger: logger, noted: map[notedKey]notedPulls{}, stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

// Note remembers that somebody pulled a manifest just now. It does not block.
func (p *Pulls) Note(principal string, repository artifact.Repository, digest artifact.Digest) {
	if principal == "" {
		principal = anonymous
	}
	now := time.Now()
	key := notedKey{artifact.Reference{Repository: repository, Digest: digest}, principal, now.Unix() / int64(24*time.Hour/time.Second)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(key, notedPulls{1, now, now})
}

// add counts pulls; p.mu is held.
func (p *Pulls) add(key notedKey, more notedPulls) {
	n, known := p.noted[key]
	if !known && len(p.noted) >= maxNoted && key.principal != "" {
		p.lost += more.count
		key.principal = ""
		n, known = p.noted[key]
	}
	if !known {
		p.noted[key] = more
		return
	}
	n.count += more.count
	if more.first.Before(n.first) {
		n.first = more.first
	}
	if more.last.After(n.last) {
		n.last = more.last
	}
	p.noted[key] = n
}

// Flush writes what was noted until now. What it could not write is kept for the next time.
func (p *Pulls) Flush(ctx context.Context) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	noted, lost := p.noted, p.lost
	p.noted, p.lost = make(map[notedKey]notedPulls, min(len(noted), maxNoted)), 0
	p.mu.Unlock()
	if lost > 0 {
		p.logger.Warn("more was pulled, by more tokens, than is noted between two writes; of some pulls it is not recorded who did", "pulls", lost)
	}
	if len(noted) == 0 {
		return nil
	}
	pulls := make([]Pull, 0, len(noted))
	for key, n := range noted {
		pulls = append(pulls, Pull{Repository: key.reference.Repository, Digest: key.reference.Digest, Principal: key.principal, Count: n.count, First: n.first, At: n.last})
	}
	err := p.rows.SavePulls(ctx, pulls)
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, n := range noted {
		p.add(key, n)
	}
	return err
}

func (p *Pulls) run() {
	defer close(p.ended)
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.flush(saveEvery)
		}
	}
}

func (p *Pulls) flush(atMost time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		p.logger.Warn("pulls could not be recorded; they are kept for the next time", "error", err)
	}
}

// Close writes what is left. It is safe to call twice.
func (p *Pulls) Close() {
	p.once.Do(func() {
		close(p.stop)
		<-p.ended
		p.flush(saveEvery / 2)
	})
}
