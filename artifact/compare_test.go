package artifact

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCompare: each kind of difference, both ways; and nothing is said of what is not known.
func TestCompare(t *testing.T) {
	t.Parallel()
	layer := func(text string, size int64) Descriptor {
		return Descriptor{Digest: DigestOf([]byte(text)), Size: size}
	}
	config := func(user string, env []string, labels map[string]string) *ImageConfig {
		c := &ImageConfig{OS: "linux", Architecture: "amd64"}
		c.Config.User, c.Config.Env, c.Config.Labels = user, env, labels
		return c
	}
	file := func(size int64, mode uint32) VisibleFile {
		return VisibleFile{File: File{Type: Regular, Size: size, Mode: mode}}
	}
	a := Compared{Layers: []Descriptor{layer("base", 100), layer("old", 50)},
		Scan: Scan{State: Scanned, Packages: []Package{{Name: "openssl", Version: "3.0.1", Type: "deb"}, {Name: "perl", Version: "5", Type: "deb"}},
			Findings: []Finding{{ID: "CVE-1", Package: "openssl", Class: ClassVulnerability}, {ID: "CVE-2", Package: "perl", Class: ClassVulnerability}, {ID: "GPL-2", Class: ClassLicense}}},
		Config: config("0", []string{"SECRET=one"}, map[string]string{"team": "shop"}),
		Facts:  &ImageFacts{Files: map[string]VisibleFile{"etc": {File: File{Type: Dir}}, "app": file(10, 0o755), "gone": file(7, 0o644)}}}
	b := Compared{Layers: []Descriptor{layer("base", 100), layer("new", 20)},
		Scan: Scan{State: Scanned, Packages: []Package{{Name: "openssl", Version: "3.0.2", Type: "deb"}, {Name: "curl", Version: "8", Type: "deb"}},
			Findings: []Finding{{ID: "CVE-1", Package: "openssl", Installed: "3.0.2", Class: ClassVulnerability}, {ID: "CVE-3", Package: "curl", Class: ClassVulnerability}, {ID: "CVE-3", Package: "curl", Class: ClassVulnerability}}},
		Config: config("65532", []string{"SECRET=two"}, nil),
		Facts:  &ImageFacts{Files: map[string]VisibleFile{"app": file(30, 0o755), "more": file(5, 0o644), "var": {File: File{Type: Dir}}}}}

	d := Compare(a, b)
	require.Equal(t, 1, d.Shared)
	require.Equal(t, int64(-30), d.SizeChange)
	require.Equal(t, []Package{{Name: "curl", Version: "8", Type: "deb"}}, d.Added)
	require.Equal(t, []Package{{Name: "perl", Version: "5", Type: "deb"}}, d.Removed)
	require.Equal(t, []PackageChange{{"openssl", "deb", "3.0.1", "3.0.2"}}, d.Changed)
	require.Len(t, d.Introduced, 1)
	require.Equal(t, "CVE-3", d.Introduced[0].ID)
	require.Len(t, d.Fixed, 1, "CVE-1 is there still, and a license is no finding")
	require.Equal(t, "CVE-2", d.Fixed[0].ID)
	require.Equal(t, []ConfigChange{{"User", "0", "65532"}, {"Label team", "shop", ""}}, d.Config, "values of variables are not told")
	require.Equal(t, []FileChange{{"app", "changed", 20}, {"gone", "removed", -7}, {"more", "added", 5}}, d.Files)
	require.Equal(t, [3]int{1, 1, 1}, [3]int{d.FilesAdded, d.FilesRemoved, d.FilesChanged})
	require.False(t, d.Same)
	require.True(t, Compare(a, a).Same)

	for state, scanned := range map[ScanState]bool{Scanned: true, ScanPending: false, ScanFailed: false} {
		unknown := b
		unknown.Scan = Scan{State: state}
		d := Compare(a, unknown)
		require.Equal(t, scanned, d.Scanned)
		require.Equal(t, scanned, len(d.Fixed) > 0, "what was not scanned fixed nothing")
		require.Equal(t, scanned, len(d.Removed) > 0)
	}
	b.Facts, b.Config = nil, nil
	d = Compare(a, b)
	require.False(t, d.Stacked)
	require.Empty(t, d.Files)
	require.Empty(t, d.Config)
}

// TestCounterparts: an image is compared with one of its own platform.
func TestCounterparts(t *testing.T) {
	t.Parallel()
	named := func(platform string) Digest { return DigestOf([]byte(platform)) }
	index := func(name string, platforms ...string) StoredManifest {
		s := StoredManifest{Digest: named(name), Manifest: Manifest{MediaType: MediaTypeIndex}}
		for _, p := range platforms {
			d := Descriptor{Digest: named(name + p)}
			if p != "" {
				d.Platform = &Platform{OS: "linux", Architecture: p}
			}
			if p == "unknown" {
				d.Platform.OS = p
			}
			s.Manifest.Manifests = append(s.Manifest.Manifests, d)
		}
		return s
	}
	image := StoredManifest{Digest: named("image"), Platform: "linux/arm64", Manifest: Manifest{MediaType: MediaTypeManifest}}
	for name, c := range map[string]struct {
		a, b StoredManifest
		x, y string
	}{
		"in another order":           {index("a", "amd64", "arm64"), index("b", "arm64", "amd64"), "aamd64", "bamd64"},
		"only the second in common":  {index("a", "s390x", "arm64"), index("b", "arm64"), "aarm64", "barm64"},
		"an image and an index":      {image, index("b", "amd64", "arm64"), "image", "barm64"},
		"an index and an image":      {index("a", "amd64", "arm64"), image, "aarm64", "image"},
		"none in common":             {index("a", "amd64"), index("b", "arm64"), "aamd64", "barm64"},
		"attestations are no images": {index("a", "unknown", "amd64"), index("b", "unknown", "amd64"), "aamd64", "bamd64"},
		"nothing said":               {index("a", "", "amd64"), index("b", ""), "a", "b"},
		"an empty index":             {index("a"), image, "a", "image"},
		"images":                     {image, image, "image", "image"},
	} {
		x, y := Counterparts(c.a, c.b)
		require.Equal(t, named(c.x), x, name)
		require.Equal(t, named(c.y), y, name)
	}
}
