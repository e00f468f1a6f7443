package artifact_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// The patterns of distribution-spec 1.1, section "Pulling manifests".
var (
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// FuzzNames: names are checked by hand for speed, and come to what the specification's patterns come to.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "a/b", "a//b", "/a", "a/", "a.b", "a..b", "a__b", "a___b", "a-_b", "a---b", "-a", "a-", "a/-b", "a-/b", "A", "a\n", "é", "_", ".a", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := artifact.ParseRepository(s)
		require.Equal(t, len(s) <= 255 && repositoryPattern.MatchString(s), err == nil, "repository %q", s)
		_, err = artifact.ParseTag(s)
		require.Equal(t, tagPattern.MatchString(s), err == nil, "tag %q", s)
	})
}
