package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// TestHostile: each bad input gets a clear error, and the server goes on.
func TestHostile(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	well := configured(t, "1000", files(t, map[string]string{"app": "v1"}))

	for what, c := range map[string]struct {
		layer []byte
		want  string
	}{
		"truncated gzip":    {truncated(gzipped(tarOf(t, "a", strings.Repeat("x", 1<<16)))), "cannot be inspected"},
		"not an archive":    {gzipped([]byte(strings.Repeat("no tar", 1000))), "cannot be inspected"},
		"climbs out":        {gzipped(tarOf(t, "../../etc/passwd", "x")), ".."},
		"absolute":          {gzipped(tarOf(t, "/etc/passwd", "x")), "absolute"},
		"bomb":              {bomb(t, 8<<30), "cannot be inspected"},
		"bytes that follow": {append(gzipped(tarOf(t, "a", "x")), "trailing"...), "cannot be inspected"},
	} {
		err := s.push(pusher, "shop/hostile:v1", configured(t, "1000", static.NewLayer(c.layer, types.OCILayer)))
		require.ErrorContains(t, err, c.want, what)
		require.NoError(t, s.push(pusher, "shop/well:latest", well), "after %s", what)
	}

	// What the manifest says of itself does not count.
	_, err := configured(t, "1000", lyingLayer{static.NewLayer(gzipped(tarOf(t, "a", "x")), types.OCILayer)}).Digest()
	require.NoError(t, err)

	put := func(path, contentType string, body []byte) (int, string) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, s.url+path, bytes.NewReader(body))
		require.NoError(t, err)
		req.SetBasicAuth("x", pusher)
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	manifest := "application/vnd.oci.image.manifest.v1+json"
	zero := "sha256:" + strings.Repeat("0", 64)
	for what, c := range map[string]struct {
		ref, contentType, body string
		status                 int
		code                   string
	}{
		"no JSON":         {"v1", manifest, "{", 400, "MANIFEST_INVALID"},
		"another schema":  {"v1", manifest, `{"schemaVersion":1}`, 400, "MANIFEST_INVALID"},
		"unknown type":    {"v1", "application/x", `{"schemaVersion":2}`, 400, "MANIFEST_INVALID"},
		"missing blobs":   {"v1", manifest, `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + zero + `","size":2},"layers":[]}`, 404, "MANIFEST_BLOB_UNKNOWN"},
		"another digest":  {zero, manifest, `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + zero + `","size":2},"layers":[]}`, 400, "DIGEST_INVALID"},
		"five mebibytes":  {"v1", manifest, strings.Repeat(" ", 5<<20), 413, "SIZE_INVALID"},
		"a bad reference": {"-v1", manifest, `{}`, 400, "TAG_INVALID"},
		"deeply nested":   {"v1", manifest, strings.Repeat("[", 1<<20), 400, "MANIFEST_INVALID"},
	} {
		status, body := put("/v2/shop/hostile/manifests/"+c.ref, c.contentType, []byte(c.body))
		require.Equal(t, c.status, status, "%s: %s", what, body)
		require.Contains(t, body, c.code, what)
	}
	status, body := put("/v2/shop/Hostile/manifests/v1", manifest, []byte("{}"))
	require.Equal(t, 400, status, body)
	require.Contains(t, body, "NAME_INVALID")

	// A blob whose bytes are others than its digest says is not kept.
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url+"/v2/shop/hostile/blobs/uploads/?digest="+zero, strings.NewReader("bytes"))
	require.NoError(t, err)
	req.SetBasicAuth("x", pusher)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 400, resp.StatusCode)
	status, _ = s.get(pusher, "/v2/shop/hostile/blobs/"+zero)
	require.Equal(t, 404, status)

	for what, token := range map[string]string{"none": "", "wrong": "wbt_wrong", "changed": pusher[:len(pusher)-1] + "x"} {
		status, body := s.get(token, "/v2/shop/well/manifests/latest")
		require.Equal(t, 401, status, "%s: %s", what, body)
		status, _ = s.get(token, "/api/v1/status")
		require.Equal(t, 401, status, what)
	}
	require.NoError(t, s.push(pusher, "shop/well:latest", well))
	require.NotContains(t, s.log.String(), pusher, "no token in the log")
	require.NotContains(t, s.log.String(), "panic")
}

// lyingLayer says that it is of another diff id.
type lyingLayer struct{ v1.Layer }

func (lyingLayer) DiffID() (v1.Hash, error) {
	return v1.NewHash("sha256:" + hex.EncodeToString(sha256.New().Sum(nil)))
}

// TestLyingConfig: a config whose diff ids are others than its layers' is denied.
func TestLyingConfig(t *testing.T) {
	t.Parallel()
	s := serve(t)
	img := configured(t, "1000", lyingLayer{static.NewLayer(gzipped(tarOf(t, "a", "x")), types.OCILayer)})
	require.ErrorContains(t, s.push(s.token("--role", "pusher"), "shop/lies:v1", img), "diff")
}

func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

func truncated(b []byte) []byte { return b[:len(b)-20] }

// bomb is a small gzip of a large file of zeros.
func bomb(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	require.NoError(t, err)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size, Typeflag: tar.TypeReg}))
	_, err = io.CopyN(w, zeros{}, size)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	require.Less(t, b.Len(), int(size/100), fmt.Sprint(b.Len()))
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
