package registry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"waybill/artifact"
)

// Serving is an answer with bytes to one who gets only what is granted. It is followed from before the gate is asked until
// its last byte: what is withdrawn meanwhile, by a recall above all, is cut off, so that nothing of it is served once whoever
// withdrew it has his answer. What others withdraw is heard from the database; an answer goes on no longer than
// artifact.HeardFor after the last that the database is known to have said for it, whatever became of the line to it. Nil is an
// answer to one who may pull at will, and follows nothing.
type Serving struct {
	registry   *Registry
	principal  artifact.Principal
	repository artifact.Repository
	interrupt  func() // has a write that is under way fail

	digest  atomic.Pointer[artifact.Digest] // nil until it is about to be sent
	cut     atomic.Bool
	asking  atomic.Bool // somebody asks again for it, since it was not heard of for long
	sending sync.Mutex  // held while a piece is sent

	mu       sync.Mutex // guards all below
	known    time.Time  // as of when the database let it go on, beside what is heard without a change
	changes  int        // that it was told of
	answered int        // of those, what the gate's last yes was behind
}

// servings are those that are under way.
type servings struct {
	asking chan struct{} // has room for those who ask again

	mu       sync.Mutex
	all      map[artifact.Repository]map[*Serving]struct{}
	followed bool // somebody looks after them
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
	if !r.servings.followed {
		r.servings.followed = true
		go r.follow()
	}
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
	s.sending.Lock()
	defer s.sending.Unlock()
	s.asking.Store(true)
	s.digest.Store(&digest)
	err := s.may(ctx)
	s.asking.Store(false)
	if err != nil {
		s.cut.Store(true)
		return err
	}
	return write()
}

// may returns nil while the answer may go on, which it asks where that is not known.
func (s *Serving) may(ctx context.Context) error {
	if s.cut.Load() {
		return artifact.Errorf(artifact.Denied, "it was withdrawn")
	}
	changes := s.told()
	if at, changed := s.knownAt(); !changed && time.Since(at) < artifact.HeardFor {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, artifact.HeardFor)
	defer cancel()
	asked, err := s.ask(bounded)
	if err == nil {
		s.allowed(changes, asked)
	}
	return err
}

// Cut reports whether it was cut off: what was begun is not to be ended.
func (s *Serving) Cut() bool { return s != nil && s.cut.Load() }

// knownAt returns as of when the database is known to let the answer go on, and whether there was a change behind that.
func (s *Serving) knownAt() (at time.Time, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != s.answered {
		return s.known, true
	}
	return later(s.known, s.registry.cfg.Heard()), false
}

// change notes that the gate may have changed its mind: what is heard from here on does not speak for the answer, until the gate is
// asked again.
func (s *Serving) change() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == s.answered {
		s.known = later(s.known, s.registry.cfg.Heard())
	}
	s.changes++
}

// told returns how many changes it was told of.
func (s *Serving) told() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// ask returns nil when the gate lets the answer go on, and when that was asked of the database; the zero time when it may have been
// remembered, which is as good as what was heard last.
func (s *Serving) ask(ctx context.Context) (asked time.Time, err error) {
	if now := time.Now(); now.Sub(s.registry.cfg.Heard()) >= askAfter {
		asked, ctx = now, artifact.Afresh(ctx)
	}
	return asked, s.registry.cfg.Gate.Pull(ctx, s.principal, s.repository, *s.digest.Load())
}

// allowed notes a yes of the gate, which was asked behind so many changes.
func (s *Serving) allowed(changes int, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered, s.known = max(s.answered, changes), later(s.known, asked)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Withdrawn has answers from a repository (the zero one: from any) asked for again. When cut returns, not one more byte is
// sent of those that the gate does not let through any more; one that it does not answer for in time is among these.
func (r *Registry) Withdrawn(repository artifact.Repository) (cut func()) {
	all := r.under(repository)
	for _, s := range all {
		s.change()
	}
	return func() { r.askAgain(all) }
}

const (
	askAfter = artifact.HeardFor / 2  // without a word of the database
	lookFor  = artifact.HeardFor / 10 // how often such answers are looked for
	askPause = artifact.HeardFor / 20 // before a gate that failed is asked again
	askers   = 8                      // questions at once: there are others who need connections to the database
)

// follow asks again for answers for which the database was not heard, until there are none under way.
func (r *Registry) follow() {
	look := time.NewTicker(lookFor)
	defer look.Stop()
	for range look.C {
		r.servings.mu.Lock()
		r.servings.followed = len(r.servings.all) > 0
		on := r.servings.followed
		r.servings.mu.Unlock()
		if !on {
			return
		}
		if time.Since(r.cfg.Heard()) < askAfter {
			continue // which speaks for all but those that are asked for already
		}
		var overdue []*Serving
		for _, s := range r.under(artifact.Repository{}) {
			if at, _ := s.knownAt(); time.Since(at) >= askAfter && s.digest.Load() != nil && !s.asking.Swap(true) {
				overdue = append(overdue, s)
			}
		}
		go func() {
			r.askAgain(overdue)
			for _, s := range overdue {
				s.asking.Store(false)
			}
		}()
	}
}

// question is what the gate's answer depends on: they share one who ask the same.
type question struct {
	repository   artifact.Repository
	digest       artifact.Digest
	environments string
}

// askAgain asks the gate for answers that are under way, and cuts off those that it refuses, or for which it does not answer in time.
func (r *Registry) askAgain(all []*Serving) {
	alike := map[question][]*Serving{}
	for _, s := range all {
		digest := s.digest.Load()
		if digest == nil {
			continue // it asks before it sends anything
		}
		q := question{s.repository, *digest, fmt.Sprint(s.principal.Deploys(s.repository))}
		alike[q] = append(alike[q], s)
	}
	var wg sync.WaitGroup
	for _, some := range alike {
		wg.Go(func() { r.askFor(some) })
	}
	wg.Wait()
}

// askFor is askAgain of answers for which the gate says the same.
func (r *Registry) askFor(some []*Serving) {
	due, changes := time.Now().Add(artifact.HeardFor), make([]int, len(some))
	for i, s := range some {
		changes[i] = s.told()
		if at, _ := s.knownAt(); at.Add(artifact.HeardFor).Before(due) {
			due = at.Add(artifact.HeardFor)
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), due)
	defer cancel()
	asked, err := r.askUntil(ctx, some[0])
	var cut []*Serving
	for i, s := range some {
		if err == nil {
			s.allowed(changes[i], asked)
		} else if at, changed := s.knownAt(); changed || refused(err) || time.Since(at) >= artifact.HeardFor {
			s.cut.Store(true)
			cut = append(cut, s)
		}
	}
	for _, s := range cut {
		for !s.sending.TryLock() { // a piece is under way: it may have set a deadline of its own since
			s.stop()
			<-time.After(time.Millisecond)
		}
		s.sending.Unlock()
	}
}

// askUntil asks the gate until it says yes or no.
func (r *Registry) askUntil(ctx context.Context, s *Serving) (asked time.Time, err error) {
	select {
	case r.servings.asking <- struct{}{}:
		defer func() { <-r.servings.asking }()
	case <-ctx.Done():
		return asked, ctx.Err()
	}
	for {
		if asked, err = s.ask(ctx); err == nil || refused(err) {
			return asked, err
		}
		select {
		case <-ctx.Done():
			return asked, err
		case <-time.After(askPause): // a connection may have been lost that there is another for
		}
	}
}

// refused reports whether the gate said no, and did not merely fail.
func refused(err error) bool {
	kind := artifact.KindOf(err)
	return kind == artifact.Denied || kind == artifact.Unauthentic
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
