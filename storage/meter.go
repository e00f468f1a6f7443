package storage

import (
	"context"
	"sync"
	"time"

	"waybill/policy"
)

const (
	countedFor = 30 * time.Second // how long a count is good for; other replicas' pushes are not seen before the next
	refusedFor = time.Second      // how long one is good enough to refuse by: what was deleted makes room at once
)

// meter is how many bytes there are, by the last count and by what this process has stored since, so that a push waits
// for no row that others write. It may say too many for a while, when what was stored was there already; never too few,
// but for what other replicas do.
type meter struct {
	mu       sync.Mutex
	counted  int64         // by the last count, and settled since
	at       time.Time     // when that count ended; zero: never
	held     int64         // taken by requests that are under way
	settled  int64         // since the count that is under way began
	counting chan struct{} // closed when the count that is under way ends; nil: none is
}

// account is what a meter measures, and how it says no.
type account struct {
	count  func(ctx context.Context) (int64, error)
	refuse func(used, asked policy.Quantity) error
	now    func() time.Time
}

// take sets n bytes aside for a request that has taken own before, or refuses. It asks for a count when the last is too
// old to say yes by, or to say no by.
func (m *meter) take(ctx context.Context, n, own int64, limit policy.Quantity, a account) error {
	for {
		m.mu.Lock()
		used, age, known := m.counted+m.held, a.now().Sub(m.at), !m.at.IsZero()
		fits := used+n <= int64(limit)
		switch {
		case known && age < countedFor && fits:
			m.held += n
			m.mu.Unlock()
			return nil
		case known && age < refusedFor:
			m.mu.Unlock()
			return a.refuse(policy.Quantity(used-own), policy.Quantity(n+own))
		}
		counting := m.counting
		if counting == nil {
			if err := m.recount(ctx, a); err != nil {
				return err
			}
			continue
		}
		m.mu.Unlock()
		select {
		case <-counting:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// recount asks the database. Its caller holds the lock, and has let go of it afterwards.
func (m *meter) recount(ctx context.Context, a account) error {
	done := make(chan struct{})
	m.counting, m.settled = done, 0
	m.mu.Unlock()
	n, err := a.count(ctx)
	m.mu.Lock()
	if err == nil {
		// What was settled meanwhile the count may have seen, or not.
		m.counted, m.at = n+m.settled, a.now()
	}
	m.counting = nil
	m.mu.Unlock()
	close(done)
	return err
}

// settle ends what was taken: so many bytes of it are stored, and committed.
func (m *meter) settle(taken, stored int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= taken
	m.counted += stored
	m.settled += stored
}
