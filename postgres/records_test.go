package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/ledger"
	"waybill/promotion"
)

// newDecided is a recorded shop in which people decided: an approval stands and another was revoked, an override was made, a release
// went out, and there are tokens.
func newDecided(t *testing.T) *recorded {
	t.Helper()
	r := newRecorded(t)
	r.apply(strings.ReplaceAll(approved, "count: 2", "count: 1"))
	production := parsed(t, artifact.ParseEnvironment, "production")
	approve := func(name string) artifact.Approval {
		a, err := r.service.Approve(r.ctx, artifact.Principal{Name: name, Role: artifact.Approver}, promotion.Request{Repository: r.repository, Version: "v2", Environment: production})
		require.NoError(t, err)
		return a
	}
	approve("user:bob")
	_, err := r.service.RevokeApproval(r.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver}, approve("user:eve").ID)
	require.NoError(t, err)
	_, err = r.service.CreateRelease(r.ctx, r.ada, "shop-1", "week 47", []promotion.Request{{Repository: r.repository, Version: "v1"}})
	require.NoError(t, err)
	_, err = r.service.PromoteRelease(r.ctx, r.ada, "shop-1", promotion.Request{Environment: parsed(t, artifact.ParseEnvironment, "dev")})
	require.NoError(t, err)
	r.release("v4")
	root := artifact.Principal{Name: "user:root", Role: artifact.Admin}
	_, err = r.service.Promote(r.ctx, root, promotion.Request{Repository: r.repository, Version: "v4", Environment: production, Reason: "fire", Override: true})
	require.NoError(t, err)
	s := auth.NewService(auth.Config{Store: r.db, Now: time.Now})
	for _, name := range []string{"ci", "old"} {
		_, made, err := s.Create(r.ctx, root, auth.Grant{Name: name, Role: artifact.Reader, Repositories: []string{"shop/**"}, Expires: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		if name == "old" {
			require.NoError(t, s.Revoke(r.ctx, root, made.ID))
		}
	}
	more := []artifact.Binding{{Role: artifact.Deployer, Environments: []artifact.Environment{production}}}
	require.NoError(t, r.db.CreateToken(r.ctx, auth.Token{ID: "0123456789ab", Name: "grace", Role: artifact.Promoter, More: more, Session: "user:grace", CreatedBy: "user:grace",
		CreatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}, make([]byte, 32)))
	r.checkpoint()
	require.Empty(t, r.audit().Problems)
	return r
}

// TestTamperedRecords: what decisions wrote beside the ledger, and what is enforced, is what the ledger says.
func TestTamperedRecords(t *testing.T) {
	t.Parallel()
	r := newDecided(t)
	unsigned := r.put("unsigned", nil)
	r.keep("approvals", "releases", "release_services", "tokens", "signatures", "manifests")
	v3 := r.digest(`select digest from recalls`)
	grants := func(environment, what string, root artifact.Digest) string {
		return fmt.Sprintf(`insert into grants select '%s', 'shop/returns', %s, '%s' from manifest_references where manifest = '%s' and kind = 'layer'`, environment, what, root, r.v2)
	}
	for name, c := range map[string]struct{ sql, want string }{
		"a document's text":        {`update documents set body = replace(body, 'count: 1', 'count: 20')`, "the text of pipeline shop@1 is not the one that was applied"},
		"who applied a document":   {`update documents set applied_by = 'user:eve' where name = 'shop'`, "pipeline shop@1 was applied by user:ada, and its record says user:eve"},
		"an invented approval":     {`insert into approvals (repository, digest, environment, actor, role, at, ledger_index) select repository, digest, environment, 'user:mallory', role, at, ledger_index from approvals limit 1`, "is there, and no entry records that it was made"},
		"an approver":              {`update approvals set actor = 'user:mallory' where revoked_at is null`, "is not what entry"},
		"an approval's role":       {`update approvals set role = 'admin' where revoked_at is null`, "is not what entry"},
		"an approval's digest":     {`update approvals set digest = '` + r.v1.String() + `' where revoked_at is null`, "is not what entry"},
		"an approval removed":      {`delete from approvals where revoked_at is null`, "was made, but is not there"},
		"an approval revived":      {`update approvals set revoked_at = null, revoked_by = null where revoked_at is not null`, "was revoked, and its record does not say so"},
		"an approval ended":        {`update approvals set revoked_at = now(), revoked_by = 'user:eve' where revoked_at is null`, "is revoked, and no entry records that"},
		"a release's digest":       {`update release_services set digest = '` + r.v2.String() + `'`, "release shop-1 is not what entry"},
		"a release's services":     {`delete from release_services`, "release shop-1 is not what entry"},
		"a release removed":        {`delete from releases`, "release shop-1 was made, but is not there"},
		"an invented release":      {`insert into releases (name, actor, at, ledger_index) values ('shop-2', 'eve', now(), 1)`, "release shop-2 is there, and no entry records that it was made"},
		"a token's role":           {`update tokens set role = 'admin' where name = 'ci'`, "is not what entry"},
		"a token's repositories":   {`update tokens set repositories = '{}' where name = 'ci'`, "is not what entry"},
		"a token's secret":         {`update tokens set hash = sha256(hash) where name = 'ci'`, "is not what entry"},
		"a token's end":            {`update tokens set expires_at = expires_at + interval '1 day' where name = 'ci'`, "is not what entry"},
		"a session's roles":        {`update tokens set more = '[{"role": "admin"}]' where name = 'grace'`, "token 0123456789ab is not what entry"},
		"a session's person":       {`update tokens set principal = 'user:ada' where name = 'grace'`, "token 0123456789ab is not what entry"},
		"a token revived":          {`update tokens set revoked_at = null where name = 'old'`, "was revoked, and its record does not say so"},
		"an invented token":        {`insert into tokens (id, hash, name, role, created_by, created_at, expires_at) values ('ba9876543210', sha256('x'), 'x', 'admin', 'x', now(), now() + interval '1 day')`, "token ba9876543210 is there, and no entry records that it was made"},
		"an override hidden":       {`update promotions set overridden = '{}' where overridden <> '{}'`, "the gates that it overrode are not those of the entry before"},
		"an override invented":     {`update promotions set overridden = '{soak: too early}' where release <> ''`, "the gates that it overrode are not those of the entry before"},
		"a promotion's release":    {`update promotions set release = '' where release <> ''`, `its release is "", not "shop-1"`},
		"a recall's reason":        {`update recalls set reason = 'nothing', actor = 'user:eve'`, "the record of the recall of shop/returns@" + v3},
		"a recall's link":          {`update promotions set advisory = 'https://evil.example' where action = 'recall'`, `its advisory is "https://evil.example", not ""`},
		"a pointer's promotion":    {`update deployments set promotion = (select min(id) from promotions) where environment = 'dev'`, "names another's time, actor or reason"},
		"who pushed an image":      {`update manifests set pushed_by = 'user:mallory' where digest = '` + r.v2.String() + `'`, "shop/returns@" + r.v2.String() + " is said to be pushed by user:mallory, and no entry records that"},
		"an invented signature":    {`insert into signatures (repository, digest, predicate, key_id, policy_hash, signed_at, manifest) select repository, '` + unsigned.String() + `', predicate, key_id, policy_hash, signed_at, manifest from signatures where signed_at is not null limit 1`, "shop/returns@" + unsigned.String() + " counts as signed by key"},
		"a signature's key":        {`update signatures set key_id = repeat('a', 64) where digest = '` + r.v1.String() + `'`, "shop/returns@" + r.v1.String() + " counts as signed by key aaaaaaaaaaaa, and no entry records that"},
		"an image beside the root": {grants("dev", "manifest", r.v1), "dev may pull shop/returns@" + r.v2.String() + " with " + r.v1.String() + ", of which it is no part"},
		"a layer beside the root":  {grants("dev", "digest", r.v1), "with " + r.v1.String() + ", of which it is no part"},
		"that a token was used":    {`update tokens set last_used_at = now()`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer r.restore()
			r.tamper(c.sql)
			problems := r.audit().Problems
			if c.want == "" {
				require.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			require.Contains(t, strings.Join(problems, "\n"), c.want)
			require.Less(t, len(problems), 4, "it accuses nothing else: %v", problems)
		})
	}
}

// TestRecallUndoneByGrants: that an index is promoted lets nobody pull again what was recalled of it.
func TestRecallUndoneByGrants(t *testing.T) {
	t.Parallel()
	r := &recorded{shop: newShop(t), signer: newSigner(t)}
	child := r.put("arm64", nil)
	both := r.put("v1", func(p *artifact.Push) { index(child, r.put("amd64", nil))(p); tagged(t, "v1")(p) })
	r.sign(both, "key-1")
	r.mustPromote("v1", "dev")
	require.NoError(t, r.db.Recall(context.Background(), r.repository, child, "ada", "bad", ""))
	require.Empty(t, r.audit().Problems)
	r.tamper(fmt.Sprintf(`insert into grants values ('dev', 'shop/returns', '%s', '%s')`, child, both))
	require.Equal(t, []string{fmt.Sprintf("dev may pull shop/returns@%s with %s, of which it is no part", child, both)}, r.audit().Problems)
}

func (r *recorded) digest(sql string) (d string) {
	r.t.Helper()
	require.NoError(r.t, r.db.Pool.QueryRow(r.ctx, sql).Scan(&d))
	return d
}

// TestOlderEntries: what is recorded by entries that say less, as those of older releases do, is sound; and is held to what they say.
func TestOlderEntries(t *testing.T) {
	t.Parallel()
	r := newRecorded(t)
	record := func(e ledger.Entry) int64 {
		index, err := r.db.Record(r.ctx, e)
		require.NoError(t, err)
		return index
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	record(ledger.Entry{Kind: ledger.KindTokenCreated, Actor: "user:root", Subject: "cafecafecafe", Reason: "reader ci"})
	index := record(ledger.Entry{Kind: ledger.KindApproval, Actor: "user:bob", At: at, Repository: r.repository, Digest: r.v1, Environment: parsed(t, artifact.ParseEnvironment, "production"), Subject: "4711"})
	record(ledger.Entry{Kind: ledger.KindPolicyApplied, Actor: "user:root", Subject: "old", Version: "1", Digest: r.v1})
	r.tamper(`insert into tokens (id, hash, name, role, created_by, created_at, expires_at) values ('cafecafecafe', sha256('x'), 'ci', 'reader', 'user:root', now(), now() + interval '1 day')`,
		fmt.Sprintf(`insert into approvals (id, repository, digest, environment, actor, role, at, ledger_index) overriding system value values (4711, 'shop/returns', '%s', 'production', 'user:bob', 'approver', '%s', %d)`,
			r.v1, at.Format(time.RFC3339Nano), index),
		fmt.Sprintf(`insert into documents (kind, name, version, hash, body, applied_by) values ('Policy', 'old', 1, '%s', '', 'user:root')`, r.v1))
	require.Empty(t, r.audit().Problems)
	r.tamper(`update tokens set role = 'admin'`, `update approvals set actor = 'user:eve'`, `update documents set applied_by = 'user:eve' where name = 'old'`)
	require.Len(t, r.audit().Problems, 3)
}
