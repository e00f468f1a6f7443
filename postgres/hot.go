package postgres

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"waybill/artifact"
)

// hot remembers what pulls and pushes ask for all the time, until the database says that it changed (watch.go) or this
// process changed it. Only what is there is remembered, never that something is not. While the database is not heard,
// nothing remembered is used: a recall holds on every replica within a second, whatever happens to the line.
type hot struct {
	began time.Time    // its clock is not set
	heard atomic.Int64 // when the database was last heard for certain, in nanoseconds since began

	mu      sync.RWMutex
	shelves map[artifact.Repository]*shelf // the zero repository's holds policies and pipelines
	size    int
}

// shelf is what is remembered of one repository. To forget is to take the shelf away: an answer that was asked for
// before finds its shelf gone and is not kept.
type shelf struct {
	manifests map[artifact.Digest]artifact.StoredManifest
	tags      map[artifact.Tag]artifact.Digest
	blobs     map[artifact.Digest]linked
	grants    map[granted]bool
	documents map[string]any
	size      int
}

// linked is a blob that a repository has.
type linked struct {
	size int64
	at   time.Time // not after it was linked, by this process's clock
}

// granted is a question of the pull gate whose answer was yes.
type granted struct {
	environments string
	digest       artifact.Digest
}

const (
	hotBytes = 16 << 20 // of all that is remembered, roughly
	hotEntry = 200      // of one entry beside what it holds
)

func newHot() *hot {
	h := &hot{began: time.Now(), shelves: map[artifact.Repository]*shelf{}}
	h.heard.Store(int64(-time.Hour)) // not yet
	return h
}

// hear notes that the database was heard: all that it had to tell by then was told.
func (h *hot) hear(at time.Time) { h.heard.Store(int64(at.Sub(h.began))) }

// fresh reports whether what is remembered may be used.
func (h *hot) fresh() bool {
	return time.Since(h.began)-time.Duration(h.heard.Load()) < artifact.HeardFor
}

// Heard returns when the database was last heard for certain: what others withdrew before was told to OnWithdrawn's.
func (db *DB) Heard() time.Time { return db.hot.began.Add(time.Duration(db.hot.heard.Load())) }

// forget drops what is remembered of a repository.
func (h *hot) forget(repository artifact.Repository) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.shelves[repository]; s != nil {
		h.size -= s.size
		delete(h.shelves, repository)
	}
}

// forgetTags drops where a repository's tags stand, and keeps the rest.
func (h *hot) forgetTags(repository artifact.Repository) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.shelves[repository]; s != nil {
		other := *s
		h.size -= hotEntry * len(s.tags)
		other.size -= hotEntry * len(s.tags)
		other.tags = map[artifact.Tag]artifact.Digest{}
		h.shelves[repository] = &other
	}
}

// forgetBlob drops what is remembered of one blob, and what is just being asked of it may be remembered.
func (h *hot) forgetBlob(repository artifact.Repository, digest artifact.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.shelves[repository]
	if s == nil {
		return
	}
	if _, ok := s.blobs[digest]; ok {
		delete(s.blobs, digest)
		s.size -= hotEntry
		h.size -= hotEntry
	}
}

func (h *hot) forgetAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.shelves)
	h.size = 0
}

// shelf returns a repository's shelf, and makes it.
func (h *hot) shelf(repository artifact.Repository) *shelf {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.shelves[repository]
	if s == nil {
		s = &shelf{manifests: map[artifact.Digest]artifact.StoredManifest{}, tags: map[artifact.Tag]artifact.Digest{}, blobs: map[artifact.Digest]linked{},
			grants: map[granted]bool{}, documents: map[string]any{}, size: hotEntry}
		h.shelves[repository] = s
		h.size += s.size
	}
	return s
}

// remembered returns an answer that is on its shelf.
func remembered[K comparable, V any](h *hot, repository artifact.Repository, on func(*shelf) map[K]V, key K) (v V, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if s := h.shelves[repository]; s != nil {
		v, ok = on(s)[key]
	}
	return v, ok
}

// recallOr answers from memory, or asks load and remembers its answer unless the repository changed meanwhile. on
// returns the map that holds such answers; size is roughly what one takes in memory, in bytes.
func recallOr[K comparable, V any](h *hot, repository artifact.Repository, on func(*shelf) map[K]V, key K, size func(V) int, load func() (V, error)) (V, error) {
	if !h.fresh() {
		return load()
	}
	if v, ok := remembered(h, repository, on, key); ok {
		return v, nil
	}
	return recallAfter(h, repository, on, key, size, load)
}

// recallAfter remembers load's answer, unless the repository changed meanwhile.
func recallAfter[K comparable, V any](h *hot, repository artifact.Repository, on func(*shelf) map[K]V, key K, size func(V) int, load func() (V, error)) (V, error) {
	s := h.shelf(repository)
	v, err := load()
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.shelves[repository] == s {
			if _, ok := on(s)[key]; !ok {
				h.grow(s, hotEntry+size(v))
			}
			on(s)[key] = v
		}
	}
	return v, err
}

// recallAll is recallOr of one that is asked for with others: load returns all that it found, which has the key's or not, and
// one reads the key's alone, while nothing is remembered.
func recallAll[K, V comparable](h *hot, repository artifact.Repository, on func(*shelf) map[K]V, key K, one func() (V, error), load func() (map[K]V, error)) (v V, err error) {
	if !h.fresh() {
		return one()
	}
	if v, ok := remembered(h, repository, on, key); ok {
		return v, nil
	}
	s := h.shelf(repository)
	found, err := load()
	if err != nil {
		return v, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shelves[repository] == s {
		before := len(on(s))
		maps.Copy(on(s), found)
		h.grow(s, hotEntry*(len(on(s))-before))
	}
	return found[key], nil
}

// grow notes that a shelf holds more. Its caller holds the lock.
func (h *hot) grow(s *shelf, n int) {
	s.size += n
	h.size += n
	h.makeRoom()
}

// makeRoom takes away shelves, in no order, until what is left is small enough. Its caller holds the lock.
func (h *hot) makeRoom() {
	for repository, s := range h.shelves {
		if h.size <= hotBytes {
			return
		}
		h.size -= s.size
		delete(h.shelves, repository)
	}
}

func nothing[V any](V) int { return 0 }
