package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRush(t *testing.T) {
	t.Parallel()
	pulled := func(apart time.Duration, n int) (bool, bool) {
		var r rush
		now := time.Now().UnixNano()
		for range n {
			now += int64(apart)
			r.pull(now)
		}
		return r.on(now), r.on(now + rushSpan)
	}
	for _, c := range []struct {
		apart time.Duration
		n     int
		on    bool
	}{
		{time.Millisecond, rushPulls - 1, false},
		{time.Millisecond, rushPulls, true},
		{time.Millisecond, 1000, true},
		{100 * time.Millisecond, 1000, false}, // one that asks again and again
	} {
		on, after := pulled(c.apart, c.n)
		require.Equal(t, c.on, on, "%d pulls every %v", c.n, c.apart)
		require.False(t, after, "jobs go on when nobody pulls any more")
	}
}
