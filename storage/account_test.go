package storage_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/storage"
)

// counted is what was counted, and how long ago; during is called while it is counted anew.
type counted struct {
	mu       sync.Mutex
	account  storage.Account
	ago      time.Duration
	counts   int
	during   func(ctx context.Context) error
	document string
}

func (c *counted) StorageDocuments(context.Context) ([]storage.Versioned, error) {
	all, err := storage.Parse("r.yaml", []byte(c.document))
	if err != nil {
		return nil, nil
	}
	return []storage.Versioned{{Document: all[0], Version: 1}}, nil
}

func (c *counted) CountUsage(ctx context.Context) error {
	if c.during != nil {
		if err := c.during(ctx); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts++
	c.account.CountedAt, c.account.Blobs, c.ago = time.Now(), int64(c.counts), 0
	return nil
}

func (c *counted) CountedUsage(context.Context) (storage.Account, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.account, c.ago, nil
}

func accounts(t *testing.T, c *counted) *storage.Accounts {
	t.Helper()
	a := storage.NewAccounts(storage.AccountsConfig{Store: c, Total: 1000, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(a.Close)
	return a
}

func TestAccountIsCountedAnewWhenItIsOld(t *testing.T) {
	t.Parallel()
	shop, err := artifact.ParseRepository("shop/a")
	require.NoError(t, err)
	c := &counted{document: "apiVersion: waybill/v1\nkind: Repositories\nmetadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, quota: 5Ki}\n"}
	a := accounts(t, c)
	got, err := a.Account(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), got.Blobs, "the first waits for a count")
	require.Equal(t, int64(1000), got.Quota)

	c.mu.Lock()
	c.account.Took, c.ago = time.Second, 49*time.Second
	c.account.Repositories = []storage.Holding{{Repository: shop, Bytes: 10, Own: 3}}
	c.mu.Unlock()
	got, err = a.Account(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), got.Blobs, "what took a second to count holds for fifty")
	require.Equal(t, int64(5<<10), got.Repositories[0].Quota)
	require.Equal(t, "shop", got.Repositories[0].Document)
	require.Equal(t, int64(7), got.Repositories[0].Shared())

	c.mu.Lock()
	c.ago = 51 * time.Second
	c.mu.Unlock()
	require.Eventually(t, func() bool {
		got, err = a.Account(t.Context())
		return err == nil && got.Blobs == 2
	}, time.Minute, time.Millisecond)
}

func TestNobodyWaitsForACountWhereThereIsOne(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	c := &counted{account: storage.Account{CountedAt: time.Now(), Blobs: 9}, ago: time.Hour, during: func(ctx context.Context) error {
		select {
		case <-held:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	a := accounts(t, c)
	for range 3 {
		got, err := a.Account(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(9), got.Blobs, "the older answer, while a newer is made")
	}
	close(held)
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.counts == 1
	}, time.Minute, time.Millisecond, "all of them shared one count")
}

func TestACountThatFails(t *testing.T) {
	t.Parallel()
	away := errors.New("the database is away")
	c := &counted{during: func(context.Context) error { return away }}
	a := accounts(t, c)
	_, err := a.Account(t.Context())
	require.ErrorIs(t, err, away, "nothing is told where nothing is known")
	c.mu.Lock()
	c.account, c.ago = storage.Account{CountedAt: time.Now(), Blobs: 4}, time.Hour
	c.mu.Unlock()
	got, err := a.Account(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(4), got.Blobs)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	held := &counted{during: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	b := accounts(t, held)
	_, err = b.Account(ctx)
	require.ErrorIs(t, err, context.Canceled)
	b.Close()
	b.Close()
	b.Recount()
}

// noted keeps runs.
type noted struct {
	runs []storage.Run
	err  error
}

func (n *noted) SaveRun(ctx context.Context, r storage.Run, _ int) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	n.runs = append(n.runs, r)
	return n.err
}

func TestBook(t *testing.T) {
	t.Parallel()
	n := &noted{err: errors.New("away")}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	book := &storage.Book{Store: n, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return at }}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx     context.Context
		err     error
		problem string
	}{
		{t.Context(), nil, ""},
		{t.Context(), errors.New("password in here"), "it was cut short; the server's log says by what"},
		{t.Context(), artifact.Errorf(artifact.Unavailable, "the disk is away"), "the disk is away"},
		{gone, context.Canceled, "who asked for it went away before its end, or the server stopped"},
	} {
		book.Note(c.ctx, storage.RunCheck, "ada", at.Add(-time.Minute), storage.Outcome{Blobs: 3}, c.err)
		last := n.runs[len(n.runs)-1]
		require.Equal(t, c.problem, last.Problem)
		require.Equal(t, time.Minute, last.EndedAt.Sub(last.BeganAt))
	}
	book.Note(t.Context(), storage.RunCheck, "ada", at, storage.Outcome{}, artifact.Errorf(artifact.Conflict, "under way"))
	require.Len(t, n.runs, 4, "what another kept from beginning was no run")
}
