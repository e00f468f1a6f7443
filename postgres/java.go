package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// SaveJavaDatabase makes d the Java database in force and records who imported it.
func (db *DB) SaveJavaDatabase(ctx context.Context, d artifact.AdvisoryDatabase) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into java_databases (digest, schema, updated_at, imported_by) values ($1, $2, $3, $4)
			on conflict (digest) do update set imported_at = now(), imported_by = excluded.imported_by`, d.Digest, d.Schema, d.UpdatedAt, d.ImportedBy); err != nil {
			return err
		}
		_, err := appendLedger(ctx, tx, ledger.Entry{Kind: "database.imported", Subject: "java", Actor: d.ImportedBy, Digest: d.Digest})
		return err
	})
}

// JavaDatabase returns the one in force; ok is false when none was ever imported.
func (db *DB) JavaDatabase(ctx context.Context) (d artifact.AdvisoryDatabase, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select digest, schema, updated_at, imported_at, imported_by from java_databases order by imported_at desc, id desc limit 1`).
		Scan(&d.Digest, &d.Schema, &d.UpdatedAt, &d.ImportedAt, &d.ImportedBy)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, false, nil
	}
	return d, err == nil, translate(err)
}

// SaveJavaPull makes p the newest attempt.
func (db *DB) SaveJavaPull(ctx context.Context, p artifact.AdvisoryPull) error {
	_, err := db.Pool.Exec(ctx, `insert into java_pulls (source, at, problem, actor) values ($1, $2, $3, $4)
		on conflict (one) do update set source = excluded.source, at = excluded.at, problem = excluded.problem, actor = excluded.actor`, p.Source, p.At, p.Problem, p.Actor)
	return translate(err)
}

// JavaPull returns the newest attempt; ok is false when there was none.
func (db *DB) JavaPull(ctx context.Context) (p artifact.AdvisoryPull, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, `select source, at, problem, actor from java_pulls`).Scan(&p.Source, &p.At, &p.Problem, &p.Actor)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	return p, err == nil, translate(err)
}
