package web

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// busy is a store where others push all the time.
type busy struct {
	Store
	own    artifact.Repository // the reader's
	others int                 // newer than what there is to the reader's repositories
	to     []artifact.Repository
}

func (b *busy) RecentPushes(_ context.Context, o artifact.Outcome, limit int) ([]artifact.PushRecord, error) {
	elsewhere, _ := artifact.ParseRepository("bank/ledger")
	all := slices.Repeat([]artifact.PushRecord{{Repository: elsewhere, Outcome: o}}, b.others)
	all = append(all, slices.Repeat([]artifact.PushRecord{{Repository: b.own, Outcome: o}}, 20)...)
	return all[:min(len(all), limit)], nil
}

func (b *busy) RecentPushesTo(_ context.Context, to []artifact.Repository, o artifact.Outcome, limit int) (all []artifact.PushRecord, err error) {
	b.to = to
	for _, r := range to {
		all = append(all, slices.Repeat([]artifact.PushRecord{{Repository: r, Outcome: o}}, limit)...)
	}
	return all, nil
}

// TestLately: who may look at few repositories is shown what was pushed to those, however much others push; their own are looked into only
// when that takes it.
func TestLately(t *testing.T) {
	t.Parallel()
	repo, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	refused, err := artifact.ParseRepository("shop/refused")
	require.NoError(t, err)
	elsewhere, err := artifact.ParseRepository("bank/ledger")
	require.NoError(t, err)
	bound := artifact.Principal{Name: "user:eve", Role: artifact.Reader, Repositories: []string{"shop/*", repo.String(), refused.String()}}
	for name, c := range map[string]struct {
		p      artifact.Principal
		others int
		to     []artifact.Repository
	}{
		"nobody else pushes": {bound, 0, nil},
		"others do":          {bound, 80, nil},
		"others do much":     {bound, 1000, []artifact.Repository{refused, repo}},
		"all are seen":       {artifact.Principal{Name: "user:ada", Role: artifact.Admin}, 1000, nil},
	} {
		b := &busy{own: repo, others: c.others}
		w := &Web{cfg: Config{Store: b}}
		pushes, err := w.pushes(t.Context(), c.p, []artifact.Repository{elsewhere, repo}, artifact.Deny)
		require.NoError(t, err)
		require.Len(t, pushes, recentRows, name)
		require.Equal(t, c.to, b.to, name)
		for _, push := range pushes {
			require.True(t, c.p.Can(artifact.ActionLook, push.Repository), name)
		}
	}
}
