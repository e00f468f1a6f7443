package postgres

import (
	"sync"
	"time"
)

// changes tells whoever waits that something which pages show may have changed; not what, since each may see another part.
type changes struct {
	mu   sync.Mutex
	last time.Time     // of the last change that was heard of
	next chan struct{} // closed at the next
}

func newChanges() *changes { return &changes{next: make(chan struct{})} }

func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.next)
	c.next, c.last = make(chan struct{}), time.Now()
}

// touch says that this process changed something, before the database does.
func (c *changes) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
}

// since reports whether something may have changed after a time.
func (c *changes) since(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.After(t)
}

// Changed returns a channel that is closed when something which pages show has changed since a time, whichever replica
// did it; also when the database was out of hearing, and nobody knows.
func (db *DB) Changed(since time.Time) <-chan struct{} {
	db.changes.mu.Lock()
	defer db.changes.mu.Unlock()
	if db.changes.last.After(since) {
		already := make(chan struct{})
		close(already)
		return already
	}
	return db.changes.next
}
