package artifact_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// TestContinue: layers on a frozen folding come to what they come to when all are folded, however many go on from it, and
// leave it as it was.
func TestContinue(t *testing.T) {
	t.Parallel()
	paths := rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "d", "d/e", "etc/passwd", "f"})
	kinds := rapid.SampledFrom([]artifact.FileType{artifact.Regular, artifact.Regular, artifact.Dir, artifact.Symlink, artifact.Whiteout, artifact.Opaque})
	layer := rapid.Custom(func(t *rapid.T) artifact.LayerFacts {
		l := artifact.LayerFacts{Contents: map[string]string{}}
		for range rapid.IntRange(0, 5).Draw(t, "files") {
			f := artifact.File{Path: paths.Draw(t, "path"), Type: kinds.Draw(t, "type"), Size: int64(rapid.IntRange(0, 9).Draw(t, "size"))}
			l.Files = append(l.Files, f)
			l.Contents[f.Path] = fmt.Sprint(rapid.Int().Draw(t, "content"))
		}
		l.Packages = []artifact.Package{{Name: "p", File: paths.Draw(t, "database")}}
		return l
	})
	layers := rapid.SliceOfN(layer, 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		var one, two artifact.ImageConfig
		one.History = []artifact.History{{CreatedBy: "FROM one"}}
		two.History = []artifact.History{{CreatedBy: "FROM two"}, {CreatedBy: "RUN two"}}
		bottom := layers.Draw(t, "bottom")
		base := artifact.NewFolding(one)
		for _, l := range bottom {
			if base.Add(l) != nil {
				return
			}
		}
		base.Freeze()
		for i, config := range []artifact.ImageConfig{one, two, one} {
			top := layers.Draw(t, "top")
			want, wantErr := artifact.Fold(append(append([]artifact.LayerFacts{}, bottom...), top...), config)
			next := base.Continue(config)
			var err error
			for _, l := range top {
				if err = next.Add(l); err != nil {
					break
				}
			}
			require.Equal(t, wantErr, err, i)
			if err != nil {
				continue
			}
			got := next.Facts()
			require.Equal(t, want.Layers, got.Layers, i)
			require.Equal(t, want.Files, got.Files, i)
			require.ElementsMatch(t, want.Hidden, got.Hidden, i)
			require.Equal(t, want.Contents, got.Contents, i)
			require.Equal(t, want.Packages, got.Packages, i)
		}
	})
}

func TestGlobCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, narrower string
		want              bool
	}{
		{"**", "**", true}, {"**", "shop/**", true}, {"shop/**", "**", false}, {"shop/**", "shop/returns", true}, {"shop/**", "shop", true},
		{"shop/*", "shop/**", false}, {"shop/*", "shop/*", true}, {"shop/*", "shop/r*", true}, {"shop/r*", "shop/r*", true}, {"shop/r*", "shop/*", false},
		{"shop/r*", "shop/returns", true}, {"*/returns", "shop/returns", true}, {"shop/**/x", "shop/**", false}, {"shop/**/x", "shop/a/**/x", true},
		{"shop/r?", "shop/r*", false}, {"a", "b", false}, {"a/b", "a", false}, {"**/**", "a/b/c", true}, {"[ab]", "a", true}, {"[ab]", "[ab]", true}, {"[ab]", "[a]", false},
	} {
		require.Equal(t, c.want, artifact.GlobCovers(c.pattern, c.narrower), "%s covers %s", c.pattern, c.narrower)
	}
	// Whatever the narrower one matches, so does the other.
	part := rapid.SampledFrom([]string{"a", "b", "ab", "*", "**", "a*", "?", "[ab]"})
	name := rapid.SampledFrom([]string{"a", "b", "ab", "ba"})
	join := func(t *rapid.T, parts *rapid.Generator[string], label string) string {
		s := parts.Draw(t, label)
		for range rapid.IntRange(0, 3).Draw(t, label+" more") {
			s += "/" + parts.Draw(t, label)
		}
		return s
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern, narrower, repository := join(t, part, "pattern"), join(t, part, "narrower"), join(t, name, "name")
		if artifact.GlobCovers(pattern, narrower) && artifact.MatchGlob(narrower, repository) {
			require.True(t, artifact.MatchGlob(pattern, repository), "%s, %s, %s", pattern, narrower, repository)
		}
	})
}
