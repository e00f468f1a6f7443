package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

func TestParseLife(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute} {
		got, err := parseLife(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "0d", "-1d", "-5h", "0s", "1.5d", "d", "99999999999d", "soon"} {
		_, err := parseLife(s)
		require.Equal(t, 2, exitCode(failure{err}), s)
	}
}

func TestCleanURL(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"http://127.0.0.1:8080/": "http://127.0.0.1:8080", "localhost:8080": "http://localhost:8080", "127.0.0.1:1": "http://127.0.0.1:1",
		"waybill.example.org": "https://waybill.example.org", "https://example.org/waybill/": "https://example.org/waybill",
	} {
		got, err := cleanURL(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got)
	}
	for _, s := range []string{"", "ftp://x", "http://", "http://user:hunter2@x", "http://x?token=y", "://"} {
		_, err := cleanURL(s)
		require.Error(t, err, s)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestWordsForPeople(t *testing.T) {
	t.Parallel()
	require.Equal(t, "512 B", bytesOf(512))
	require.Equal(t, "1.5 KiB", bytesOf(1536))
	require.Equal(t, "2.0 GiB", bytesOf(2<<30))
	require.Equal(t, "0s", ageOf(-time.Hour))
	require.Equal(t, "47h", ageOf(47*time.Hour))
	require.Equal(t, "3d", ageOf(80*time.Hour))
	require.Equal(t, "no vulnerabilities", countsOf(nil))
	require.Equal(t, "a\ufffd[2Jb\ufffd\n", printable("a\x1b[2Jb\u202e\n"))
	require.Equal(t, "ab…", clip("ab\ncd", 3))
}

func TestDockerfileIn(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "ci"), 0o700))
	for _, f := range []string{filepath.Join(dir, "ci", "Dockerfile"), filepath.Join(outside, "Dockerfile")} {
		require.NoError(t, os.WriteFile(f, nil, 0o600))
	}
	for file, want := range map[string]string{"": "", "ci/Dockerfile": "ci/Dockerfile", filepath.Join(dir, "ci", "Dockerfile"): "ci/Dockerfile"} {
		got, err := dockerfileIn(dir, file)
		require.NoError(t, err, file)
		require.Equal(t, want, got)
	}
	for _, file := range []string{"none", "ci", filepath.Join(outside, "Dockerfile"), "../" + filepath.Base(outside) + "/Dockerfile"} {
		_, err := dockerfileIn(dir, file)
		require.Error(t, err, file)
	}
}

func TestProgressIsSilentWithoutATerminal(t *testing.T) {
	t.Parallel()
	var told bytes.Buffer
	p := newProgress(bytes.NewReader(make([]byte, 4096)), &told, "Importing", 4096)
	_, err := p.Read(make([]byte, 4096))
	require.NoError(t, err)
	p.done()
	require.Empty(t, told.String())
}

// TestRefusedAsJSON: who asked for JSON gets a refusal in it, and the exit status and the text as anybody does.
func TestRefusedAsJSON(t *testing.T) {
	fakeServer(t, map[string]any{})
	out, errs, code := run(t, "", "promote", "returns", "v1", "production", "--output", "json")
	require.Equal(t, 1, code)
	var p server.Problem
	require.NoError(t, json.Unmarshal([]byte(out), &p), out)
	require.GreaterOrEqual(t, p.Status, 400)
	require.NotEmpty(t, p.Detail)
	require.Contains(t, errs, p.Detail)
}

func TestReferenceWithHost(t *testing.T) {
	t.Parallel()
	c := &client{base: "http://127.0.0.1:8080"}
	for ref, want := range map[string]string{
		"shop/x:v1":                      "shop/x:v1",
		"127.0.0.1:8080/shop/x:v1":       "shop/x:v1",
		"x:v1":                           "x:v1",
		"mirror/docker.io/library/a:1":   "mirror/docker.io/library/a:1",
		"registry.example/shop/x:v1":     "registry.example/shop/x:v1", // a name that a repository may have
		"registry.example:443/shop/x:v1": "",
	} {
		got, err := c.local(ref)
		if want == "" {
			require.ErrorContains(t, err, "leave the host out, or set WAYBILL_URL")
			require.Equal(t, 2, exitCode(err))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}
