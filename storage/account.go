package storage

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Account is what is stored, as it was when it was counted.
type Account struct {
	CountedAt time.Time     `json:"countedAt"`
	Took      time.Duration `json:"-"` // to count

	Blobs   int64 `json:"blobs"`
	Bytes   int64 `json:"bytes" doc:"Of all blobs, each once"`
	Shared  int64 `json:"sharedBytes" doc:"Of blobs that several repositories have"`
	Loose   int64 `json:"looseBytes" doc:"Of blobs that no repository has; garbage collection takes them when they are old enough"`
	Uploads int64 `json:"uploadBytes" doc:"That uploads under way have brought"`
	Quota   int64 `json:"quotaBytes,omitempty" doc:"What the whole store may hold (registry.quota); absent: any number"`

	Repositories []Holding `json:"repositories"` // the largest first
}

// Own is the size of the blobs that exactly one repository has.
func (a Account) Own() int64 { return a.Bytes - a.Shared - a.Loose }

// Used is what counts for the quota of the whole store.
func (a Account) Used() int64 { return a.Bytes + a.Uploads }

// Holding is what one repository has of it.
type Holding struct {
	Repository artifact.Repository `json:"repository"`
	Blobs      int64               `json:"blobs"`
	Bytes      int64               `json:"bytes"`
	Own        int64               `json:"ownBytes" doc:"Of blobs that no other repository has: what would go with this one"`
	Quota      int64               `json:"quotaBytes,omitempty" doc:"Absent: any number"`
	Document   string              `json:"document,omitempty" doc:"The one whose quota it is"`
}

// Shared is the size of the blobs that other repositories have too.
func (h Holding) Shared() int64 { return h.Bytes - h.Own }

// AccountStore counts, and keeps what was counted; *postgres.DB is one.
type AccountStore interface {
	Documents
	// CountUsage counts everything. When another replica is at it, it does nothing.
	CountUsage(ctx context.Context) error
	// CountedUsage returns what was counted last, the largest first, and how long ago that is; the zero Account when nothing was.
	CountedUsage(ctx context.Context) (a Account, ago time.Duration, err error)
}

// AccountsConfig names what Accounts needs.
type AccountsConfig struct {
	Store  AccountStore
	Total  policy.Quantity // bytes that the whole store may hold; 0: any number
	Logger *slog.Logger
}

// Accounts says what is stored. Counting reads every link of every repository, so it is done beside whoever asks, and at
// most a fiftieth of the time: how old an answer may be depends on how long it took. It is safe for concurrent use.
type Accounts struct {
	cfg    AccountsConfig
	ctx    context.Context //nolint:containedctx // of counts, which go on when who asked for them has gone
	cancel context.CancelFunc

	mu       sync.Mutex
	counting chan struct{} // closed at the end of the count under way; nil when there is none
	err      error         // of the newest count
	closed   bool
}

const (
	countShare   = 50                     // one part of so many may be spent with counting
	countTime    = 5 * time.Minute        // that a count may take
	countPatient = 100 * time.Millisecond // that is waited for a newer answer where there is one
)

// NewAccounts returns accounts.
func NewAccounts(cfg AccountsConfig) *Accounts {
	a := &Accounts{cfg: cfg}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// Account returns what was counted last, and has it counted anew when that is old.
func (a *Accounts) Account(ctx context.Context) (Account, error) {
	account, ago, err := a.cfg.Store.CountedUsage(ctx)
	if err != nil {
		return account, err
	}
	if account.CountedAt.IsZero() || ago > countShare*account.Took {
		if account, err = a.newer(ctx, account); err != nil {
			return account, err
		}
	}
	account.Quota = int64(a.cfg.Total)
	documents, err := a.cfg.Store.StorageDocuments(ctx)
	if err != nil {
		return account, err
	}
	if slices.ContainsFunc(documents, func(d Versioned) bool { return d.Quota > 0 }) {
		for i := range account.Repositories {
			h := &account.Repositories[i]
			if d, ok := For(documents, h.Repository); ok && d.Quota > 0 {
				h.Quota, h.Document = int64(d.Quota), d.Name()
			}
		}
	}
	return account, nil
}

// newer waits for a count: for a moment where there is an older one, to its end where there is none.
func (a *Accounts) newer(ctx context.Context, older Account) (Account, error) {
	done := a.count()
	var enough <-chan time.Time
	if !older.CountedAt.IsZero() {
		timer := time.NewTimer(countPatient)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-done:
	case <-enough:
		return older, nil
	case <-ctx.Done():
		return older, ctx.Err()
	}
	a.mu.Lock()
	err := a.err
	a.mu.Unlock()
	if err != nil && older.CountedAt.IsZero() {
		return older, err
	}
	account, _, err := a.cfg.Store.CountedUsage(ctx)
	return account, err
}

// Recount has it counted now, unless that is under way: what it comes to has just changed.
func (a *Accounts) Recount() { a.count() }

// count begins a count, or joins the one under way.
func (a *Accounts) count() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counting != nil {
		return a.counting
	}
	done := make(chan struct{})
	if a.closed {
		close(done)
		return done
	}
	a.counting = done
	go func() {
		ctx, cancel := context.WithTimeout(a.ctx, countTime)
		defer cancel()
		err := a.cfg.Store.CountUsage(ctx)
		if err != nil && a.ctx.Err() == nil {
			a.cfg.Logger.Warn("what is stored is not counted", "error", err)
		}
		a.mu.Lock()
		a.counting, a.err = nil, err
		a.mu.Unlock()
		close(done)
	}()
	return done
}

// Close ends a count that is under way.
func (a *Accounts) Close() {
	a.mu.Lock()
	a.closed = true
	under := a.counting
	a.mu.Unlock()
	a.cancel()
	if under != nil {
		<-under
	}
}

// Sort orders holdings: by size, by what is theirs alone ("own"), or by name.
func Sort(all []Holding, by string) {
	slices.SortStableFunc(all, func(x, y Holding) int {
		order := 0
		switch by {
		case "name":
		case "own":
			order = cmp.Compare(y.Own, x.Own)
		default:
			order = cmp.Compare(y.Bytes, x.Bytes)
		}
		return cmp.Or(order, cmp.Compare(x.Repository.String(), y.Repository.String()))
	})
}
