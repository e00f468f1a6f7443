package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// CosignedSize returns the size of the largest checkpoint that a witness cosigned here; 0 when there is none.
func (db *DB) CosignedSize(ctx context.Context, witness string) (size int64, err error) {
	err = db.Pool.QueryRow(ctx, `select coalesce(max(size), 0) from ledger_cosignatures where witness = $1`, witness).Scan(&size)
	return size, translate(err)
}

// SaveCosignature keeps the line that a witness signed the checkpoint of a size with. The first is kept.
func (db *DB) SaveCosignature(ctx context.Context, size int64, witness, line string) error {
	_, err := db.Pool.Exec(ctx, `insert into ledger_cosignatures (size, witness, line) values ($1, $2, $3) on conflict do nothing`, size, witness, line)
	return translate(err)
}

// Cosignatures returns the lines that witnesses signed the checkpoint of a size with.
func (db *DB) Cosignatures(ctx context.Context, size int64) (string, error) {
	rows, err := db.Pool.Query(ctx, `select line from ledger_cosignatures where size = $1 order by witness`, size)
	if err != nil {
		return "", translate(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, ""), translate(err)
}

// CosignedCheckpoint returns the newest of the checkpoints that most witnesses cosigned, of the last thousand cosignatures; NotFound
// when there is none.
func (db *DB) CosignedCheckpoint(ctx context.Context) (size int64, note string, err error) {
	err = db.Pool.QueryRow(ctx, `select c.size, c.note from (select size, count(*) as n from (select size from ledger_cosignatures order by size desc limit 1000) last group by size order by n desc, size desc limit 1) most
		join ledger_checkpoints c using (size)`).Scan(&size, &note)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", artifact.Errorf(artifact.NotFound, "no witness has cosigned a checkpoint of this ledger; ledger.witnesses in the configuration names those to ask")
	}
	return size, note, translate(err)
}
