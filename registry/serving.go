package registry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"waybill/artifact"
)

// Serving is an answer with bytes to one who gets only what is granted. It is followed from before the gate is asked until
// its last byte: what is withdrawn meanwhile, by a recall above all, is cut off, so that nothing of it is served once whoever
// withdrew it has his answer. Nil is an answer to one who may pull at will, and follows nothing.
type Serving struct {
	registry   *Registry
	principal  artifact.Principal
	repository artifact.Repository
	interrupt  func() // has a write that is under way fail

	digest  atomic.Pointer[artifact.Digest] // nil until it is about to be sent
	changed atomic.Bool                     // the gate is to be asked again before more is sent
	cut     atomic.Bool
	sending sync.Mutex // held while a piece is sent
}

// servings are those that are under way.
type servings struct {
	mu  sync.Mutex
	all map[artifact.Repository]map[*Serving]struct{}
}

// Serve begins an answer, before the gate is asked; End is to be called. interrupt makes a write of it that is under way
// fail, and is called at any time until then.
func (r *Registry) Serve(p artifact.Principal, repository artifact.Repository, interrupt func()) *Serving {
	if p.Can(artifact.ActionPull, repository) {
		return nil
	}
	s := &Serving{registry: r, principal: p, repository: repository, interrupt: interrupt}
	r.servings.mu.Lock()
	defer r.servings.mu.Unlock()
	if r.servings.all == nil {
		r.servings.all = map[artifact.Repository]map[*Serving]struct{}{}
	}
	if r.servings.all[repository] == nil {
		r.servings.all[repository] = map[*Serving]struct{}{}
	}
	r.servings.all[repository][s] = struct{}{}
	return s
}

// End ends the answer.
func (s *Serving) End() {
	if s == nil {
		return
	}
	r := s.registry
	r.servings.mu.Lock()
	defer r.servings.mu.Unlock()
	if delete(r.servings.all[s.repository], s); len(r.servings.all[s.repository]) == 0 {
		delete(r.servings.all, s.repository)
	}
}

// Piece sends a part of a manifest or blob that the gate let through: write returns when the client's socket has all of it. It
// is the gate's refusal when that was withdrawn since, and nothing is sent.
func (s *Serving) Piece(ctx context.Context, digest artifact.Digest, write func() error) error {
	if s == nil {
		return write()
	}
	s.digest.Store(&digest)
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.changed.Swap(false) || s.cut.Load() {
		if err := s.allowed(ctx); err != nil {
			s.cut.Store(true)
			return err
		}
	}
	return write()
}

// Cut reports whether it was cut off: what was begun is not to be ended.
func (s *Serving) Cut() bool { return s != nil && s.cut.Load() }

func (s *Serving) allowed(ctx context.Context) error {
	if s.cut.Load() {
		return artifact.Errorf(artifact.Denied, "it was withdrawn")
	}
	return s.registry.cfg.Gate.Pull(ctx, s.principal, s.repository, *s.digest.Load())
}

// askAgain bounds how long the gate is asked whether an answer may go on; without an answer of its own it may not.
const askAgain = 5 * time.Second

// Withdrawn cuts off answers from a repository (the zero one: from any) that the gate does not let through any more. When it
// returns, not one more byte of them is sent.
func (r *Registry) Withdrawn(repository artifact.Repository) {
	var wait []*Serving
	for _, s := range r.under(repository) {
		s.changed.Store(true)
		if s.digest.Load() == nil {
			continue // it asks before it sends anything
		}
		ctx, cancel := context.WithTimeout(context.Background(), askAgain)
		if s.allowed(ctx) != nil {
			s.cut.Store(true)
			wait = append(wait, s)
		}
		cancel()
	}
	for _, s := range wait {
		for !s.sending.TryLock() { // a piece is under way: it may have set a deadline of its own since
			s.stop()
			<-time.After(time.Millisecond)
		}
		s.sending.Unlock()
	}
}

// stop interrupts what has not ended.
func (s *Serving) stop() {
	s.registry.servings.mu.Lock()
	defer s.registry.servings.mu.Unlock()
	if _, under := s.registry.servings.all[s.repository][s]; under {
		s.interrupt()
	}
}

func (r *Registry) under(repository artifact.Repository) (all []*Serving) {
	r.servings.mu.Lock()
	defer r.servings.mu.Unlock()
	for at, some := range r.servings.all {
		if repository.IsZero() || at == repository {
			for s := range some {
				all = append(all, s)
			}
		}
	}
	return all
}
