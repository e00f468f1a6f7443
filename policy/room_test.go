package policy_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// crowd is a world in which the facts of some layers are heavy, and whoever reads those stays at it until it is let go.
type crowd struct {
	*world
	heavy   map[artifact.Digest]bool
	entered chan struct{}
	leave   chan struct{}

	mu       sync.Mutex // guards what follows
	in, most int
}

func (c *crowd) FactsBytes(_ context.Context, layers []artifact.Digest) (map[artifact.Digest]int64, error) {
	bytes := map[artifact.Digest]int64{}
	for _, d := range layers {
		if bytes[d] = 1000; c.heavy[d] {
			bytes[d] = 150 << 20
		}
	}
	return bytes, nil
}

func (c *crowd) Layer(ctx context.Context, r artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	if c.heavy[d.Digest] {
		c.mu.Lock()
		c.in++
		c.most = max(c.most, c.in)
		c.mu.Unlock()
		c.entered <- struct{}{}
		<-c.leave
		c.mu.Lock()
		c.in--
		c.mu.Unlock()
	}
	return c.world.Layer(ctx, r, d)
}

// TestRoom: images that take much memory wait for each other, and nobody else for them.
func TestRoom(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	c := &crowd{world: newWorld(policy.Versioned{Document: parsed[0], Version: 1}), heavy: map[artifact.Digest]bool{}, entered: make(chan struct{}), leave: make(chan struct{})}
	judge := policy.NewJudge(policy.JudgeConfig{Facts: c, Contents: c, Policies: c, Weights: c})
	plain, repository := artifact.DigestOf([]byte("plain")), subject(t).Repository
	const images = 4
	done := make(chan policy.Verdict, images)
	var heavy []artifact.Digest
	for i := range images {
		name := "heavy " + strconv.Itoa(i)
		heavy = append(heavy, c.image(name, "1000", plain).Digest)
		c.heavy[artifact.DigestOf([]byte("layer of "+name))] = true
	}
	light := c.image("light", "1000", plain).Digest
	for _, d := range heavy {
		go func() {
			v, _ := judge.JudgeStored(t.Context(), repository, d)
			done <- v
		}()
	}
	<-c.entered
	v, err := judge.JudgeStored(t.Context(), repository, light)
	require.NoError(t, err)
	require.Equal(t, artifact.Allow, v.Outcome)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = judge.JudgeStored(ended, repository, heavy[0])
	require.ErrorIs(t, err, context.Canceled, "who goes away while it waits is not judged")
	_, err = policy.Stack(ended, judge.Turns(c), c.manifests[heavy[0]], artifact.ImageConfig{})
	require.ErrorIs(t, err, context.Canceled, "pages wait their turn too")
	stacked, err := policy.Stack(t.Context(), judge.Turns(c), c.manifests[light], artifact.ImageConfig{})
	require.NoError(t, err)
	require.NotZero(t, stacked)
	for i := range images {
		c.leave <- struct{}{}
		require.Equal(t, artifact.Allow, (<-done).Outcome)
		if i < images-1 {
			<-c.entered
		}
	}
	require.Equal(t, 1, c.most)
}

// TestRoomOfOthers: layers that are inspected just now are weighed too, and one that is refused is refused as ever.
func TestRoomOfOthers(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	c := &arriving{world: newWorld(policy.Versioned{Document: parsed[0], Version: 1}), read: map[artifact.Digest]int{}}
	judge := policy.NewJudge(policy.JudgeConfig{Facts: c, Contents: c, Policies: c, Weights: c})
	plain := artifact.DigestOf([]byte("plain"))
	for name, want := range map[string]struct {
		files, reads int
		outcome      artifact.Outcome
	}{"small": {10, 1, artifact.Allow}, "large": {100_000, 2, artifact.Allow}, "bomb": {0, 2, artifact.Deny}} {
		image, layer := c.image(name, "1000", plain), artifact.DigestOf([]byte("layer of "+name))
		facts := c.facts[layer]
		for i := range want.files {
			facts.Files = append(facts.Files, artifact.File{Path: strings.Repeat("x", 50) + strconv.Itoa(i), Type: artifact.Regular})
		}
		if c.facts[layer] = facts; want.files == 0 {
			delete(c.facts, layer)
		}
		v, err := judge.JudgeStored(t.Context(), subject(t).Repository, image.Digest)
		require.NoError(t, err)
		require.Equal(t, want.outcome, v.Outcome, name)
		require.Equal(t, want.reads, c.read[layer], "%s: what is heavy is dropped while it waits", name)
	}
}

// arriving is a world of which nothing was inspected before.
type arriving struct {
	*world
	read map[artifact.Digest]int
}

func (a *arriving) FactsBytes(context.Context, []artifact.Digest) (map[artifact.Digest]int64, error) {
	return map[artifact.Digest]int64{}, nil
}

func (a *arriving) Layer(ctx context.Context, r artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	a.read[d.Digest]++
	return a.world.Layer(ctx, r, d)
}
