package storage_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
	"waybill/storage"
)

func parsed[T any](t require.TestingT, parse func(string) (T, error), s string) T {
	v, err := parse(s)
	require.NoError(t, err)
	return v
}

func TestParse(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/documents.yaml")
	require.NoError(t, err)
	var cases []struct{ Name, Source, Error string }
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			all, err := storage.Parse("r.yaml", []byte(c.Source))
			if c.Error == "" {
				require.NoError(t, err)
				require.Len(t, all, 1)
				return
			}
			require.ErrorContains(t, err, c.Error)
			require.Regexp(t, `^r\.yaml:\d+:\d+: `, err.Error())
			require.Equal(t, artifact.Invalid, artifact.KindOf(err))
		})
	}
	t.Run("what it means", func(t *testing.T) {
		t.Parallel()
		all, err := storage.Parse("r.yaml", []byte(cases[0].Source))
		require.NoError(t, err)
		d := all[0]
		require.Equal(t, "shop", d.Name())
		require.Equal(t, []string{"latest", "*-dev"}, d.MutableTags)
		require.EqualValues(t, 20<<30, d.Quota)
		require.Equal(t, storage.Retention{KeepLast: 10, KeepPulledWithin: 720 * time.Hour, Tags: []string{"*"}, Untagged: 168 * time.Hour}, *d.Retention)
		again, err := storage.Parse("other.yaml", []byte(strings.ReplaceAll(cases[0].Source, "720h", `"43200m"`)))
		require.NoError(t, err)
		require.Equal(t, d.Hash(), again[0].Hash(), "another spelling of the same")
		other, err := storage.Parse("other.yaml", []byte(strings.ReplaceAll(cases[0].Source, "20Gi", "21Gi")))
		require.NoError(t, err)
		require.NotEqual(t, d.Hash(), other[0].Hash())
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: waybill/v1\nkind: Repositories\nmetadata: {name: a}\nspec: {match: {repositories: ['**']}, quota: 1Gi, retention: {keepLast: 1}}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		all, err := storage.Parse("r.yaml", src)
		if err != nil && artifact.KindOf(err) == "" {
			t.Fatalf("an error without a kind: %v", err)
		}
		for _, d := range all {
			if d.Hash().IsZero() || d.Quota < 0 || d.MutableTags == nil && d.Quota == 0 && d.Retention == nil {
				t.Fatalf("%+v", d)
			}
		}
	})
}

func document(t require.TestingT, name string, repositories ...string) storage.Document {
	all, err := storage.Parse("r.yaml", []byte("apiVersion: waybill/v1\nkind: Repositories\nmetadata: {name: "+name+"}\nspec: {match: {repositories: [\""+strings.Join(repositories, `", "`)+"\"], except: [shop/lab]}, quota: 1Gi}\n"))
	require.NoError(t, err)
	return all[0]
}

func TestTheLongestPatternDecides(t *testing.T) {
	t.Parallel()
	var all []storage.Versioned
	for _, d := range []storage.Document{document(t, "all", "**"), document(t, "shop", "shop/**", "store/*"), document(t, "returns", "shop/returns")} {
		all = append(all, storage.Versioned{Document: d, Version: 1})
	}
	for repository, want := range map[string]string{"shop/returns": "returns", "shop/cart": "shop", "shop/a/b": "shop", "store/x": "shop", "store/x/y": "all", "base": "all", "shop/lab": ""} {
		d, ok := storage.For(all, parsed(t, artifact.ParseRepository, repository))
		require.Equal(t, want, d.Name(), repository)
		require.Equal(t, want != "", ok, repository)
	}
}

func TestTiesDoNotFit(t *testing.T) {
	t.Parallel()
	require.NoError(t, storage.Fit([]storage.Document{document(t, "all", "**"), document(t, "shop", "shop/**"), document(t, "other", "base/**"), document(t, "same", "s*op/*/x")}))
	for _, tie := range [][2]string{{"shop/**", "shop/**"}, {"shop/r*", "shop/*s"}, {"a/**/b", "a/c/**"}, {"a[b-d]", "a[c-e]"}, {"**/x", "x/**"}, {"a?c", "abc"}} {
		err := storage.Fit([]storage.Document{document(t, "one", "q/w/e/r/t/y", tie[0]), document(t, "two", tie[1])})
		require.ErrorContains(t, err, "one and two are for the same repositories alike, by the patterns "+tie[0]+" and "+tie[1], tie)
		require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	}
}

// TestTiesAreFound: where two patterns of one length match one repository, Fit says so.
func TestTiesAreFound(t *testing.T) {
	t.Parallel()
	component := rapid.StringMatching(`[ab]{1,3}`)
	// patternOf writes parts of a name as patterns of the same length.
	patternOf := func(t *rapid.T, name []string) string {
		parts := make([]string, len(name))
		for i, part := range name {
			wild := []byte(part)
			for j := range wild {
				wild[j] = rapid.SampledFrom([]byte{part[j], part[j], '?', '*'}).Draw(t, "character")
				if j > 0 && wild[j] == '*' && wild[j-1] == '*' {
					wild[j] = '?' // a ** stands for many parts, or none
				}
			}
			parts[i] = string(wild)
		}
		return strings.Join(parts, "/")
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SliceOfN(component, 1, 4).Draw(t, "name")
		p, q, r := patternOf(t, name), patternOf(t, name), strings.Join(name, "/")
		require.True(t, artifact.MatchGlob(p, r) && artifact.MatchGlob(q, r))
		require.Error(t, storage.Fit([]storage.Document{document(t, "one", p), document(t, "two", q)}), "%s and %s match %s", p, q, r)
	})
}
