package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/postgres/pgtest"
)

// recorded is a shop with decisions of every kind and two checkpoints: of half the ledger, and of all but the last entry.
type recorded struct {
	*shop
	signer   *ledger.Signer
	kept     []string // tables; see keep
	v1, v2   artifact.Digest
	size     int64 // of the first checkpoint
	promoted int64 // index of the promotion of v2 to dev
	recall   int64
}

func newRecorded(t testing.TB) *recorded {
	t.Helper()
	r := &recorded{shop: newShop(t), signer: newSigner(t)}
	r.v1, r.v2 = r.release("v1"), r.release("v2")
	r.mustPromote("v1", "dev", "staging", "production")
	first := r.checkpoint()
	r.size = first.Size
	done, err := r.promote("v2", "dev")
	require.NoError(t, err)
	r.promoted = done.LedgerIndex
	r.mustPromote("v2", "staging")
	_, err = r.rollback("staging")
	require.NoError(t, err)
	v3 := r.release("v3")
	r.mustPromote("v3", "dev")
	require.NoError(t, r.service.Recall(r.ctx, r.ada, r.repository, v3, "CVE", ""))
	history, err := r.db.History(r.ctx, r.repository)
	require.NoError(t, err)
	r.recall = history[len(history)-1].LedgerIndex
	_, err = r.rollback("dev")
	require.NoError(t, err)
	r.checkpoint()
	_, err = r.db.Record(r.ctx, ledger.Entry{Kind: "signed", Actor: "system", Digest: r.v1})
	require.NoError(t, err)
	return r
}

func (r *recorded) checkpoint() ledger.Checkpoint {
	r.t.Helper()
	signed, err := r.db.Checkpoint(r.ctx, r.signer)
	require.NoError(r.t, err)
	c, err := ledger.OpenCheckpoint(signed, r.signer.PublicKey())
	require.NoError(r.t, err)
	return c
}

func (r *recorded) audit() ledger.Report {
	r.t.Helper()
	report, err := r.db.Audit(r.ctx, r.signer.PublicKey())
	require.NoError(r.t, err)
	return report
}

// audited is what an audit reads of every ledger.
var audited = []string{"ledger_entries", "ledger_hashes", "ledger_checkpoints", "promotions", "deployments", "grants", "recalls", "documents", "signing_keys", "signing_key_revocations"}

// tamper runs statements as somebody who owns the tables could: no trigger and no foreign key holds.
func (r *recorded) tamper(statements ...string) {
	r.t.Helper()
	require.NoError(r.t, pgx.BeginFunc(r.ctx, r.db.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(r.ctx, "set local session_replication_role = replica"); err != nil {
			return err
		}
		for _, sql := range statements {
			tag, err := tx.Exec(r.ctx, sql)
			if err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
			if tag.RowsAffected() == 0 {
				return fmt.Errorf("%s: it changed nothing", sql)
			}
		}
		return nil
	}))
}

// keep remembers the tables that an audit reads, and more of them, for restore.
func (r *recorded) keep(more ...string) {
	r.t.Helper()
	r.kept = append(slices.Clone(audited), more...)
	for _, table := range r.kept {
		_, err := r.db.Pool.Exec(r.ctx, "create table kept_"+table+" as table "+table)
		require.NoError(r.t, err)
	}
}

func (r *recorded) restore() {
	r.t.Helper()
	require.NoError(r.t, pgx.BeginFunc(r.ctx, r.db.Pool, func(tx pgx.Tx) error {
		sql := "set local session_replication_role = replica;"
		for _, table := range r.kept {
			sql += "delete from " + table + "; insert into " + table + " overriding system value table kept_" + table + ";"
		}
		_, err := tx.Exec(r.ctx, sql)
		return err
	}))
	require.Empty(r.t, r.audit().Problems)
}

func TestAudit(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	report := r.audit()
	require.Empty(t, report.Problems)
	require.Equal(t, 2, report.Checkpoints)
	entries, err := r.db.Entries(r.ctx, 0, 1000)
	require.NoError(t, err)
	require.EqualValues(t, len(entries), report.Entries)
	last := r.checkpoint()
	require.EqualValues(t, len(entries), last.Size)
	require.Equal(t, report.Root, last.Root.String())
	require.Equal(t, last, r.checkpoint(), "the same size is signed once")
	require.Equal(t, 3, r.audit().Checkpoints)

	other, err := r.db.Audit(r.ctx, newSigner(t).PublicKey())
	require.NoError(t, err)
	require.Len(t, other.Problems, 3)
	require.Contains(t, other.Problems[0], "not signed by a key of this ledger")
}

func TestCreateLedger(t *testing.T) {
	t.Parallel()
	db, signer, ctx := pgtest.New(t), newSigner(t), t.Context()
	empty, err := db.Checkpoint(ctx, signer)
	require.NoError(t, err)
	require.NoError(t, db.CreateLedger(ctx, signer.PublicKey()))
	require.NoError(t, db.CreateLedger(ctx, "another"), "it exists")
	entries, err := db.Entries(ctx, 0, 10)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, ledger.KindCreated, entries[0].Kind)
	require.Equal(t, signer.PublicKey(), entries[0].Subject)
	grown, err := db.Checkpoint(ctx, signer)
	require.NoError(t, err)
	require.NotEqual(t, empty, grown)
	report, err := db.Audit(ctx, signer.PublicKey())
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.Equal(t, 2, report.Checkpoints)
}

// TestTampering: whoever owns the tables and disables their triggers is found, and what was touched is named.
func TestTampering(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	r.keep()
	at, after := fmt.Sprint(r.promoted), fmt.Sprint(r.promoted+1)
	other := `convert_to(replace(convert_from(body, 'UTF8'), 'user:ada', 'user:eve'), 'UTF8')`
	leaf := func(index string) string { return `2 * ` + index + ` - bit_count(` + index + `::bigint::bit(64))` }
	leafOf := func(body string) string { return `sha256('\x00'::bytea || ` + body + `)` }
	swap := `update ledger_entries e set body = o.body, kind = o.kind, actor = o.actor, repository = o.repository, digest = o.digest, environment = o.environment, at = o.at
		from ledger_entries o where e.index in (` + at + `, ` + after + `) and o.index = ` + at + ` + ` + after + ` - e.index`
	for name, c := range map[string]struct {
		sql  []string
		want []string // each in some problem
	}{
		"a changed body":      {[]string{`update ledger_entries set body = ` + other + `, actor = 'user:eve' where index = ` + at}, []string{"entry " + at + " was changed after it was recorded"}},
		"a changed column":    {[]string{`update ledger_entries set actor = 'user:eve' where index = ` + at}, []string{"entry " + at + `: its column actor says "user:eve", its body "user:ada"`}},
		"a changed time":      {[]string{`update ledger_entries set at = at - interval '1 day' where index = ` + at}, []string{"entry " + at + ": its column at says"}},
		"another spelling":    {[]string{`update ledger_entries set body = body || '\x20'::bytea where index = ` + at}, []string{"entry " + at + ": ledger entry is not in its canonical form"}},
		"a removed entry":     {[]string{`delete from ledger_entries where index = ` + at}, []string{"entry " + at + " is missing"}},
		"a removed first one": {[]string{`delete from ledger_entries where index = 0`}, []string{"entry 0 is missing"}},
		"removed with hashes": {[]string{`delete from ledger_entries where index = ` + at, `delete from ledger_hashes where index = ` + leaf(at)}, []string{"entry " + at + " is missing", "cannot be checked"}},
		"the last removed":    {[]string{`delete from ledger_entries where index >= ` + after}, []string{"the ledger ends before entry " + after, "stored hashes belong to no entry"}},
		"the last removed with hashes": {[]string{`delete from ledger_entries where index >= ` + after, `delete from ledger_hashes where index >= ` + leaf(after)},
			[]string{"the ledger ends before entry " + after}},
		"all removed":     {[]string{`delete from ledger_entries`, `delete from ledger_hashes`}, []string{"the ledger ends before entry 0"}},
		"swapped entries": {[]string{swap}, []string{"entry " + at + " was changed", "entry " + after + " was changed"}},
		"an inserted entry": {[]string{`update ledger_entries set index = index + 100000 where index >= ` + at, `update ledger_entries set index = index - 99999 where index >= 100000`,
			`insert into ledger_entries select ` + at + `, body, kind, actor, repository, digest, environment, at from ledger_entries where index = 1`},
			[]string{"entry " + at + " was changed", "entry " + after + " was changed"}},
		"an appended entry": {[]string{`insert into ledger_entries select max(index) over () + 1, body, kind, actor, repository, digest, environment, at from ledger_entries order by index limit 1`},
			[]string{"has no stored hash: it was inserted by hand"}},
		"body and leaf": {[]string{`update ledger_entries set body = ` + other + `, actor = 'user:eve' where index = ` + at,
			`update ledger_hashes set hash = ` + leafOf(`(select body from ledger_entries where index = `+at+`)`) + ` where index = ` + leaf(at)},
			[]string{"one of them was changed", "is not what entry " + at + ` recorded: its actor is "user:ada", not "user:eve"`}},
		"a changed hash":       {[]string{`update ledger_hashes set hash = sha256(hash) where index = 2`}, []string{"stored hash 2 (level 1, node 0) is not that of entries 0 to 1"}},
		"a removed hash":       {[]string{`delete from ledger_hashes where index = 2`}, []string{"stored hash 2 (level 1, node 0) is missing"}},
		"a removed leaf":       {[]string{`delete from ledger_hashes where index = ` + leaf(at)}, []string{"entry " + at + " has no stored hash"}},
		"a forged checkpoint":  {[]string{`update ledger_checkpoints set note = replace(note, E'\n' || size || E'\n', E'\n1\n')`}, []string{"is not signed by a key of this ledger"}},
		"a moved checkpoint":   {[]string{`update ledger_checkpoints set size = 1 where size = ` + fmt.Sprint(r.size)}, []string{"stored as that of 1 entries is one of " + fmt.Sprint(r.size)}},
		"a promotion's actor":  {[]string{`update promotions set actor = 'user:eve' where ledger_index = ` + at}, []string{"is not what entry " + at + ` recorded: its actor is "user:eve", not "user:ada"`}},
		"a promotion's digest": {[]string{`update promotions set digest = '` + r.v1.String() + `' where ledger_index = ` + at}, []string{"is not what entry " + at + " recorded: its digest is"}},
		"a removed promotion":  {[]string{`delete from promotions where ledger_index = ` + at}, []string{"entry " + at + ": it records one promotion, and 0 rows"}},
		"an invented promotion": {[]string{`insert into promotions (action, repository, environment, digest, actor, ledger_index) values ('promote', 'shop/returns', 'production', '` + r.v2.String() + `', 'eve', 0)`},
			[]string{"names entry 0, which records no such decision"}},
		"a moved pointer":      {[]string{`update deployments set digest = '` + r.v2.String() + `' where environment = 'production'`}, []string{"production of shop/returns points at " + r.v2.String()}},
		"a removed pointer":    {[]string{`delete from deployments where environment = 'production'`}, []string{"production of shop/returns points nowhere"}},
		"an invented pointer":  {[]string{`insert into deployments (repository, environment, digest, promotion) select 'shop/returns', 'moon', digest, id from promotions limit 1`}, []string{"moon of shop/returns points at"}},
		"an invented grant":    {[]string{`insert into grants values ('production', 'shop/returns', '` + r.v2.String() + `', '` + r.v2.String() + `')`}, []string{"production may pull shop/returns@" + r.v2.String() + ", and no promotion allows that"}},
		"a recall undone":      {[]string{`delete from recalls`}, []string{"entry " + fmt.Sprint(r.recall) + ": ", "the record of recalls does not have it"}},
		"a recall narrowed":    {[]string{`delete from promotions where action = 'recall'`}, []string{"it records a recall from [dev], and the rows of promotions that name it one from []"}},
		"a changed pipeline":   {[]string{`update documents set hash = '` + r.v1.String() + `'`}, []string{"pipeline default@1 was applied with hash"}},
		"a policy by no entry": {[]string{`insert into documents (kind, name, version, hash, body, applied_by) values ('Policy', 'lax', 1, '` + r.v1.String() + `', '', 'eve')`}, []string{"policy lax@1 is there, and no entry records that it was applied"}},
	} {
		t.Run(name, func(t *testing.T) {
			defer r.restore()
			r.tamper(c.sql...)
			report := r.audit()
			require.NotEmpty(t, report.Problems)
			all := strings.Join(report.Problems, "\n")
			for _, want := range c.want {
				require.Contains(t, all, want)
			}
			require.Less(t, len(report.Problems), 30, all)
		})
	}
}

// TestNoCheckpointOfARewrite: a ledger that does not extend what was signed gets no further signature.
func TestNoCheckpointOfARewrite(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	r.keep()
	for name, sql := range map[string][]string{
		"a changed hash": {`update ledger_hashes set hash = sha256(hash) where index = 0`, `update ledger_hashes set hash = sha256(hash) where index = 2`},
		"cut off":        {fmt.Sprintf(`delete from ledger_entries where index >= %d`, r.size)},
	} {
		t.Run(name, func(t *testing.T) {
			defer r.restore()
			// Every node over the change, as one who rewrites would: the leaves stay what the tree is computed from.
			r.tamper(sql...)
			if name == "a changed hash" {
				r.tamper(`update ledger_hashes set hash = sha256(hash) where index > 2`)
			}
			_, err := r.db.Checkpoint(r.ctx, r.signer)
			require.ErrorContains(t, err, "does not extend its checkpoint")
		})
	}
	// A key that was lost cannot be replaced in silence.
	_, err := r.db.Checkpoint(r.ctx, newSigner(t))
	require.ErrorContains(t, err, "last checkpoint")
}

// TestRewrite: whoever rewrites the whole tree, and the records beside it, still cannot sign: the checkpoint catches it,
// and says between which entries the change is.
func TestRewrite(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	entries, err := r.db.Entries(r.ctx, 0, 1000)
	require.NoError(t, err)
	var hashes []ledger.Hash
	read := func(indexes []int64) ([]ledger.Hash, error) {
		var found []ledger.Hash
		for _, index := range indexes {
			found = append(found, hashes[index])
		}
		return found, nil
	}
	r.tamper(`delete from ledger_hashes`, fmt.Sprintf(`update promotions set actor = 'user:eve' where ledger_index = %d`, r.promoted))
	for _, e := range entries {
		if e.Index == r.promoted {
			e.Actor = "user:eve"
		}
		body, err := e.Canonical()
		require.NoError(t, err)
		_, more, err := ledger.Append(e.Index, body, read)
		require.NoError(t, err)
		hashes = append(hashes, more...)
		r.tamper(fmt.Sprintf(`update ledger_entries set body = '\x%x', actor = '%s' where index = %d`, body, e.Actor, e.Index))
	}
	for index, h := range hashes {
		r.tamper(fmt.Sprintf(`insert into ledger_hashes values (%d, '\x%x')`, index, h[:]))
	}
	report := r.audit()
	require.Len(t, report.Problems, 1)
	require.Contains(t, report.Problems[0], fmt.Sprintf("among entries %d to %d one was changed", r.size, len(entries)-2))
	_, err = r.db.Checkpoint(r.ctx, r.signer)
	require.ErrorContains(t, err, "does not extend its checkpoint")
}

// TestProve: every entry can be proven offline, with its body, the proof, the note and the public key.
func TestProve(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	c := r.checkpoint()
	for index := range c.Size {
		body, err := r.db.LedgerBody(r.ctx, index)
		require.NoError(t, err)
		proof, err := r.db.Prove(r.ctx, c.Size, index)
		require.NoError(t, err)
		require.NoError(t, ledger.CheckInclusion(c, index, body, proof))
		require.Error(t, ledger.CheckInclusion(c, index, append(body, ' '), proof))
	}
	_, err := r.db.Prove(r.ctx, c.Size, c.Size)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	_, err = r.db.Prove(r.ctx, c.Size+100, 0)
	require.Error(t, err, "a tree that is not there yet")
	_, err = r.db.LedgerBody(r.ctx, c.Size)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

// TestAppendAtOnce: entries appended at once, with checkpoints and audits between them, make one sound ledger.
func TestAppendAtOnce(t *testing.T) {
	t.Parallel()
	db, signer, ctx := pgtest.New(t), newSigner(t), t.Context()
	var wg sync.WaitGroup
	errs := make(chan error, 400)
	for i := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range 20 {
				_, err := db.Record(ctx, ledger.Entry{Kind: "signed", Actor: fmt.Sprint(i), Version: fmt.Sprint(n)})
				errs <- err
				if n%5 == i {
					_, err := db.Checkpoint(ctx, signer)
					errs <- err
					report, err := db.Audit(ctx, signer.PublicKey())
					errs <- err
					if len(report.Problems) > 0 {
						errs <- fmt.Errorf("while appending: %v", report.Problems)
					}
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	report, err := db.Audit(ctx, signer.PublicKey())
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.EqualValues(t, 80, report.Entries)
	require.NotZero(t, report.Checkpoints)
}

func newSigner(t testing.TB) *ledger.Signer {
	t.Helper()
	private, _, err := ledger.GenerateKey()
	require.NoError(t, err)
	signer, err := ledger.NewSigner(private)
	require.NoError(t, err)
	return signer
}

// TestTiles: what a stored ledger serves as tiles gives its root, at each size; and the proof that it only grew.
func TestTiles(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	first, err := r.db.Checkpoint(r.ctx, r.signer)
	require.NoError(t, err)
	for range 300 {
		_, err := r.db.Record(r.ctx, ledger.Entry{Kind: "signed", Actor: "system", Digest: r.v1})
		require.NoError(t, err)
	}
	fetch := func(ctx context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			note, err := r.db.Checkpoint(ctx, r.signer)
			return []byte(note), err
		}
		tile, err := ledger.ParseTile(path)
		if err != nil {
			return nil, err
		}
		return r.db.LedgerTile(ctx, tile)
	}
	report, err := ledger.AuditTiles(r.ctx, fetch, []string{r.signer.PublicKey()}, first)
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.Equal(t, r.audit().Root, report.Root)

	older, err := ledger.OpenCheckpoint(first, r.signer.PublicKey())
	require.NoError(t, err)
	newer := r.checkpoint()
	proof, err := r.db.ProveConsistency(r.ctx, newer.Size, older.Size)
	require.NoError(t, err)
	require.NoError(t, ledger.CheckConsistency(newer, older, proof))
	for _, sizes := range [][2]int64{{0, newer.Size}, {newer.Size, older.Size}, {older.Size, newer.Size + 1}, {-1, 1}} {
		_, err := r.db.ProveConsistency(r.ctx, sizes[1], sizes[0])
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), "%v", sizes)
	}
	for _, tile := range []ledger.Tile{{Level: 0, N: 1, Width: 256}, {Level: -1, N: 9, Width: 1}, {Level: 1, N: 0, Width: 2}, {Level: 5, N: 0, Width: 1}} {
		_, err := r.db.LedgerTile(r.ctx, tile)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err), "%v", tile)
	}
	r.tamper(`delete from ledger_entries where index = 7`)
	report, err = ledger.AuditTiles(r.ctx, fetch, []string{r.signer.PublicKey()}, first)
	require.NoError(t, err)
	require.Contains(t, report.Problems[0], "the ledger has 255 of its 256 entries")
}
