package storage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/storage"
)

// rows keeps pulls, or does not.
type rows struct {
	mu    sync.Mutex
	saved map[artifact.Digest]time.Time
	by    map[string]int64 // principal and day
	calls int
	err   error
}

func (r *rows) SavePulls(_ context.Context, pulls []storage.Pull) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.err != nil {
		return r.err
	}
	for _, p := range pulls {
		if p.At.After(r.saved[p.Digest]) {
			r.saved[p.Digest] = p.At
		}
		r.by[p.Principal+" "+p.Day().Format(time.DateOnly)] += p.Count
	}
	return nil
}

func newRows() *rows {
	return &rows{saved: map[artifact.Digest]time.Time{}, by: map[string]int64{}}
}

// TestPullsAreCounted: by token and by day; what could not be written is not counted twice, nor lost.
func TestPullsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRows()
		repository := parsed(t, artifact.ParseRepository, "shop/returns")
		a := artifact.DigestOf([]byte("a"))
		p := storage.NewPulls(r, slog.New(slog.DiscardHandler))
		defer p.Close()
		for range 3 {
			p.Note("token:ci/1", repository, a)
		}
		p.Note("", repository, a)
		r.err = errors.New("the database is away")
		require.Error(t, p.Flush(t.Context()))
		p.Note("token:ci/1", repository, a)
		r.err = nil
		first := time.Now().UTC().Format(time.DateOnly)
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, map[string]int64{"token:ci/1 " + first: 4, "anonymous " + first: 1}, r.by)
		time.Sleep(24 * time.Hour) //nolint:forbidigo // a bubble's clock
		p.Note("token:ci/1", repository, a)
		require.NoError(t, p.Flush(t.Context()))
		require.EqualValues(t, 1, r.by["token:ci/1 "+time.Now().UTC().Format(time.DateOnly)])
	})
}

// TestPullsAreBounded: however many tokens pull while nothing can be written, memory is that of so many; that there was a
// pull is known all the same.
func TestPullsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRows()
		r.err = errors.New("the database is away")
		repository := parsed(t, artifact.ParseRepository, "shop/returns")
		a, b := artifact.DigestOf([]byte("a")), artifact.DigestOf([]byte("b"))
		p := storage.NewPulls(r, slog.New(slog.DiscardHandler))
		defer p.Close()
		for n := range 70_000 {
			p.Note(fmt.Sprint(n), repository, a)
		}
		p.Note("late", repository, b)
		require.ErrorIs(t, p.Flush(t.Context()), r.err)
		r.err = nil
		require.NoError(t, p.Flush(t.Context()))
		require.LessOrEqual(t, len(r.by), 1<<16+1)
		require.False(t, r.saved[b].IsZero())
		require.Zero(t, r.by["late "+time.Now().UTC().Format(time.DateOnly)])
	})
}

func TestPullsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRows()
		repository := parsed(t, artifact.ParseRepository, "shop/returns")
		a, b := artifact.DigestOf([]byte("a")), artifact.DigestOf([]byte("b"))
		p := storage.NewPulls(r, slog.New(slog.DiscardHandler))
		time.Sleep(time.Minute) //nolint:forbidigo // a bubble's clock
		require.Zero(t, r.calls, "nothing was pulled")
		for range 1000 {
			p.Note("token:ci/1", repository, a)
		}
		p.Note("token:ci/1", repository, b)
		require.Zero(t, r.calls)
		time.Sleep(10 * time.Second) //nolint:forbidigo // likewise
		synctest.Wait()
		require.Equal(t, 1, r.calls)
		require.Len(t, r.saved, 2)

		r.err = errors.New("the database is away")
		first := time.Now()
		p.Note("token:ci/1", repository, a)
		time.Sleep(10 * time.Second) //nolint:forbidigo // likewise
		p.Note("token:ci/1", repository, b)
		require.ErrorIs(t, p.Flush(t.Context()), r.err)
		r.err = nil
		p.Close()
		p.Close()
		require.Equal(t, first, r.saved[a], "what could not be written is written later, as it was")
		require.Equal(t, time.Now(), r.saved[b], "and what is left, at the stop")
		require.NoError(t, p.Flush(t.Context()))
	})
}
