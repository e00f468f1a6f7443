package storage

import (
	"context"
	"fmt"
	"sync"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Documents gives the documents that are in force.
type Documents interface {
	StorageDocuments(ctx context.Context) ([]Versioned, error)
}

// Usage counts bytes that are stored. What uploads under way have brought counts; what is counted is committed.
type Usage interface {
	// RepositoryBytes is the size of a repository's blobs and uploads.
	RepositoryBytes(ctx context.Context, repository artifact.Repository) (int64, error)
	// StoreBytes is the size of all blobs, each once, and of all uploads.
	StoreBytes(ctx context.Context) (int64, error)
}

// RulesConfig names what Rules needs.
type RulesConfig struct {
	Documents Documents
	Usage     Usage
	Total     policy.Quantity  // bytes that the whole store may hold; 0: any number
	Now       func() time.Time // nil: time.Now
}

// Rules answers, for each push, what the documents in force say of its repository. It is safe for concurrent use.
type Rules struct {
	cfg   RulesConfig
	total meter

	mu     sync.Mutex
	meters map[artifact.Repository]*meter // of repositories with a quota that somebody pushed to
}

// NewRules returns rules.
func NewRules(cfg RulesConfig) *Rules {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Rules{cfg: cfg, meters: map[artifact.Repository]*meter{}}
}

// MutableTags returns the patterns of the tags that may be moved in a repository; false where no document says.
func (r *Rules) MutableTags(ctx context.Context, repository artifact.Repository) ([]string, bool, error) {
	all, err := r.cfg.Documents.StorageDocuments(ctx)
	if err != nil {
		return nil, false, err
	}
	d, _ := For(all, repository)
	return d.MutableTags, d.MutableTags != nil, nil
}

// Room is how a request takes bytes of a repository's quota before it stores them, and how it says, once, how many it
// has stored in the end. linked is for bytes that the store has already, in another repository: they count here and not
// once more in all. Both functions are nil where there is no quota.
func (r *Rules) Room(ctx context.Context, repository artifact.Repository, linked bool) (take func(ctx context.Context, n int64) error, settle func(stored int64), err error) {
	all, err := r.cfg.Documents.StorageDocuments(ctx)
	if err != nil {
		return nil, nil, err
	}
	room := &room{}
	if d, ok := For(all, repository); ok && d.Quota > 0 {
		room.shares = append(room.shares, share{r.meter(repository), d.Quota, account{
			count: func(ctx context.Context) (int64, error) { return r.cfg.Usage.RepositoryBytes(ctx, repository) }, now: r.cfg.Now,
			refuse: func(used, asked policy.Quantity) error {
				return full("%s holds %s of its quota of %s, and this push asks for %s; delete what nobody needs there (`waybill retention --dry-run` names some, and `waybill gc` frees the bytes), or have an admin raise quota in the document %s",
					repository, used, d.Quota, more(asked, d.Quota-used), d.Name())
			}}})
	}
	if r.cfg.Total > 0 && !linked {
		room.shares = append(room.shares, share{&r.total, r.cfg.Total, account{count: r.cfg.Usage.StoreBytes, now: r.cfg.Now,
			refuse: func(used, asked policy.Quantity) error {
				return full("this registry holds %s of its quota of %s, and this push asks for %s; delete what nobody needs (`waybill retention --dry-run` names some, and `waybill gc` frees the bytes), or have the operator raise registry.quota",
					used, r.cfg.Total, more(asked, r.cfg.Total-used))
			}}})
	}
	if len(room.shares) == 0 {
		return nil, nil, nil
	}
	return room.take, room.settle, nil
}

// full is the answer to what does not fit.
func full(format string, args ...any) error {
	return artifact.Coded(artifact.Denied, "DENIED", format, args...)
}

// more says how many bytes are asked for of those that are left: to the byte where rounded figures would seem to fit. A push that
// has only begun asks for one, and does not know how many follow.
func more(asked, left policy.Quantity) string {
	switch {
	case asked <= 1:
		return "more"
	case asked.String() == left.String():
		return fmt.Sprintf("%d bytes more, of which %d fit", asked, left)
	}
	return asked.String() + " more"
}

func (r *Rules) meter(repository artifact.Repository) *meter {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.meters[repository]
	if m == nil {
		m = &meter{}
		r.meters[repository] = m
	}
	return m
}

// room is one request's part of the quotas that it is under.
type room struct {
	shares []share
	taken  int64
}

type share struct {
	meter *meter
	limit policy.Quantity
	account
}

func (r *room) take(ctx context.Context, n int64) error {
	for i, s := range r.shares {
		if err := s.meter.take(ctx, n, r.taken, s.limit, s.account); err != nil {
			for _, earlier := range r.shares[:i] {
				earlier.meter.settle(n, 0)
			}
			return err
		}
	}
	r.taken += n
	return nil
}

func (r *room) settle(stored int64) {
	for _, s := range r.shares {
		s.meter.settle(r.taken, stored)
	}
	r.taken = 0
}
