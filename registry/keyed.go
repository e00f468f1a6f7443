package registry

import "sync"

// keyed is a set of locks by name; a lock exists while somebody holds it.
type keyed struct {
	mu   sync.Mutex
	held map[string]struct{}
}

// try takes the lock of a name, or reports that another has it.
func (k *keyed) try(name string) (release func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, taken := k.held[name]; taken {
		return nil, false
	}
	if k.held == nil {
		k.held = map[string]struct{}{}
	}
	k.held[name] = struct{}{}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.held, name)
	}, true
}
