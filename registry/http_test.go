package registry_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestRefusalsOverHTTP: a method that is not offered says which are, and a range that there is not is refused as all else is.
func TestRefusalsOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := overHTTP(t, w.Registry)
	image := w.mustPut("v1", w.manifest(good))
	m, err := w.GetManifest(t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Digest: image.Digest})
	require.NoError(t, err)
	config := m.Manifest.Config
	do := func(method, path string, header ...string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, h.URL+path, nil)
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := h.Client().Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res, string(body)
	}
	told := func(body string) (code, message string) {
		var all struct {
			Errors []struct{ Code, Message string }
		}
		require.NoError(t, json.Unmarshal([]byte(body), &all), body)
		require.Len(t, all.Errors, 1)
		return all.Errors[0].Code, all.Errors[0].Message
	}

	blob := "/v2/shop/returns/blobs/" + config.Digest.String()
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/v2/", "GET, HEAD"},
		{"PUT", "/v2/_catalog", "GET, HEAD"},
		{"POST", "/v2/shop/returns/tags/list", "GET, HEAD"},
		{"PATCH", "/v2/shop/returns/manifests/v1", "DELETE, GET, HEAD, PUT"},
		{"OPTIONS", "/v2/shop/returns/manifests/v1", "DELETE, GET, HEAD, PUT"},
		{"BREW", blob, "DELETE, GET, HEAD"},
		{"GET", "/v2/shop/returns/blobs/uploads/", "POST"},
		{"DELETE", blob, "GET, HEAD"}, // a manifest needs it
	} {
		res, body := do(c.method, c.path)
		require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, "%s %s: %s", c.method, c.path, body)
		require.Equal(t, c.allow, res.Header.Get("Allow"), "%s %s", c.method, c.path)
		code, _ := told(body)
		require.Equal(t, "UNSUPPORTED", code)
	}
	res, body := do("DELETE", "/healthz")
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, body)
	require.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
	require.Contains(t, body, `"status":405`)
	res, _ = do("PUT", "/token")
	require.Equal(t, "GET, HEAD, POST", res.Header.Get("Allow"))

	for _, bad := range []string{"bytes=9999-", "bytes=x", "bytes=5-2"} {
		res, body = do("GET", blob, "Range", bad)
		require.Equal(t, http.StatusRequestedRangeNotSatisfiable, res.StatusCode, bad)
		require.Equal(t, "application/json; charset=utf-8", res.Header.Get("Content-Type"))
		code, message := told(body)
		require.Equal(t, "RANGE_INVALID", code)
		require.Contains(t, message, bad)
	}
	res, body = do("GET", blob, "Range", "bytes=9999-")
	require.True(t, strings.HasPrefix(res.Header.Get("Content-Range"), "bytes */"), "%v %s", res.Header, body)
	res, body = do("GET", blob, "Range", "bytes=0-0")
	require.Equal(t, http.StatusPartialContent, res.StatusCode)
	require.Equal(t, "{", body)
	whole, body := do("GET", blob)
	require.Equal(t, http.StatusOK, whole.StatusCode)
	require.Equal(t, config.Digest, artifact.DigestOf([]byte(body)))
}
