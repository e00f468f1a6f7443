package registry_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestImmutableTagAtOnce: of several who push different images to one new tag at the same moment, exactly one is told that it is
// stored, and there the tag stands.
func TestImmutableTagAtOnce(t *testing.T) {
	t.Parallel()
	const (
		rounds = 25
		racers = 4
	)
	w := newWorld(t)
	bodies := make([][]byte, racers)
	for i := range bodies {
		bodies[i] = w.manifest(image{user: "1000", files: map[string]string{"app": fmt.Sprint(i)}})
	}
	for round := range rounds {
		tag := fmt.Sprintf("v%d", round)
		errs := make([]error, racers)
		var all sync.WaitGroup
		for i, body := range bodies {
			all.Go(func() { _, errs[i] = w.put(tag, body) })
		}
		all.Wait()
		var won []int
		for i, err := range errs {
			if err == nil {
				won = append(won, i)
				continue
			}
			assert.Contains(t, []artifact.Kind{artifact.Denied, artifact.Conflict}, artifact.KindOf(err), "%v", err)
		}
		require.Len(t, won, 1, "round %d", round)
		m, err := w.GetManifest(t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Tag: parse(t, artifact.ParseTag, tag)})
		require.NoError(t, err)
		require.Equal(t, artifact.DigestOf(bodies[won[0]]), m.Digest)
	}
}
