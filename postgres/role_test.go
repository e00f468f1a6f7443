package postgres_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"waybill/ledger"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

// TestServiceRole: a role that owns nothing does the service's work, and cannot change or unguard what is append-only;
// that the owner cannot either, while the triggers stand, is the triggers' doing.
func TestServiceRole(t *testing.T) {
	t.Parallel()
	owner, ctx := pgtest.New(t), t.Context()
	role := "service_" + strings.ToLower(rand.Text()[:8])
	_, err := owner.Pool.Exec(ctx, "create role "+role+" with login password 'secret'")
	require.NoError(t, err)
	url := owner.Pool.Config().ConnString()
	open := func() *postgres.DB {
		db, err := postgres.Open(ctx, postgres.Config{URL: url + " user=" + role + " password=secret", OwnerURL: url, MaxConnections: 2})
		require.NoError(t, err)
		return db
	}
	open().Close()
	db := open() // again: rights that are there stay
	defer func() {
		db.Close()
		_, err := owner.Pool.Exec(t.Context(), "drop owned by "+role+"; drop role "+role, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	}()
	signer := newSigner(t)
	require.NoError(t, db.CreateLedger(ctx, signer.PublicKey()))
	_, err = db.Record(ctx, ledger.Entry{Kind: "signed", Actor: "system"})
	require.NoError(t, err)
	_, err = db.Checkpoint(ctx, signer)
	require.NoError(t, err)
	report, err := db.Audit(ctx, signer.PublicKey())
	require.NoError(t, err)
	require.Empty(t, report.Problems)

	rows, err := owner.Pool.Query(ctx, `select tgrelid::regclass::text from pg_trigger where tgname = 'append_only' order by 1`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"documents", "ledger_checkpoints", "ledger_cosignatures", "ledger_entries", "ledger_hashes", "promotions", "recalls", "release_services", "releases", "signing_key_revocations", "signing_keys", "tag_history"}, tables)
	for _, table := range tables {
		for _, sql := range []string{"delete from " + table, "truncate " + table, "drop trigger append_only on " + table, "alter table " + table + " disable trigger all",
			"drop table " + table + " cascade", "create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'",
			"set session_replication_role = replica", "alter table " + table + " owner to " + role} {
			_, err := db.Pool.Exec(ctx, sql)
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg, sql)
			require.Equal(t, "42501", pg.Code, "%s: insufficient privilege, and not %s", sql, pg.Message)
		}
		_, err := owner.Pool.Exec(ctx, "delete from "+table)
		require.ErrorContains(t, err, "append-only", "the trigger refuses the owner too")
	}
	_, err = db.Pool.Exec(ctx, "update ledger_entries set actor = 'eve'")
	require.ErrorContains(t, err, "permission denied")
	_, err = db.Pool.Exec(ctx, "update goose_db_version set is_applied = false")
	require.ErrorContains(t, err, "permission denied")
}
