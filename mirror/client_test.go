package mirror

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStalls: who begins to answer and then sends nothing holds nobody.
func TestStalls(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	client := http.Client{Transport: &careful{base: http.DefaultTransport, scheme: "http", host: s.Listener.Addr().String(), insecure: true, stall: 50 * time.Millisecond}}
	resp, err := client.Get(s.URL)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, errStalled)
	require.Equal(t, "half", string(got))
	require.NoError(t, resp.Body.Close())
}

func TestRemotes(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{
		"https://registry-1.docker.io": true, "https://registry.example:5000/": true, "https://[::1]:5000": true,
		"": false, "registry.example": false, "ftp://registry.example": false, "https://": false, "https://a/team": false, "https://a?b": false,
		"https://u:p@a": false, "http://a": false, "https://a b": false,
	} {
		require.Equal(t, good, Remote{URL: address}.Check() == nil, "%q: %v", address, Remote{URL: address}.Check())
	}
	require.NoError(t, Remote{URL: "http://a", Insecure: true}.Check())
}
