package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// How entries are looked for: by what there are fewest of, and then the page of it.
const (
	foundColumns = `select index, body from ledger_entries where `
	foundPage    = ` and ($4::text = '' or kind = $4) and at >= $5 and at < $6 and at <= $7 and (at < $7 or index < $8) order by at desc, index desc limit $9`
)

// FindEntries returns entries of the ledger, newest first.
func (db *DB) FindEntries(ctx context.Context, f artifact.LedgerFilter) ([]artifact.LedgerLine, error) {
	sql := foundColumns + `$1::text = '' and $2::text = '' and $3::text = ''` + foundPage
	switch {
	case !f.Digest.IsZero():
		sql = foundColumns + `digest = $2 and ($1::text = '' or repository = $1) and ($3::text = '' or actor = $3)` + foundPage
	case !f.Repository.IsZero():
		sql = foundColumns + `repository = $1 and $2::text = '' and ($3::text = '' or actor = $3)` + foundPage
	case f.Actor != "":
		sql = foundColumns + `$1::text = '' and $2::text = '' and actor = $3` + foundPage
	case f.Kind != "":
		sql = foundColumns + `$1::text = '' and $2::text = '' and $3::text = '' and kind = $4 and at >= $5 and at < $6 and at <= $7 and (at < $7 or index < $8) order by at desc, index desc limit $9`
	}
	rows, err := db.Pool.Query(ctx, sql, f.Repository.String(), f.Digest.String(), f.Actor, f.Kind, f.From, before(f.To), before(f.Before.At), f.Before.Index, f.Limit)
	if err != nil {
		return nil, translate(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l artifact.LedgerLine, err error) {
		var body []byte
		if err := row.Scan(&l.Index, &body); err != nil {
			return l, err
		}
		e, err := ledger.Parse(body)
		l.At, l.Kind, l.Actor, l.Repository, l.Digest, l.Environment = e.At, e.Kind, e.Actor, e.Repository, e.Digest, e.Environment
		l.Version, l.Subject, l.Reason, l.Reasons = e.Version, e.Subject, e.Reason, e.Reasons
		return l, err
	})
	return all, translate(err)
}
