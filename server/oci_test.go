package server

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestParseOCIPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]struct {
		resource   resource
		repository string
		last       string
	}{
		"/":                             {resourceBase, "", ""},
		"/_catalog":                     {resourceCatalog, "", ""},
		"/a/tags/list":                  {resourceTags, "a", ""},
		"/a/b/manifests/v1":             {resourceManifest, "a/b", "v1"},
		"/manifests/manifests/v1":       {resourceManifest, "manifests", "v1"},
		"/a/blobs/uploads/":             {resourceUploads, "a", ""},
		"/a/blobs/uploads":              {resourceUploads, "a", ""},
		"/a/blobs/uploads/id":           {resourceUpload, "a", "id"},
		"/a/blobs/sha256:x":             {resourceBlob, "a", "sha256:x"},
		"/a/referrers/sha256:x":         {resourceReferrers, "a", "sha256:x"},
		"/blobs/uploads/blobs/uploads/": {resourceUploads, "blobs/uploads", ""},
	} {
		got, err := parseOCIPath(path)
		require.NoError(t, err, path)
		require.Equal(t, want.resource, got.resource, path)
		require.Equal(t, want.repository, got.repository.String(), path)
		require.Equal(t, want.last, got.last, path)
	}
	for _, path := range []string{"/a", "/A/tags/list", "/a/../b/tags/list", "/manifests/v1", "/a/b/c"} {
		_, err := parseOCIPath(path)
		require.Error(t, err, path)
		require.NotEmpty(t, artifact.KindOf(err), path)
	}
}

func TestParseContentRange(t *testing.T) {
	t.Parallel()
	for header, want := range map[string][2]int64{"0-0": {0, 0}, "5-9": {5, 9}, "bytes 5-9/10": {5, 9}} {
		got, err := parseContentRange(header)
		require.NoError(t, err, header)
		require.Equal(t, want, [2]int64{got.First, got.Last}, header)
	}
	got, err := parseContentRange("")
	require.NoError(t, err)
	require.Nil(t, got)
	for _, header := range []string{"-", "5", "9-5", "a-b", "-1-5", "0-99999999999999999999", "1-2-3"} {
		_, err := parseContentRange(header)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), header)
	}
}

func FuzzParseOCIPath(f *testing.F) {
	f.Add("/a/b/manifests/v1")
	f.Add("/../../etc/passwd")
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parseOCIPath(path)
		if err == nil && !got.repository.IsZero() {
			if _, err := artifact.ParseRepository(got.repository.String()); err != nil {
				t.Fatalf("%q names the repository %q", path, got.repository)
			}
		}
	})
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("0-1023")
	f.Fuzz(func(t *testing.T, header string) {
		if r, err := parseContentRange(header); err == nil && r != nil && (r.First < 0 || r.Last < r.First) {
			t.Fatalf("%q is %d to %d", header, r.First, r.Last)
		}
	})
}
