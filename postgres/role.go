package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// migrateAs brings the schema up to date as its owner, and gives the service's role what it needs of it: no UPDATE and no
// DELETE of append-only tables, and no ownership, so that it can neither drop nor disable the triggers that refuse both.
func migrateAs(ctx context.Context, ownerURL string, service *pgxpool.Config) error {
	config, err := pgxpool.ParseConfig(ownerURL)
	if err != nil {
		return errors.New("database.ownerURL is not a PostgreSQL connection string; see the libpq manual, section Connection Strings")
	}
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrate(ctx, pool); err != nil {
		return err
	}
	role := service.ConnConfig.User
	if role == config.ConnConfig.User {
		return nil
	}
	if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return grantService(ctx, tx, role) }); err != nil {
		return fmt.Errorf("give %s its rights: %w", role, err)
	}
	return nil
}

// owned is something in the schema that a role may be given rights to, or the ownership of.
type owned struct {
	Kind, Name string
	AppendOnly bool
}

func grantService(ctx context.Context, tx pgx.Tx, role string) error {
	// One replica at a time: PostgreSQL refuses concurrent changes of one row of its catalog.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockRoles)); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `select case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.relname::text,
			exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'append_only') as append_only
		from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relowner = current_user::regrole and c.relkind in ('r', 'p', 'v', 'S')
		union all select 'type', t.typname::text, false from pg_type t
		where t.typnamespace = current_schema()::regnamespace and t.typowner = current_user::regrole and t.typtype = 'e'
		union all select 'function', p.oid::regprocedure::text, false from pg_proc p
		where p.pronamespace = current_schema()::regnamespace and p.proowner = current_user::regrole order by 1, 2`)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[owned])
	if err != nil {
		return err
	}
	to := pgx.Identifier{role}.Sanitize()
	// River makes, changes and reindexes its own tables, which hold nothing but work to do: they are the service's.
	var schema string
	if err := tx.QueryRow(ctx, `select current_schema()`).Scan(&schema); err != nil {
		return err
	}
	statements := []string{"grant usage, create on schema " + pgx.Identifier{schema}.Sanitize() + " to " + to}
	for _, o := range all {
		statements = append(statements, o.grants(to)...)
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (o owned) grants(to string) []string {
	name := pgx.Identifier{o.Name}.Sanitize()
	if o.Kind == "function" {
		name = o.Name // with its arguments, quoted by PostgreSQL
	}
	rivers := strings.HasPrefix(o.Name, "river_")
	switch {
	case rivers && o.Kind != "sequence": // a table's sequence goes with it
		return []string{"alter " + o.Kind + " " + name + " owner to " + to}
	case rivers, slices.Contains([]string{"type", "function"}, o.Kind): // anybody may use these
		return nil
	case o.Kind == "sequence":
		return []string{"grant usage, select on sequence " + name + " to " + to}
	case o.Name == "goose_db_version":
		return []string{"grant select on " + name + " to " + to}
	case o.AppendOnly:
		return []string{"revoke all on " + name + " from " + to, "grant select, insert on " + name + " to " + to}
	}
	return []string{"grant select, insert, update, delete on " + name + " to " + to}
}
