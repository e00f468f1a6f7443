package storage_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/storage"
)

// counts are what a database would say.
type counts struct {
	documents []storage.Versioned
	bytes     atomic.Int64
	asked     atomic.Int64
	slow      time.Duration
	err       error
}

func (c *counts) StorageDocuments(context.Context) ([]storage.Versioned, error) {
	return c.documents, nil
}

func (c *counts) RepositoryBytes(ctx context.Context, _ artifact.Repository) (int64, error) {
	c.asked.Add(1)
	n := c.bytes.Load()
	select {
	case <-time.After(c.slow):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return n, c.err
}

func (c *counts) StoreBytes(ctx context.Context) (int64, error) {
	return c.RepositoryBytes(ctx, artifact.Repository{})
}

// take takes n bytes, and stores them unless they are refused.
func (c *counts) take(ctx context.Context, rules *storage.Rules, repository artifact.Repository, n int64) error {
	take, settle, err := rules.Room(ctx, repository, false)
	if err != nil {
		return err
	}
	if err := take(ctx, n); err != nil {
		settle(0)
		return err
	}
	c.bytes.Add(n)
	settle(n)
	return nil
}

func metered(t *testing.T) (*counts, *storage.Rules, artifact.Repository) {
	c := &counts{documents: []storage.Versioned{{Document: document(t, "all", "**"), Version: 1}}} // 1 GiB
	return c, storage.NewRules(storage.RulesConfig{Documents: c, Usage: c}), parsed(t, artifact.ParseRepository, "shop/returns")
}

const mebi = 1 << 20

func TestMeterCountsSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, rules, repository := metered(t)
		c.slow = 100 * time.Millisecond
		var pushes sync.WaitGroup
		for range 20 {
			pushes.Go(func() {
				require.NoError(t, c.take(t.Context(), rules, repository, 40*mebi))
			})
		}
		pushes.Wait()
		require.EqualValues(t, 1, c.asked.Load(), "they wait for one count")
		require.NoError(t, c.take(t.Context(), rules, repository, 200*mebi))
		require.Error(t, c.take(t.Context(), rules, repository, 40*mebi), "its own increments are known at once")
		require.EqualValues(t, 1, c.asked.Load(), "a count of just now is good enough to say no by")
		c.bytes.Add(-100 * mebi)
		time.Sleep(2 * time.Second) //nolint:forbidigo // a bubble's clock
		require.NoError(t, c.take(t.Context(), rules, repository, 40*mebi), "an older one is not")
		require.EqualValues(t, 2, c.asked.Load())
		c.bytes.Add(1000 * mebi) // by another replica
		require.NoError(t, c.take(t.Context(), rules, repository, 40*mebi), "which is seen")
		time.Sleep(31 * time.Second) //nolint:forbidigo // likewise
		require.Error(t, c.take(t.Context(), rules, repository, 1), "within half a minute")
	})
}

func TestMeterFailsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, rules, repository := metered(t)
		c.err = errors.New("the database is away")
		require.ErrorIs(t, c.take(t.Context(), rules, repository, 1), c.err)
		c.err = nil
		require.NoError(t, c.take(t.Context(), rules, repository, 1), "and is asked again")

		time.Sleep(time.Minute) //nolint:forbidigo // a bubble's clock
		c.slow = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() { require.ErrorIs(t, c.take(ctx, rules, repository, 1), context.DeadlineExceeded) })
		}
		waiting.Wait()
		c.slow = 0
		require.NoError(t, c.take(t.Context(), rules, repository, 1024*mebi-2), "what was given up holds nothing")
	})
}
