package artifact_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// numbers is a list of 1 to n, of which reads counts the rows that were handed out.
type numbers struct{ n, reads int }

func (l *numbers) after(last, n int) (rows []int, more bool, err error) {
	for i := last + 1; i <= l.n && len(rows) < n; i++ {
		rows = append(rows, i)
	}
	l.reads += len(rows)
	return rows, len(rows) == n, nil
}

// TestPage: pages are full but for the last, hold each row that is seen once and in order, and never end behind a hidden
// one, unless too many were.
func TestPage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &numbers{n: rapid.IntRange(0, 3000).Draw(t, "rows")}
		n, every := rapid.IntRange(1, 300).Draw(t, "page"), rapid.IntRange(1, 500).Draw(t, "every")
		sees := func(i int) bool { return i%every == 0 }
		var all []int
		for after, more := 0, true; more; {
			var shown []int
			var err error
			shown, after, more, err = artifact.Page(n, after, l.after, sees)
			require.NoError(t, err)
			all = append(all, shown...)
			if more {
				require.Len(t, shown, n)
				require.Equal(t, shown[n-1], after, "the next page begins behind what is shown")
			}
		}
		require.Len(t, all, l.n/every)
		for i, one := range all {
			require.Equal(t, (i+1)*every, one)
		}
	})
}

// TestPageBounds: somebody who sees nothing has no more read than somebody who sees all, and the rest at the next page.
func TestPageBounds(t *testing.T) {
	t.Parallel()
	l := &numbers{n: 25_000}
	found, pages := 0, 0
	for after, more := 0, true; more; pages++ {
		before := l.reads
		var shown []int
		shown, after, more, _ = artifact.Page(50, after, l.after, func(i int) bool { return i == 24_000 })
		found += len(shown)
		require.LessOrEqual(t, l.reads-before, 10_000)
	}
	require.Equal(t, 1, found)
	require.Equal(t, 3, pages)
	_, _, _, err := artifact.Page(5, 0, func(int, int) ([]int, bool, error) { return nil, false, errors.New("away") }, func(int) bool { return true })
	require.ErrorContains(t, err, "away")
}
