package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/policy"
)

// SaveJudged makes verdicts the newest of what is stored, and keeps who pushed it by which name. Where one denies what
// is promoted, what the policies ask for is done and recorded, once; it returns those. Doing it again changes nothing.
func (db *DB) SaveJudged(ctx context.Context, all []policy.Verdict) (turned []artifact.TurnedBad, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	if err := db.updateVerdicts(ctx, all); err != nil {
		return nil, err
	}
	promoted, bad, err := db.standing(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		ref := artifact.Reference{Repository: v.Repository, Digest: v.Digest}
		known, isBad := bad[ref]
		switch {
		case v.Outcome == artifact.Allow && isBad:
			err = db.clearBad(ctx, v)
		case v.Outcome == artifact.Deny && promoted[ref] && !(isBad && known.Response == v.Response() && sameRules(known.Reasons, v.Denials())):
			var t artifact.TurnedBad
			if t, err = db.turnBad(ctx, v); err == nil && !t.Repository.IsZero() {
				turned = append(turned, t)
			}
		}
		if err != nil {
			return turned, err
		}
	}
	return turned, nil
}

// columns are what a verdict is kept in, an array for each column.
type columns struct {
	repositories, digests, outcomes, reasons, hashes, policies, waivers []string
	until                                                               []*time.Time
}

func (db *DB) updateVerdicts(ctx context.Context, all []policy.Verdict) error {
	var c columns
	for _, v := range all {
		reasons, err := json.Marshal(v.Reasons)
		if err != nil {
			return err
		}
		c.repositories, c.digests = append(c.repositories, v.Repository.String()), append(c.digests, v.Digest.String())
		c.outcomes, c.reasons, c.hashes = append(c.outcomes, string(v.Outcome)), append(c.reasons, string(reasons)), append(c.hashes, v.PolicyHash.String())
		c.policies = append(c.policies, "{"+strings.Join(v.Policies, ",")+"}") // names of policies need no quotes
		c.waivers = append(c.waivers, "{"+strings.Trim(strings.ReplaceAll(fmt.Sprint(v.Waivers), " ", ","), "[]")+"}")
		c.until = append(c.until, orNull(v.Until))
	}
	return db.Transact(artifact.DoneAgain(ctx), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update verdicts v set outcome = n.outcome, reasons = n.reasons::jsonb, policy_hash = n.hash, policies = n.policies::text[],
			waivers = n.waivers::bigint[], until = n.until, decided_at = case when v.outcome = n.outcome then v.decided_at else now() end
		from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[]) as n (repository, digest, outcome, reasons, hash, policies, waivers, until)
		where v.repository = n.repository and v.digest = n.digest
		and (v.outcome, v.reasons, v.policy_hash, v.policies, v.until) is distinct from (n.outcome, n.reasons::jsonb, n.hash, n.policies::text[], n.until)`,
			c.repositories, c.digests, c.outcomes, c.reasons, c.hashes, c.policies, c.waivers, c.until)
		return err
	})
}

// standing returns which of the digests are promoted, and which are known to be bad.
func (db *DB) standing(ctx context.Context, all []policy.Verdict) (promoted map[artifact.Reference]bool, bad map[artifact.Reference]artifact.TurnedBad, err error) {
	var repositories, digests []string
	for _, v := range all {
		repositories, digests = append(repositories, v.Repository.String()), append(digests, v.Digest.String())
	}
	promoted, bad = map[artifact.Reference]bool{}, map[artifact.Reference]artifact.TurnedBad{}
	rows, err := db.Pool.Query(ctx, `select distinct g.repository, g.root from unnest($1::text[], $2::text[]) as n (repository, digest)
		join grants g on g.repository = n.repository and g.root = n.digest and g.digest = g.root`, repositories, digests)
	if err != nil {
		return nil, nil, translate(err)
	}
	var ref artifact.Reference
	if _, err := pgx.ForEachRow(rows, []any{&ref.Repository, &ref.Digest}, func() error { promoted[ref] = true; return nil }); err != nil {
		return nil, nil, translate(err)
	}
	rows, err = db.Pool.Query(ctx, `select `+turnedColumns+` from unnest($1::text[], $2::text[]) as n (repository, digest) join turned_bad t using (repository, digest)`, repositories, digests)
	if err != nil {
		return nil, nil, translate(err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowToStructByPos[artifact.TurnedBad])
	for _, t := range known {
		bad[artifact.Reference{Repository: t.Repository, Digest: t.Digest}] = t
	}
	return promoted, bad, translate(err)
}

const turnedColumns = `t.repository, t.digest, t.response, t.reasons, t.policy_hash, t.environments, t.ledger_index, t.since`

// sameRules reports whether denials are by the same rules for the same findings, whatever their words.
func sameRules(a, b []artifact.Reason) bool {
	key := func(r artifact.Reason) string { return r.Policy + " " + r.Rule + " " + r.Finding + " " + r.Platform }
	keys := func(all []artifact.Reason) []string {
		var found []string
		for _, r := range all {
			found = append(found, key(r))
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	return slices.Equal(keys(a), keys(b))
}

// turnBad records that what is promoted is denied now, and recalls it where the policies say so, in one transaction. The
// zero TurnedBad says that it is not promoted any more.
func (db *DB) turnBad(ctx context.Context, v policy.Verdict) (t artifact.TurnedBad, err error) {
	defer db.withdrawn(v.Repository)
	defer db.changes.touch()
	denials := v.Denials()
	reasons := make([]string, len(denials))
	for i, r := range denials {
		reasons[i] = r.String()
	}
	err = db.Transact(ctx, func(tx pgx.Tx) error {
		t = artifact.TurnedBad{}
		if err := lockGrants(ctx, tx, v.Repository); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select distinct environment from grants where repository = $1 and root = $2 and digest = $2 order by environment`, v.Repository, v.Digest)
		if err != nil {
			return err
		}
		environments, err := pgx.CollectRows(rows, pgx.RowTo[artifact.Environment])
		if err != nil || len(environments) == 0 {
			return err
		}
		t = artifact.TurnedBad{Repository: v.Repository, Digest: v.Digest, Response: v.Response(), Reasons: denials, PolicyHash: v.PolicyHash, Environments: environments, Since: moment(db.now())}
		if t.LedgerIndex, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindTurnedBad, Actor: artifact.System.Name, At: t.Since, Repository: t.Repository, Digest: t.Digest,
			Environments: environments, PolicyHash: t.PolicyHash, Subject: string(t.Response), Reasons: reasons}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into turned_bad (repository, digest, response, reasons, policy_hash, environments, ledger_index, since) values ($1, $2, $3, $4, $5, $6, $7, $8)
			on conflict (repository, digest) do update set response = excluded.response, reasons = excluded.reasons, policy_hash = excluded.policy_hash, environments = excluded.environments,
			ledger_index = excluded.ledger_index, since = excluded.since`,
			t.Repository, t.Digest, t.Response, t.Reasons, t.PolicyHash, names(environments), t.LedgerIndex, t.Since); err != nil || t.Response != artifact.RespondRecall {
			return err
		}
		return recall(ctx, tx, v.Repository, v.Digest, artifact.System.Name, recallReason(reasons), "")
	})
	return t, err
}

// maxRecallReason bounds what everybody who is refused is told, in bytes.
const maxRecallReason = 1000

func recallReason(reasons []string) string {
	text := "the policies of now deny it: " + strings.Join(reasons, "; ")
	if len(text) > maxRecallReason {
		text = strings.ToValidUTF8(text[:maxRecallReason], "") + "…"
	}
	return text
}

// clearBad records that what had turned bad is allowed again.
func (db *DB) clearBad(ctx context.Context, v policy.Verdict) error {
	return db.Transact(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `delete from turned_bad where repository = $1 and digest = $2`, v.Repository, v.Digest)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = appendLedger(ctx, tx, ledger.Entry{Kind: ledger.KindTurnedGood, Actor: artifact.System.Name, At: db.now(), Repository: v.Repository, Digest: v.Digest, PolicyHash: v.PolicyHash})
		return err
	})
}

// TurnedBad returns what is known of a promoted digest that turned bad; false when it did not.
func (db *DB) TurnedBad(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.TurnedBad, bool, error) {
	rows, err := db.Pool.Query(ctx, `select `+turnedColumns+` from turned_bad t where repository = $1 and digest = $2`, repository, digest)
	if err != nil {
		return artifact.TurnedBad{}, false, translate(err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[artifact.TurnedBad])
	return t, err == nil, ignoreNoRows(err)
}
