package postgres

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
)

// RetireEnvironment takes an environment's grants and pointers away, in every repository. No pipeline names it: versions is how many
// versions of pipelines there were when that was looked at, and it is a Conflict when there are more by now. It returns
// how many digests could be pulled from it.
func (db *DB) RetireEnvironment(ctx context.Context, environment artifact.Environment, actor, reason string, versions int) (n int, err error) {
	defer db.withdrawn(artifact.Repository{})
	defer db.changes.touch()
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		held, err := grantedIn(ctx, tx, environment)
		if err != nil {
			return err
		}
		repositories := slices.Compact(repositoriesOf(held))
		for _, r := range repositories {
			if err := lockGrants(ctx, tx, r); err != nil {
				return err
			}
		}
		// After the repositories', as promotions take them: none is under way from here on.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockPolicy)); err != nil {
			return err
		}
		var pipelines int
		if err := tx.QueryRow(ctx, `select count(*) from documents where kind = 'Pipeline'`).Scan(&pipelines); err != nil {
			return err
		}
		if held, err = grantedIn(ctx, tx, environment); err != nil {
			return err
		}
		if pipelines > versions || !slices.Equal(repositories, slices.Compact(repositoriesOf(held))) {
			return artifact.Errorf(artifact.Conflict, "a pipeline was applied, or something promoted to %s, at this moment; retire it again", environment)
		}
		n = len(held)
		if _, err := tx.Exec(ctx, `delete from grants where environment = $1`, environment); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from deployments where repository = any($1) and environment = $2`, names(repositories), environment); err != nil {
			return err
		}
		return retired(ctx, tx, environment, held, actor, reason)
	})
	return n, err
}

// retired records what an environment let go of.
func retired(ctx context.Context, tx pgx.Tx, environment artifact.Environment, held []artifact.Reference, actor, reason string) error {
	at := moment(time.Time{})
	for _, ref := range held {
		p := artifact.Promotion{Action: "retire", Repository: ref.Repository, Environment: environment, Digest: ref.Digest, Actor: actor, Reason: reason, At: at}
		var err error
		if p.LedgerIndex, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindRetire, Actor: actor, At: at, Repository: p.Repository, Digest: p.Digest, Environment: environment, Reason: reason}); err != nil {
			return err
		}
		if err := insertPromotion(ctx, tx, &p); err != nil {
			return err
		}
	}
	return nil
}

func repositoriesOf(refs []artifact.Reference) []artifact.Repository {
	all := make([]artifact.Repository, len(refs))
	for i, ref := range refs {
		all[i] = ref.Repository
	}
	return all
}

// grantedIn returns what may be pulled from an environment, by repository.
func grantedIn(ctx context.Context, tx pgx.Tx, environment artifact.Environment) ([]artifact.Reference, error) {
	rows, err := tx.Query(ctx, `select distinct repository, root from grants where environment = $1 order by repository, root`, environment)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ref artifact.Reference, err error) {
		return ref, row.Scan(&ref.Repository, &ref.Digest)
	})
	// As Promote takes its locks, whatever order the database's collation has.
	slices.SortStableFunc(all, func(x, y artifact.Reference) int {
		return strings.Compare(x.Repository.String(), y.Repository.String())
	})
	return all, err
}
