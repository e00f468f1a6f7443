package storage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"waybill/artifact"
)

// Pull is when a manifest was last pulled.
type Pull struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	At         time.Time
}

// PullRows keeps pulls.
type PullRows interface {
	SavePulls(ctx context.Context, pulls []Pull) error
}

// saveEvery is how often pulls are written; a kill loses so much of them.
const saveEvery = 10 * time.Second

// Pulls notes pulls in memory and writes them together, so that no pull waits for a write. It is safe for concurrent use.
type Pulls struct {
	rows   PullRows
	logger *slog.Logger

	mu    sync.Mutex
	noted map[artifact.Reference]time.Time // by digest

	saving sync.Mutex // one writer at a time
	stop   chan struct{}
	ended  chan struct{}
	once   sync.Once
}

// NewPulls returns a notebook that writes what it has every ten seconds until Close.
func NewPulls(rows PullRows, logger *slog.Logger) *Pulls {
	p := &Pulls{rows: rows, logger: logger, noted: map[artifact.Reference]time.Time{}, stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

// Note remembers that a manifest was pulled just now. It does not block.
func (p *Pulls) Note(repository artifact.Repository, digest artifact.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noted[artifact.Reference{Repository: repository, Digest: digest}] = time.Now()
}

// Flush writes what was noted until now. What it could not write is kept for the next time.
func (p *Pulls) Flush(ctx context.Context) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	noted := p.noted
	p.noted = make(map[artifact.Reference]time.Time, len(noted))
	p.mu.Unlock()
	if len(noted) == 0 {
		return nil
	}
	pulls := make([]Pull, 0, len(noted))
	for ref, at := range noted {
		pulls = append(pulls, Pull{Repository: ref.Repository, Digest: ref.Digest, At: at})
	}
	err := p.rows.SavePulls(ctx, pulls)
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref, at := range noted {
		if p.noted[ref].Before(at) {
			p.noted[ref] = at
		}
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
