package artifact_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// TestFold compares with a naive model: a set of paths, to which each layer's whiteouts and then its entries are applied
// one by one.
func TestFold(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a/d", "e", "e/f"})
	kind := rapid.SampledFrom([]artifact.FileType{artifact.Regular, artifact.Dir, artifact.Whiteout, artifact.Opaque})
	rapid.Check(t, func(t *rapid.T) {
		var layers []artifact.LayerFacts
		model := map[string]artifact.FileType{}
		for range rapid.IntRange(1, 5).Draw(t, "layers") {
			files := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) artifact.File {
				return artifact.File{Path: name.Draw(t, "path"), Type: kind.Draw(t, "type"), Size: 1}
			}), 0, 6).Draw(t, "files")
			layers = append(layers, artifact.LayerFacts{Files: files})
			stack(model, files)
		}
		got := map[string]artifact.FileType{}
		folded := artifact.Fold(layers, artifact.ImageConfig{})
		for p, f := range folded.Files {
			got[p] = f.Type
		}
		if !maps.Equal(model, got) {
			t.Fatalf("want %v, got %v", model, got)
		}
		var wasted, hidden int64
		for _, l := range folded.Layers {
			wasted += l.Wasted
		}
		for _, h := range folded.Hidden {
			hidden += h.Size
			if h.HiddenBy <= h.Layer || h.Type == artifact.Dir {
				t.Fatalf("hidden by its own layer, or a folder: %+v", h)
			}
		}
		if wasted != hidden {
			t.Fatalf("wasted %d, hidden %d", wasted, hidden)
		}
	})
}

func stack(model map[string]artifact.FileType, files []artifact.File) {
	below := func(dir string) {
		for _, p := range slices.Collect(maps.Keys(model)) {
			if strings.HasPrefix(p, dir+"/") {
				delete(model, p)
			}
		}
	}
	for _, f := range files {
		switch f.Type {
		case artifact.Whiteout:
			delete(model, f.Path)
			below(f.Path)
		case artifact.Opaque:
			below(f.Path)
		}
	}
	for _, f := range files {
		if f.Type == artifact.Whiteout || f.Type == artifact.Opaque {
			continue
		}
		if f.Type != artifact.Dir {
			below(f.Path)
		}
		for i := range f.Path {
			if f.Path[i] == '/' && model[f.Path[:i]] == artifact.Regular {
				delete(model, f.Path[:i])
			}
		}
		model[f.Path] = f.Type
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	facts := artifact.Fold([]artifact.LayerFacts{{Files: []artifact.File{
		{Path: "etc/passwd", Type: artifact.Symlink, Target: "../usr/share/passwd"},
		{Path: "usr/share/passwd", Type: artifact.Regular},
		{Path: "lib", Type: artifact.Symlink, Target: "/usr/share"},
		{Path: "out", Type: artifact.Symlink, Target: "../../../../usr/share/passwd"},
		{Path: "loop", Type: artifact.Symlink, Target: "loop"},
		{Path: "hard", Type: artifact.Hardlink, Target: "usr/share/passwd"},
	}}}, artifact.ImageConfig{})
	for p, want := range map[string]string{"etc/passwd": "usr/share/passwd", "/etc/../etc/passwd": "usr/share/passwd", "lib/passwd": "usr/share/passwd",
		"out": "usr/share/passwd", "hard": "usr/share/passwd"} {
		got, ok := facts.Resolve(p)
		require.True(t, ok, p)
		require.Equal(t, want, got.Path, p)
	}
	for _, p := range []string{"loop", "nowhere", ""} {
		_, ok := facts.Resolve(p)
		require.False(t, ok, p)
	}
}
