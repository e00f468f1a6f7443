package storage_test

import (
	"context"
	"errors"
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
		r.saved[p.Digest] = p.At
	}
	return nil
}

func TestPullsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &rows{saved: map[artifact.Digest]time.Time{}}
		repository := parsed(t, artifact.ParseRepository, "shop/returns")
		a, b := artifact.DigestOf([]byte("a")), artifact.DigestOf([]byte("b"))
		p := storage.NewPulls(r, slog.New(slog.DiscardHandler))
		time.Sleep(time.Minute) //nolint:forbidigo // a bubble's clock
		require.Zero(t, r.calls, "nothing was pulled")
		for range 1000 {
			p.Note(repository, a)
		}
		p.Note(repository, b)
		require.Zero(t, r.calls)
		time.Sleep(10 * time.Second) //nolint:forbidigo // likewise
		synctest.Wait()
		require.Equal(t, 1, r.calls)
		require.Len(t, r.saved, 2)

		r.err = errors.New("the database is away")
		first := time.Now()
		p.Note(repository, a)
		time.Sleep(10 * time.Second) //nolint:forbidigo // likewise
		p.Note(repository, b)
		require.ErrorIs(t, p.Flush(t.Context()), r.err)
		r.err = nil
		p.Close()
		p.Close()
		require.Equal(t, first, r.saved[a], "what could not be written is written later, as it was")
		require.Equal(t, time.Now(), r.saved[b], "and what is left, at the stop")
		require.NoError(t, p.Flush(t.Context()))
	})
}
