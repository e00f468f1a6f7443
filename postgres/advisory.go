package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// The advisory database and the Java one are kept alike, each in tables of its own: a replica of the last release takes the
// newest row of advisory_databases for advisories.
const (
	putDatabase = ` (digest, schema, updated_at, imported_by) values ($1, $2, $3, $4)
		on conflict (digest) do update set imported_at = now(), imported_by = excluded.imported_by`
	newestDatabase = ` order by imported_at desc, id desc limit 1`
	putPull        = ` (source, at, problem, actor) values ($1, $2, $3, $4)
		on conflict (one) do update set source = excluded.source, at = excluded.at, problem = excluded.problem, actor = excluded.actor`
)

// SaveAdvisoryDatabase makes d the advisory database in force and records who imported it.
func (db *DB) SaveAdvisoryDatabase(ctx context.Context, d artifact.AdvisoryDatabase) error {
	return db.saveDatabase(ctx, `insert into advisory_databases`+putDatabase, "", d)
}

// SaveJavaDatabase makes d the Java database in force and records who imported it.
func (db *DB) SaveJavaDatabase(ctx context.Context, d artifact.AdvisoryDatabase) error {
	return db.saveDatabase(ctx, `insert into java_databases`+putDatabase, "java", d)
}

func (db *DB) saveDatabase(ctx context.Context, sql, subject string, d artifact.AdvisoryDatabase) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql, d.Digest, d.Schema, d.UpdatedAt, d.ImportedBy); err != nil {
			return err
		}
		_, err := appendLedger(ctx, tx, ledger.Entry{Kind: "database.imported", Subject: subject, Actor: d.ImportedBy, Digest: d.Digest})
		return err
	})
}

// AdvisoryDatabase returns the one in force; ok is false when none was ever imported.
func (db *DB) AdvisoryDatabase(ctx context.Context) (d artifact.AdvisoryDatabase, ok bool, err error) {
	return db.database(ctx, `select digest, schema, updated_at, imported_at, imported_by from advisory_databases`+newestDatabase)
}

// JavaDatabase returns the one in force; ok is false when none was ever imported.
func (db *DB) JavaDatabase(ctx context.Context) (d artifact.AdvisoryDatabase, ok bool, err error) {
	return db.database(ctx, `select digest, schema, updated_at, imported_at, imported_by from java_databases`+newestDatabase)
}

func (db *DB) database(ctx context.Context, sql string) (d artifact.AdvisoryDatabase, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, sql).Scan(&d.Digest, &d.Schema, &d.UpdatedAt, &d.ImportedAt, &d.ImportedBy)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, false, nil
	}
	return d, err == nil, translate(err)
}

// SaveAdvisoryPull makes p the newest attempt.
func (db *DB) SaveAdvisoryPull(ctx context.Context, p artifact.AdvisoryPull) error {
	return db.savePull(ctx, `insert into advisory_pulls`+putPull, p)
}

// SaveJavaPull makes p the newest attempt.
func (db *DB) SaveJavaPull(ctx context.Context, p artifact.AdvisoryPull) error {
	return db.savePull(ctx, `insert into java_pulls`+putPull, p)
}

func (db *DB) savePull(ctx context.Context, sql string, p artifact.AdvisoryPull) error {
	_, err := db.Pool.Exec(ctx, sql, p.Source, p.At, p.Problem, p.Actor)
	return translate(err)
}

// AdvisoryPull returns the newest attempt; ok is false when there was none.
func (db *DB) AdvisoryPull(ctx context.Context) (p artifact.AdvisoryPull, ok bool, err error) {
	return db.lastPull(ctx, `select source, at, problem, actor from advisory_pulls`)
}

// JavaPull returns the newest attempt; ok is false when there was none.
func (db *DB) JavaPull(ctx context.Context) (p artifact.AdvisoryPull, ok bool, err error) {
	return db.lastPull(ctx, `select source, at, problem, actor from java_pulls`)
}

func (db *DB) lastPull(ctx context.Context, sql string) (p artifact.AdvisoryPull, ok bool, err error) {
	err = db.Pool.QueryRow(ctx, sql).Scan(&p.Source, &p.At, &p.Problem, &p.Actor)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	return p, err == nil, translate(err)
}
