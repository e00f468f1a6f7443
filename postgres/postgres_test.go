package postgres_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestAppendOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, statement := range []string{
		"update ledger_entries set kind = 'x'", "delete from promotions", "truncate documents cascade", "delete from tag_history",
		"update ledger_checkpoints set note = ''", "delete from ledger_hashes",
	} {
		_, err := db.Pool.Exec(context.Background(), statement)
		require.ErrorContains(t, err, "is append-only", statement)
	}
}
