package server_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

func TestCollectGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "admin", "POST", "/gc", "application/json", `{"dryRun":true}`)
	require.Equal(t, 200, got.status, string(got.body))
	require.Empty(t, w.changes())
	require.Contains(t, string(got.body), `"freedBytes":5`)
	require.Contains(t, string(got.body), `"dryRun":true`)
	got = call(t, s, "admin", "POST", "/gc", "application/json", `{}`)
	require.Equal(t, 200, got.status, string(got.body))
	require.Equal(t, []string{"collect"}, w.changes())
}

// TestCollectionTakesTime: the deadline for reading the request's body does not end what follows it.
func TestCollectionTakesTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slow = 5500 * time.Millisecond // huma's deadline is five seconds
	s, _ := w.start(t)
	require.Equal(t, 200, call(t, s, "admin", "POST", "/gc", "application/json", `{}`).status)
}

func TestCheckStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	events := func(body string) []server.CheckEvent {
		got := call(t, s, "admin", "POST", "/fsck", "application/json", body)
		require.Equal(t, 200, got.status, string(got.body))
		require.Equal(t, "application/x-ndjson", got.header.Get("Content-Type"))
		var all []server.CheckEvent
		for line := range bytes.Lines(got.body) {
			var e server.CheckEvent
			require.NoError(t, json.Unmarshal(line, &e), string(line))
			all = append(all, e)
		}
		return all
	}
	all := events(`{}`)
	require.Len(t, all, 3)
	require.EqualValues(t, 2, all[0].Progress.OfBlobs)
	require.Equal(t, w.waiting, all[1].Found.Digest)
	require.False(t, all[1].Found.Quarantined)
	require.False(t, all[2].Result.OK)
	require.True(t, events(`{"quarantine":true}`)[1].Found.Quarantined)

	w.problems = []string{"away"}
	all = events(`{}`)
	require.Contains(t, all[2].Problem.Detail, "does not answer")
	require.NotEmpty(t, all[2].Problem.RequestID)
	w.busy = true
	got := call(t, s, "admin", "POST", "/fsck", "application/json", `{}`)
	require.Equal(t, 409, got.status, "nothing was sent yet: the status says it")
	requireProblem(t, got)
}
