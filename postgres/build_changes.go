package postgres

import "sync"

// followers wait for what is told of one thing.
type followers struct {
	mu sync.Mutex
	at map[string]*followed
}

type followed struct {
	next  chan struct{} // closed when something is told
	count int
}

func newFollowers() *followers { return &followers{at: map[string]*followed{}} }

// follow returns what gives a channel that is closed when something is told after that, until leave is called.
func (f *followers) follow(key string) (next func() <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at[key] == nil {
		f.at[key] = &followed{next: make(chan struct{})}
	}
	one := f.at[key]
	one.count++
	next = func() <-chan struct{} {
		f.mu.Lock()
		defer f.mu.Unlock()
		return one.next
	}
	return next, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if one.count--; one.count == 0 {
			delete(f.at, key)
		}
	})
}

func (f *followers) tell(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.at[key]; one != nil {
		close(one.next)
		one.next = make(chan struct{})
	}
}

// tellAll is for when nobody knows what was missed.
func (f *followers) tellAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.at {
		close(one.next)
		one.next = make(chan struct{})
	}
}

// BuildChanges tells of a run: that it said something, or that its state is another, whichever replica it is on. What next
// returns is closed at the first of that after next was called; leave is to be called in the end.
func (db *DB) BuildChanges(id string) (next func() <-chan struct{}, leave func()) {
	return db.builds.follow(id)
}

// BuildCancelled is BuildChanges of whether somebody asked for a run to end.
func (db *DB) BuildCancelled(id string) (next func() <-chan struct{}, leave func()) {
	return db.builds.follow(id + "/cancelled")
}
