package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
)

// TestDatabasesAreApart: the advisory database and the Java one, and the attempts to pull them, are remembered alike and are not
// taken for each other; the one imported last is in force, also when it was there before.
func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for name, kind := range map[string]struct {
		save func(context.Context, artifact.AdvisoryDatabase) error
		read func(context.Context) (artifact.AdvisoryDatabase, bool, error)
		note func(context.Context, artifact.AdvisoryPull) error
		last func(context.Context) (artifact.AdvisoryPull, bool, error)
	}{
		"advisories": {db.SaveAdvisoryDatabase, db.AdvisoryDatabase, db.SaveAdvisoryPull, db.AdvisoryPull},
		"java":       {db.SaveJavaDatabase, db.JavaDatabase, db.SaveJavaPull, db.JavaPull},
	} {
		_, ok, err := kind.read(t.Context())
		require.NoError(t, err)
		require.False(t, ok, name)
		_, ok, err = kind.last(t.Context())
		require.NoError(t, err)
		require.False(t, ok, name)
		at := time.Now().UTC().Truncate(time.Second)
		for _, content := range []string{"one", "two", "one"} {
			made := artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte(name + content)), Schema: 2, UpdatedAt: at, ImportedBy: content}
			require.NoError(t, kind.save(t.Context(), made))
			got, ok, err := kind.read(t.Context())
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, made.Digest, got.Digest, name)
			require.Equal(t, content, got.ImportedBy)
			require.NoError(t, kind.note(t.Context(), artifact.AdvisoryPull{Source: name, At: at, Problem: content, Actor: "ann"}))
			pull, ok, err := kind.last(t.Context())
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, name+content, pull.Source+pull.Problem)
		}
	}
}
