package artifact_test

import (
	"fmt"
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
	kind := rapid.SampledFrom([]artifact.FileType{artifact.Regular, artifact.Dir, artifact.Dir, artifact.Symlink, artifact.Whiteout, artifact.Opaque})
	rapid.Check(t, func(t *rapid.T) {
		var layers []artifact.LayerFacts
		model, refused := map[string]artifact.FileType{}, false
		for n := range rapid.IntRange(1, 5).Draw(t, "layers") {
			files := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) artifact.File {
				return artifact.File{Path: name.Draw(t, "path"), Type: kind.Draw(t, "type"), Size: 1}
			}), 0, 6).Draw(t, "files")
			layers = append(layers, artifact.LayerFacts{Files: files})
			refused = refused || !stack(model, files, n > 0)
		}
		folded, err := artifact.Fold(layers, artifact.ImageConfig{})
		if refused != (err != nil) {
			t.Fatalf("want refused %v, got %v", refused, err)
		}
		if err != nil {
			return
		}
		got := map[string]artifact.FileType{}
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

// stack reports whether every runtime would unpack the layer alike; upper says that there are layers below it.
func stack(model map[string]artifact.FileType, files []artifact.File, upper bool) bool {
	below := func(dir string) {
		for _, p := range slices.Collect(maps.Keys(model)) {
			if strings.HasPrefix(p, dir+"/") {
				delete(model, p)
			}
		}
	}
	obstacle := func(p string) string {
		for i := range p {
			if kind := model[p[:i]]; p[i] == '/' && kind != "" && kind != artifact.Dir {
				return p[:i]
			}
		}
		return ""
	}
	emptied := map[string]bool{} // what a whiteout removes that had something below it
	for _, f := range files {
		if f.Type != artifact.Whiteout && f.Type != artifact.Opaque {
			continue
		}
		in := obstacle(f.Path)
		if kind := model[f.Path]; f.Type == artifact.Opaque && kind != "" && kind != artifact.Dir {
			in = f.Path
		}
		if in != "" {
			if !slices.ContainsFunc(files, func(d artifact.File) bool { return d.Path == in && d.Type == artifact.Dir }) {
				return false
			}
			continue
		}
		if f.Type == artifact.Whiteout {
			before := len(model)
			_, itself := model[f.Path]
			delete(model, f.Path)
			below(f.Path)
			if itself {
				before--
			}
			emptied[f.Path] = emptied[f.Path] || len(model) < before
		}
		below(f.Path)
	}
	here := map[string]artifact.FileType{}
	for _, f := range files {
		if f.Type == artifact.Whiteout || f.Type == artifact.Opaque {
			continue
		}
		if obstacle(f.Path) != "" || emptied[f.Path] && f.Type == artifact.Dir {
			return false
		}
		for i := range f.Path {
			if f.Path[i] == '/' && emptied[f.Path[:i]] {
				return false
			}
		}
		if was := here[f.Path]; upper && was != "" && was != artifact.Dir && f.Type == artifact.Dir {
			return false
		}
		if f.Type != artifact.Dir {
			below(f.Path)
		}
		model[f.Path], here[f.Path] = f.Type, f.Type
	}
	return true
}

// TestFoldAdversaries: images made so that what is looked at is not what a runtime unpacks.
func TestFoldAdversaries(t *testing.T) {
	t.Parallel()
	dir := func(p string) artifact.File { return artifact.File{Path: p, Type: artifact.Dir} }
	file := func(p string, marks ...artifact.Mark) artifact.File {
		return artifact.File{Path: p, Type: artifact.Regular, Size: 1, Marks: marks}
	}
	link := func(p, target string) artifact.File {
		return artifact.File{Path: p, Type: artifact.Hardlink, Target: target}
	}
	symlink := func(p, target string) artifact.File {
		return artifact.File{Path: p, Type: artifact.Symlink, Target: target}
	}
	gone := func(p string) artifact.File { return artifact.File{Path: p, Type: artifact.Whiteout} }
	device := func(p string) artifact.File { return artifact.File{Path: p, Type: artifact.Device} }
	layer := func(files ...artifact.File) artifact.LayerFacts { return artifact.LayerFacts{Files: files} }
	for what, c := range map[string]struct {
		layers []artifact.LayerFacts
		want   string // of the error
	}{
		"a daemon written through a link":        {[]artifact.LayerFacts{layer(dir("usr/sbin"), symlink("y", "usr/sbin"), file("y/sshd", artifact.MarkSSHD), file("y"))}, "symlink"},
		"the link removed by the next layer":     {[]artifact.LayerFacts{layer(dir("usr/sbin"), symlink("y", "usr/sbin"), file("y/sshd")), layer(gone("y"))}, "symlink"},
		"through the link of a lower layer":      {[]artifact.LayerFacts{layer(symlink("bin", "usr/bin")), layer(file("bin/x"))}, "symlink"},
		"a whiteout through a link":              {[]artifact.LayerFacts{layer(symlink("bin", "usr/bin"), file("usr/bin/x")), layer(gone("bin/x"))}, "symlink"},
		"below a file":                           {[]artifact.LayerFacts{layer(file("a")), layer(file("a/b"))}, "a file there"},
		"a link to nothing":                      {[]artifact.LayerFacts{layer(link("a", "b"))}, "hard link"},
		"a link to a lower layer's file":         {[]artifact.LayerFacts{layer(file("a", artifact.MarkSSHD)), layer(link("b", "a"), gone("a"))}, "hard link"},
		"a link to what comes later":             {[]artifact.LayerFacts{layer(link("b", "a"), file("a"))}, "hard link"},
		"a linked file written again":            {[]artifact.LayerFacts{layer(file("a"), link("b", "a"), file("a"))}, "written twice"},
		"a link written again":                   {[]artifact.LayerFacts{layer(file("a"), link("b", "a"), file("b"))}, "written twice"},
		"more layers than a runtime stacks":      {make([]artifact.LayerFacts, artifact.MaxLayers+1), "no runtime"},
		"a directory in place of a link is fine": {[]artifact.LayerFacts{layer(symlink("bin", "usr/bin")), layer(dir("bin"), file("bin/x"), gone("bin/y"))}, ""},
		// The kernel's overlay stacks what a runtime unpacked of each layer by itself; others unpack each on top of the last.
		"a file, then a directory":                    {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(file("usr/sbin"), dir("usr/sbin"))}, "again as a directory"},
		"a link, then a directory":                    {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(symlink("usr", "srv"), dir("usr"))}, "again as a directory"},
		"opaque, then a file, then a directory":       {[]artifact.LayerFacts{layer(file("etc/passwd")), layer(artifact.File{Path: "etc", Type: artifact.Opaque}, file("etc"), dir("etc"))}, "again as a directory"},
		"a whiteout below a file, then a directory":   {[]artifact.LayerFacts{layer(file("etc/passwd")), layer(gone("etc/passwd"), file("etc"), dir("etc"))}, "again as a directory"},
		"a whiteout and the directory":                {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(gone("usr/sbin"), dir("usr/sbin"))}, "removed and made again"},
		"a whiteout and what is below it":             {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(file("usr/sbin/x"), gone("usr"))}, "removed and made again"},
		"a device in place of a file":                 {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(device("usr/sbin/sshd"))}, "leave devices out"},
		"a device in place of a directory":            {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(device("usr"))}, "leave devices out"},
		"a device and a whiteout":                     {[]artifact.LayerFacts{layer(file("usr/sbin/sshd", artifact.MarkSSHD)), layer(gone("usr/sbin/sshd"), device("usr/sbin/sshd"))}, "leave devices out"},
		"the root made opaque":                        {[]artifact.LayerFacts{layer(file("etc/passwd")), layer(artifact.File{Path: ".", Type: artifact.Opaque})}, "the root itself opaque"},
		"a hard link to what a whiteout removes":      {[]artifact.LayerFacts{layer(file("a", artifact.MarkSSHD)), layer(gone("a"), link("b", "a"))}, "hard link"},
		"the root made opaque with nothing below":     {[]artifact.LayerFacts{layer(artifact.File{Path: ".", Type: artifact.Opaque}, file("a"))}, ""},
		"devices again are fine":                      {[]artifact.LayerFacts{layer(device("dev/null")), layer(device("dev/null"), device("dev/zero"))}, ""},
		"a whiteout and a file are fine":              {[]artifact.LayerFacts{layer(file("d/a")), layer(gone("d"), file("d"))}, ""},
		"an opaque directory made again is fine":      {[]artifact.LayerFacts{layer(file("d/a")), layer(dir("d"), artifact.File{Path: "d", Type: artifact.Opaque}, file("d/b"))}, ""},
		"an empty directory removed and made is fine": {[]artifact.LayerFacts{layer(dir("d")), layer(gone("d"), dir("d"), file("d/b"))}, ""},
		"a link to a link is fine":                    {[]artifact.LayerFacts{layer(symlink("a", "/x"), link("b", "a"))}, ""},
	} {
		_, err := artifact.Fold(c.layers, artifact.ImageConfig{})
		if c.want == "" {
			require.NoError(t, err, what)
		} else {
			require.ErrorContains(t, err, c.want, what)
		}
	}

	facts, err := artifact.Fold([]artifact.LayerFacts{
		{Files: []artifact.File{file("foo", artifact.MarkSSHD), link("svc", "foo"), file("users"), link("etc/passwd", "users")}, Contents: map[string]string{"users": "app:x:0:0"}},
		{Files: []artifact.File{file("foo"), gone("users")}},
	}, artifact.ImageConfig{})
	require.NoError(t, err)
	require.Equal(t, []artifact.Mark{artifact.MarkSSHD}, facts.Files["svc"].Marks, "a link keeps the bytes that its first name had")
	require.Equal(t, "app:x:0:0", facts.Contents["etc/passwd"])
	require.NotContains(t, facts.Contents, "users")

	var deep []artifact.File
	for i := range 10_000 {
		deep = append(deep, file(fmt.Sprintf("%d%s/f", i, strings.Repeat("/a", 120))))
	}
	_, err = artifact.Fold([]artifact.LayerFacts{{Files: deep}}, artifact.ImageConfig{})
	require.ErrorContains(t, err, "files and directories")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	facts, err := artifact.Fold([]artifact.LayerFacts{{Files: []artifact.File{
		{Path: "etc/passwd", Type: artifact.Symlink, Target: "../usr/share/passwd"},
		{Path: "usr/share/passwd", Type: artifact.Regular},
		{Path: "lib", Type: artifact.Symlink, Target: "/usr/share"},
		{Path: "out", Type: artifact.Symlink, Target: "../../../../usr/share/passwd"},
		{Path: "loop", Type: artifact.Symlink, Target: "loop"},
		{Path: "hard", Type: artifact.Hardlink, Target: "usr/share/passwd"},
	}}}, artifact.ImageConfig{})
	require.NoError(t, err)
	for p, want := range map[string]string{"etc/passwd": "usr/share/passwd", "/etc/../etc/passwd": "usr/share/passwd", "lib/passwd": "usr/share/passwd",
		"out": "usr/share/passwd", "hard": "hard"} {
		got, ok := facts.Resolve(p)
		require.True(t, ok, p)
		require.Equal(t, want, got.Path, p)
	}
	for _, p := range []string{"loop", "nowhere", ""} {
		_, ok := facts.Resolve(p)
		require.False(t, ok, p)
	}
}
