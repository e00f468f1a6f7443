package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/auth"
	"waybill/ledger"
)

// CreateToken stores a token by its hash, and records who made it.
func (db *DB) CreateToken(ctx context.Context, t auth.Token, hash []byte) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		if t.Repositories == nil {
			t.Repositories = []string{}
		}
		if _, err := tx.Exec(ctx, `insert into tokens (id, hash, name, role, repositories, environments, created_by, created_at, expires_at, principal, more) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			t.ID, hash, t.Name, t.Role, t.Repositories, names(t.Environments), t.CreatedBy, t.CreatedAt, t.ExpiresAt, t.Session, orEmptyBindings(t.More)); err != nil {
			return err
		}
		if t.Session != "" {
			// Whoever makes sessions clears those away that ended; the ledger keeps that they were.
			if _, err := tx.Exec(ctx, `delete from tokens where principal <> '' and expires_at < now() - interval '1 hour'`); err != nil {
				return err
			}
		}
		_, err := appendLedger(ctx, tx, tokenEntry(t, hash))
		return err
	})
}

func tokenEntry(t auth.Token, hash []byte) ledger.Entry {
	return ledger.Entry{Kind: ledger.KindTokenCreated, Actor: t.CreatedBy, Subject: t.ID, Evidence: []artifact.Digest{t.Hash(hash)}, Reason: t.Principal().Roles() + " " + t.Name}
}

// recordedTokens are for an audit.
func recordedTokens(ctx context.Context, q querier) ([]ledger.Recorded, error) {
	rows, err := q.Query(ctx, `select `+tokenColumns+`, hash from tokens order by created_at, id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Recorded, error) {
		var hash []byte
		t, err := scanToken(row, &hash)
		return ledger.Recorded{Index: -1, Entry: tokenEntry(t, hash), Revoked: !t.RevokedAt.IsZero()}, err
	})
}

const tokenColumns = `id, name, role, repositories, environments, created_by, created_at, expires_at, revoked_at, last_used_at, principal, more`

func scanToken(row pgx.CollectableRow, more ...any) (t auth.Token, err error) {
	var (
		environments  []string
		revoked, used *time.Time
	)
	if err := row.Scan(append([]any{&t.ID, &t.Name, &t.Role, &t.Repositories, &environments, &t.CreatedBy, &t.CreatedAt, &t.ExpiresAt, &revoked, &used, &t.Session, &t.More}, more...)...); err != nil {
		return t, err
	}
	for _, name := range environments {
		e, err := artifact.ParseEnvironment(name)
		if err != nil {
			return t, err
		}
		t.Environments = append(t.Environments, e)
	}
	if revoked != nil {
		t.RevokedAt = *revoked
	}
	if used != nil {
		t.LastUsedAt = *used
	}
	return t, nil
}

// Token returns a token and its hash, or NotFound.
func (db *DB) Token(ctx context.Context, id string) (auth.Token, []byte, error) {
	var hash []byte
	rows, err := db.Pool.Query(ctx, `select `+tokenColumns+`, hash from tokens where id = $1`, id)
	if err != nil {
		return auth.Token{}, nil, translate(err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (auth.Token, error) { return scanToken(row, &hash) })
	return t, hash, orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no token %s", id))
}

// Tokens returns every token, newest first.
func (db *DB) Tokens(ctx context.Context) ([]auth.Token, error) {
	rows, err := db.Pool.Query(ctx, `select `+tokenColumns+` from tokens order by created_at desc, id`)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (auth.Token, error) { return scanToken(row) })
	return all, translate(err)
}

// RevokeToken ends a token, and records who did.
func (db *DB) RevokeToken(ctx context.Context, id, actor string) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		var last bool
		err := tx.QueryRow(ctx, `update tokens set revoked_at = now() where id = $1 and revoked_at is null returning role = 'admin' and principal = '' and not exists
			(select from tokens other where other.role = 'admin' and other.principal = '' and other.id <> $1 and other.revoked_at is null and other.expires_at > now())`, id).Scan(&last)
		if err != nil {
			return orNotFound(err, artifact.Errorf(artifact.NotFound, "there is no token %s that is not revoked; `waybill token list` names them", id))
		}
		if last {
			return artifact.Errorf(artifact.Conflict, "token %s is the last of an admin, and nobody could make another; make one first (waybill token create --role admin)", id)
		}
		_, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindTokenRevoked, Actor: actor, Subject: id})
		return err
	})
}

// TouchToken remembers that a token is used.
func (db *DB) TouchToken(ctx context.Context, id string) error {
	_, err := db.Pool.Exec(ctx, `update tokens set last_used_at = now() where id = $1`, id)
	return translate(err)
}

// orEmptyBindings keeps a null out of the column.
func orEmptyBindings(all []artifact.Binding) []artifact.Binding {
	if all == nil {
		return []artifact.Binding{}
	}
	return all
}
