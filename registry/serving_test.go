package registry_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
)

// asked is a gate that is asked again.
type asked struct {
	registry.Gate
	afresh atomic.Int64
	say    atomic.Pointer[func(context.Context) error]
}

func (g *asked) Pull(ctx context.Context, _ artifact.Principal, _ artifact.Repository, _ artifact.Digest) error {
	if artifact.IsAfresh(ctx) {
		g.afresh.Add(1)
	}
	return (*g.say.Load())(ctx)
}

// TestServingUnheard: while the database is not heard, an answer that is under way rests on what it says when it is asked again, and is
// cut off within a second when that is no, or nothing.
func TestServingUnheard(t *testing.T) {
	t.Parallel()
	yes := func(context.Context) error { return nil }
	no := func(context.Context) error { return artifact.Errorf(artifact.Denied, "recalled") }
	silent := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fails := func(context.Context) error { return errors.New("the connection was lost") }
	hiccup := func() func(context.Context) error {
		var n atomic.Int64
		return func(context.Context) error {
			if n.Add(1)%3 == 0 {
				return errors.New("the connection was lost")
			}
			return nil
		}
	}()
	for name, c := range map[string]struct {
		then func(context.Context) error
		cut  bool
	}{"says yes": {yes, false}, "says no": {no, true}, "hangs": {silent, true}, "fails": {fails, true}, "fails now and then": {hiccup, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := &asked{}
			gate.say.Store(&yes)
			r := registry.New(registry.Config{Gate: gate, Heard: func() time.Time { return time.Time{} }})
			interrupted := make(chan struct{})
			var once sync.Once
			s := r.Serve(artifact.Principal{Name: "token:node", Role: artifact.Deployer}, parse(t, artifact.ParseRepository, "shop/returns"), func() { once.Do(func() { close(interrupted) }) })
			defer s.End()
			err := s.Piece(t.Context(), artifact.DigestOf(nil), func() error {
				require.EqualValues(t, 1, gate.afresh.Load(), "it is asked before anything is sent")
				gate.say.Store(&c.then)
				began := time.Now()
				for {
					select {
					case <-interrupted:
						require.Less(t, time.Since(began), artifact.HeardFor+5*time.Second, "with what a busy machine takes")
						return errors.New("interrupted")
					case <-time.After(time.Millisecond):
						if !c.cut && gate.afresh.Load() > 5 {
							return nil
						}
					}
				}
			})
			require.Equal(t, c.cut, err != nil)
			require.Eventually(t, func() bool { return s.Cut() == c.cut }, time.Second, time.Millisecond)
			if c.cut {
				require.Error(t, s.Piece(t.Context(), artifact.DigestOf(nil), func() error { t.Error("more was sent"); return nil }))
			}
		})
	}
}

// TestServingHeard: while the database is heard nobody is asked again, but for what changed.
func TestServingHeard(t *testing.T) {
	t.Parallel()
	var questions atomic.Int64
	gate, yes := &asked{}, func(context.Context) error { questions.Add(1); return nil }
	gate.say.Store(&yes)
	r := registry.New(registry.Config{Gate: gate, Heard: time.Now})
	shop := parse(t, artifact.ParseRepository, "shop/returns")
	s := r.Serve(artifact.Principal{Name: "token:node", Role: artifact.Deployer}, shop, func() {})
	defer s.End()
	piece := func() { require.NoError(t, s.Piece(t.Context(), artifact.DigestOf(nil), func() error { return nil })) }
	for range 100 {
		piece()
	}
	require.Zero(t, questions.Load())
	r.Withdrawn(parse(t, artifact.ParseRepository, "shop/cart"))()
	require.Zero(t, questions.Load())
	r.Withdrawn(shop)()
	require.EqualValues(t, 1, questions.Load())
	cut := r.Withdrawn(artifact.Repository{})
	piece()
	require.EqualValues(t, 2, questions.Load(), "a piece asks when nobody did yet")
	cut()
	require.Zero(t, gate.afresh.Load(), "what is remembered is as good as what is heard")
}
