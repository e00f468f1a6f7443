package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
)

func TestOverride(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.apply(approved)
	v1 := s.release("v1")
	root := artifact.Principal{Name: "user:root", Role: artifact.Admin}
	production := parsed(t, artifact.ParseEnvironment, "production")
	override := func(p artifact.Principal, version, reason string) (promotion.Result, error) {
		return s.service.Promote(s.ctx, p, promotion.Request{Repository: s.repository, Version: version, Environment: production, Reason: reason, Override: true})
	}
	_, err := override(s.ada, "v1", "it burns")
	require.Equal(t, artifact.Denied, artifact.KindOf(err), "a promoter may not")
	require.ErrorContains(t, err, "role admin")
	_, err = override(root, "v1", " ")
	require.Equal(t, artifact.Invalid, artifact.KindOf(err), "not without a reason")

	done, err := override(root, "v1", "it burns")
	require.NoError(t, err)
	require.Len(t, done.Overridden, 2)
	require.Contains(t, done.Overridden[0], "after: it was not promoted to dev")
	require.Contains(t, done.Overridden[1], "approvals: it has 0 of 2")
	entries, err := s.db.Entries(s.ctx, done.LedgerIndex-1, 2)
	require.NoError(t, err)
	require.Equal(t, "override", entries[0].Kind)
	require.Contains(t, asJSON(t, entries[0]), "after: it was not promoted to dev")
	require.Contains(t, asJSON(t, entries[0]), "it burns")
	history, err := s.db.History(s.ctx, s.repository)
	require.NoError(t, err)
	require.Equal(t, done.Overridden, history[len(history)-1].Overridden)

	// What nobody overrides: policy, a recall, a signature that is missing.
	unsigned := s.put("v2", nil)
	_, err = override(root, unsigned.String(), "it burns")
	require.Equal(t, []string{"signed"}, rules(t, err))
	v3 := s.release("v3")
	s.judge.denied[v3] = true
	_, err = override(root, "v3", "it burns")
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	require.NotContains(t, rules(t, err), "after")
	require.NoError(t, s.service.Recall(s.ctx, s.ada, s.repository, v1, "CVE", "https://example.org/advisory/1"))
	_, err = override(root, "v1", "it burns")
	require.Equal(t, []string{"recalled"}, rules(t, err))
	require.ErrorContains(t, err, "see https://example.org/advisory/1")

	// One that every gate lets pass is no override.
	s.release("v4")
	done, err = s.service.Promote(s.ctx, root, promotion.Request{Repository: s.repository, Version: "v4", Environment: parsed(t, artifact.ParseEnvironment, "dev"), Reason: "as ever", Override: true})
	require.NoError(t, err)
	require.Empty(t, done.Overridden)
	s.sound()
}

func TestRollbackToAVersion(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	for _, v := range []string{"v2", "v3", "v4", "v5"} {
		s.release(v)
	}
	for _, v := range []string{"v1", "v2", "v3", "v4"} {
		s.mustPromote(v, "dev")
	}
	to := func(version string) (promotion.Result, error) {
		return s.service.RollbackTo(s.ctx, s.ada, promotion.Request{Repository: s.repository, Version: version, Environment: parsed(t, artifact.ParseEnvironment, "dev"), Reason: "it burns"})
	}
	done, err := to(v1.String())
	require.NoError(t, err)
	require.Equal(t, "v1", done.Version)
	require.Equal(t, v1, s.current("dev"))
	_, err = to("v5")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "it never ran there")
	done, err = to("v3")
	require.NoError(t, err)
	require.Equal(t, "rollback", done.Action)
	require.NoError(t, s.service.Recall(s.ctx, s.ada, s.repository, v1, "CVE", ""))
	_, err = to(v1.String())
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "%v", err)
	for _, link := range []string{"javascript:alert(1)", "nvd", "https://", "https://ada:secret@example.org/"} {
		err := s.service.Recall(s.ctx, s.ada, s.repository, v1, "CVE", link)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), link)
	}
	s.sound()
}

func TestRetireEnvironment(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	s.release("v2")
	s.mustPromote("v1", "dev", "staging")
	s.mustPromote("v2", "dev", "staging")
	root := artifact.Principal{Name: "user:root", Role: artifact.Admin}
	staging := parsed(t, artifact.ParseEnvironment, "staging")
	_, err := s.service.Retire(s.ctx, s.ada, staging, "no")
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	_, err = s.service.Retire(s.ctx, root, staging, "the hall is closed")
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	require.ErrorContains(t, err, "apply it without")
	s.apply("apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: default}\nspec: {match: {repositories: ['**']}, environments: [{name: dev}]}\n")
	_, err = s.db.RetireEnvironment(s.ctx, staging, "user:root", "too early", 1)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "a pipeline was applied meanwhile")
	n, err := s.service.Retire(s.ctx, root, staging, "the hall is closed")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	granted, err := s.db.Granted(s.ctx, []artifact.Environment{staging}, s.repository, v1)
	require.NoError(t, err)
	require.False(t, granted)
	require.Zero(t, s.current("staging"))
	n, err = s.service.Retire(s.ctx, root, staging, "again")
	require.NoError(t, err)
	require.Zero(t, n)

	s.apply("apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: default}\nspec: {match: {repositories: ['**']}, environments: [{name: dev}, {name: staging}, {name: production, requires: {after: [staging]}}]}\n")
	_, err = s.promote("v1", "production")
	require.Equal(t, []string{"after"}, rules(t, err), "what was there once counts no more")
	s.mustPromote("v1", "staging", "production")
	s.sound()
}
