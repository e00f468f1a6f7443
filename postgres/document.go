package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/policy"
)

// DocumentRow is a version of a policy, a pipeline or rules for repositories.
type DocumentRow struct {
	Kind      string
	Name      string
	Version   int
	Hash      artifact.Digest
	Body      string
	AppliedBy string
	AppliedAt time.Time
}

// ApplyDocument puts a document in force as the next version of its name, and records who did. A hash that is in
// force already changes nothing.
func (db *DB) ApplyDocument(ctx context.Context, kind, name string, hash artifact.Digest, body, actor string) (version int, changed bool, err error) {
	defer db.hot.forget(artifact.Repository{})
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		// One version after another: the lock is of this kind and name.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, kind+"/"+name); err != nil {
			return err
		}
		var current artifact.Digest
		err := tx.QueryRow(ctx, `select version, hash from documents where kind = $1 and name = $2 order by version desc limit 1`, kind, name).Scan(&version, &current)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if changed = current != hash; !changed {
			return nil
		}
		version++
		if _, err := tx.Exec(ctx, `insert into documents (kind, name, version, hash, body, applied_by) values ($1, $2, $3, $4, $5, $6)`, kind, name, version, hash, body, actor); err != nil {
			return err
		}
		if kind == "Policy" || kind == "Pipeline" { // see stillPasses
			if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockPolicy)); err != nil {
				return err
			}
		}
		if kind == "Policy" {
			if err := db.outdate(ctx, tx); err != nil {
				return err
			}
		}
		_, err = appendLedger(ctx, tx, ledger.Entry{Kind: strings.ToLower(kind) + ".applied", Actor: actor, Subject: name, Version: strconv.Itoa(version), Digest: hash,
			Evidence: []artifact.Digest{artifact.DigestOf([]byte(body))}})
		return err
	})
	return version, changed, err
}

// CurrentDocuments returns the documents of a kind that are in force, by name; of every kind when it is empty.
func (db *DB) CurrentDocuments(ctx context.Context, kind string) ([]DocumentRow, error) {
	rows, err := db.Pool.Query(ctx, `select distinct on (kind, name) kind, name, version, hash, body, applied_by, applied_at from documents
		where $1 in ('', kind) order by kind, name, version desc`, kind)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DocumentRow])
	return all, translate(err)
}

// Policies returns the policies in force. They were checked when they were applied: one that no longer parses is an
// error, and so denies.
func (db *DB) Policies(ctx context.Context) ([]policy.Versioned, error) {
	return inForce(db, "Policy", func() ([]policy.Versioned, error) { return db.readPolicies(ctx) })
}

// inForce answers with documents of a kind, parsed; they are the same until one is applied.
func inForce[V any](db *DB, kind string, read func() ([]V, error)) ([]V, error) {
	all, err := recallOr(db.hot, artifact.Repository{}, func(s *shelf) map[string]any { return s.documents }, kind, nothing, func() (any, error) { return read() })
	if err != nil {
		return nil, err
	}
	return all.([]V), nil
}

func (db *DB) readPolicies(ctx context.Context) ([]policy.Versioned, error) {
	rows, err := db.CurrentDocuments(ctx, "Policy")
	if err != nil {
		return nil, err
	}
	var all []policy.Versioned
	for _, row := range rows {
		parsed, err := policy.Parse(row.Name, []byte(row.Body))
		if err != nil || len(parsed) != 1 {
			return nil, fmt.Errorf("policy %s@%d in the database: %w", row.Name, row.Version, err)
		}
		all = append(all, policy.Versioned{Document: parsed[0], Version: row.Version})
	}
	return all, nil
}
