package registry

import "sync"

// yielding is a body that can be ended, so that another request gets what its request holds.
type yielding interface {
	// Yield ends the body: always, or only if nothing has come of it for a while. It reports whether it did.
	Yield(always bool) bool
}

// keyed is a set of locks by name; a lock exists while somebody holds it.
type keyed struct {
	mu   sync.Mutex
	held map[string]*holder
}

type holder struct {
	body yielding // nil: it does not yield
	gone chan struct{}
}

// try takes the lock of a name, or returns who has it.
func (k *keyed) try(name string, body yielding) (release func(), other *holder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if other := k.held[name]; other != nil {
		return nil, other
	}
	if k.held == nil {
		k.held = map[string]*holder{}
	}
	h := &holder{body: body, gone: make(chan struct{})}
	k.held[name] = h
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.held, name)
		close(h.gone)
	}, nil
}

// yield asks a holder to let go, and reports whether it will. What it holds is none of its body's business afterwards:
// the connection may serve another request.
func (k *keyed) yield(name string, h *holder, always bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[name] != h || h.body != nil && h.body.Yield(always)
}
