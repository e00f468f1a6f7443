package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// manyWaivers are n, of which each tenth is for other/**.
type manyWaivers struct {
	policy.WaiverStore
	n int64
}

func (m manyWaivers) ListWaivers(_ context.Context, _ bool, before int64, n int) (all []artifact.Waiver, err error) {
	for id := min(before-1, m.n); id > 0 && len(all) < n; id-- {
		w := artifact.Waiver{ID: id, Repositories: []string{"secret/**"}}
		if id%10 == 0 {
			w.Repositories = []string{"other/**"}
		}
		all = append(all, w)
	}
	return all, nil
}

// TestWaiverPages: pages are full of what the caller may know of, however much lies between.
func TestWaiverPages(t *testing.T) {
	t.Parallel()
	s := policy.NewWaiving(policy.WaivingConfig{Store: manyWaivers{n: 1000}})
	p := artifact.Principal{Name: "token:x", Role: artifact.Reader, Repositories: []string{"other/**"}}
	var all []artifact.Waiver
	for before := int64(0); ; {
		page, next, err := s.List(t.Context(), p, true, before, 30)
		require.NoError(t, err)
		all = append(all, page...)
		if next == 0 {
			require.Len(t, page, 10)
			break
		}
		require.Len(t, page, 30)
		before = next
	}
	require.Len(t, all, 100)
}
