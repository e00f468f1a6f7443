package postgres_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
)

// TestFactsBytes: what facts weigh is known without reading them, and nothing of layers that have none.
func TestFactsBytes(t *testing.T) {
	t.Parallel()
	db, ctx := pgtest.New(t), t.Context()
	small, large := artifact.LayerFacts{Format: artifact.FactsFormat, Digest: artifact.DigestOf([]byte("small"))}, artifact.LayerFacts{Format: artifact.FactsFormat, Digest: artifact.DigestOf([]byte("large"))}
	for i := range 100_000 {
		large.Files = append(large.Files, artifact.File{Path: "srv/" + strconv.Itoa(i), Type: artifact.Regular})
	}
	older := artifact.LayerFacts{Format: artifact.FactsFormat - 1, Digest: artifact.DigestOf([]byte("older"))}
	for _, facts := range []artifact.LayerFacts{small, large, older} {
		require.NoError(t, db.SaveLayer(ctx, facts, "test", []byte("{}")))
	}
	bomb := artifact.DigestOf([]byte("bomb"))
	require.NoError(t, db.SaveLayerFailure(ctx, bomb, "a bomb"))
	bytes, err := db.FactsBytes(ctx, []artifact.Digest{small.Digest, large.Digest, older.Digest, bomb, artifact.DigestOf(nil), large.Digest})
	require.NoError(t, err)
	require.Len(t, bytes, 2)
	require.LessOrEqual(t, int(bytes[small.Digest]), len(asJSON(t, small)), "of a few bytes it need not be said")
	require.Equal(t, len(asJSON(t, large)), int(bytes[large.Digest]))
}
