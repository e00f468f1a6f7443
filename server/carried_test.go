package server

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCarried: of more answers at once than there are hands to carry them, whose readers all make them wait, each comes whole; and
// when nobody reads any more all hands are free.
func TestCarried(t *testing.T) {
	content := make([]byte, 12<<20) // more than sockets hold
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	path := filepath.Join(t.TempDir(), "blob")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	s := httptest.NewServer(Limits{}.orDefaults().bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := os.Open(path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer file.Close()
		http.ServeContent(w, r, "", time.Time{}, file)
	})))
	t.Cleanup(s.Close)
	var answers []*http.Response
	for range cap(hands) + 4 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
		require.NoError(t, err)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		answers = append(answers, answer)
	}
	require.Eventually(t, func() bool { return len(hands) == cap(hands) }, 10*time.Second, time.Millisecond, "every hand carries, and the rest goes by sendfile")
	for _, answer := range answers {
		got, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	}
	require.Eventually(t, func() bool { return len(hands) == 0 }, 10*time.Second, time.Millisecond)
}
