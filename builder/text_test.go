package builder

import (
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// TestText: steps are told once when they begin and once when they end, with whole lines of output between.
func TestText(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ended, a, b := begun.Add(1200*time.Millisecond), digest.FromString("a"), digest.FromString("b")
	events := []Event{
		{Log: "plan"},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "[1/2] RUN make"}, {Digest: b, Name: "[2/2] COPY . /", Started: &begun, Completed: &begun, Cached: true}}}},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "[1/2] RUN make", Started: &begun}}, Logs: []*client.VertexLog{{Vertex: a, Data: []byte("one\ntw")}}}},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "[1/2] RUN make", Started: &begun}}, Logs: []*client.VertexLog{{Vertex: a, Data: []byte("o\r\n 10 %\r 90 %\nlast")}}}},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "[1/2] RUN make", Started: &begun, Completed: &ended}}}},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "[1/2] RUN make", Started: &begun, Completed: &ended}}}},
		{Status: &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: digest.FromString("c"), Name: "RUN false", Started: &begun, Completed: &ended, Error: "exit code 1"}}}},
	}
	var text Text
	var lines []string
	for _, e := range events {
		lines = append(lines, text.Lines(e)...)
	}
	require.Equal(t, []string{"plan", "→ [2/2] COPY . /", "✓ [2/2] COPY . / (from the cache)", "→ [1/2] RUN make", "  one", "  two", "   90 %", "  last", "✓ [1/2] RUN make (1.2s)",
		"→ RUN false", "✕ RUN false: exit code 1"}, lines)
}
