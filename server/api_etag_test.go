package server_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

// TestETags: what has not changed is not sent again, to one who may still see it.
func TestETags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.documents = []server.Document{{Kind: "Policy", Name: "baseline", Version: 1, Body: "kind: Policy"}}
	s, _ := w.start(t)
	ask := func(who, ifNoneMatch string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/documents", http.NoBody)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+who)
		request.Header.Set("If-None-Match", ifNoneMatch)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer
	}
	first := ask("admin", "")
	tag := first.Header.Get("ETag")
	require.Equal(t, http.StatusOK, first.StatusCode)
	require.NotEmpty(t, tag)
	require.Equal(t, "private, no-cache", first.Header.Get("Cache-Control"))
	for list, status := range map[string]int{tag: 304, "W/" + tag: 304, `"other", ` + tag: 304, "*": 304, `"other"`: 200, tag[:len(tag)-2] + `"`: 200} {
		again := ask("admin", list)
		require.Equal(t, status, again.StatusCode, list)
		require.Equal(t, tag, again.Header.Get("ETag"))
		require.LessOrEqual(t, again.ContentLength, first.ContentLength)
	}
	refused := ask("deployer", tag)
	require.Equal(t, http.StatusForbidden, refused.StatusCode, "who may not see it is not told that it is the same")
	require.Empty(t, refused.Header.Get("ETag"))

	w.documents[0].Version = 2
	require.Equal(t, http.StatusOK, ask("admin", tag).StatusCode)
}
