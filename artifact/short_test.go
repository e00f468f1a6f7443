package artifact_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestParseShortReference(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		"shop/returns:v1":                      "shop/returns:v1",
		"shop/returns@sha256:" + whole:         "shop/returns@sha256:" + whole,
		"shop/returns@" + whole:                "shop/returns@sha256:" + whole,
		"shop/returns@" + whole[:12]:           "shop/returns@sha256:" + whole[:12],
		"shop/returns@sha256:" + whole[:63]:    "shop/returns@sha256:" + whole[:63],
		"shop/returns:v1@sha256:" + whole[:16]: "shop/returns:v1@sha256:" + whole[:16],
	} {
		ref, err := artifact.ParseShortReference(text)
		require.NoError(t, err, text)
		require.Equal(t, want, ref.String(), text)
		require.True(t, ref.Means(artifact.MustDigest("sha256:"+whole)), text)
		require.Equal(t, strings.Contains(want, "@"), !ref.Means(artifact.DigestOf(nil)), text)
	}
	for _, text := range []string{"", "shop/returns", "shop/returns@", "shop/returns@" + whole[:11], "shop/returns@" + whole + "a", "shop/returns@sha512:" + whole[:12],
		"shop/returns@" + strings.ToUpper(whole[:12]), "@" + whole[:12], "shop/returns@sha256:%" + whole[:12], "shop/returns:@" + whole[:12]} {
		_, err := artifact.ParseShortReference(text)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), text)
	}
	_, err := artifact.ParseShortReference("shop/returns@" + whole[:11])
	require.ErrorContains(t, err, "first 12 or more")
}

func FuzzParseShortReference(f *testing.F) {
	for _, s := range []string{"shop/returns:v1", "shop/returns@0123456789ab", "a@sha256:0123456789abc", "a:b@0123456789ab", "a@" + strings.Repeat("0", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := artifact.ParseShortReference(s)
		if err != nil {
			return
		}
		again, err := artifact.ParseShortReference(ref.String())
		require.NoError(t, err)
		require.Equal(t, ref, again)
		require.False(t, ref.Repository.IsZero())
	})
}

// TestErrorSaysItOnce: what an error wraps is not told twice.
func TestErrorSaysItOnce(t *testing.T) {
	t.Parallel()
	cause := errors.New("it is away")
	require.EqualError(t, artifact.Errorf(artifact.Unavailable, "the mirror: %w", cause), "the mirror: it is away")
	require.EqualError(t, &artifact.Error{Kind: artifact.Unavailable, Message: "the mirror", Err: cause}, "the mirror: it is away")
}
