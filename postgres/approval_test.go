package postgres_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
)

const approved = `apiVersion: waybill/v1
kind: Pipeline
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  environments:
    - name: dev
    - name: production
      requires: {after: [dev], approvals: {count: 2, notPusher: true}}
`

func TestApprovals(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.apply(approved)
	production := parsed(t, artifact.ParseEnvironment, "production")
	everyone := func(artifact.Repository) bool { return true }
	approve := func(name, version string) (artifact.Approval, error) {
		return s.service.Approve(s.ctx, artifact.Principal{Name: name, Role: artifact.Approver}, promotion.Request{Repository: s.repository, Version: version, Environment: production, Reason: "it is fine"})
	}
	v1, v2 := s.release("v1"), s.release("v2")
	s.mustPromote("v1", "dev")
	_, err := s.promote("v1", "production")
	require.Equal(t, []string{"approvals"}, rules(t, err))

	for name, p := range map[string]artifact.Principal{"a promoter": s.ada, "nobody": {}, "who pushed it": {Name: "token:ci", Role: artifact.Approver},
		"who pushed it, by another token": {Name: "token:ci/0123456789ab", Role: artifact.Approver}, "another role": {Name: "root", Role: artifact.Admin},
		"elsewhere": {Name: "eve", Role: artifact.Approver, Repositories: []string{"bank/**"}}} {
		_, err := s.service.Approve(s.ctx, p, promotion.Request{Repository: s.repository, Version: "v1", Environment: production})
		require.Equal(t, artifact.Denied, artifact.KindOf(err), "%s: %v", name, err)
	}
	_, err = s.service.Approve(s.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver}, promotion.Request{Repository: s.repository, Version: "v1", Environment: parsed(t, artifact.ParseEnvironment, "dev")})
	require.ErrorContains(t, err, "asks for no approvals")

	bob, err := approve("user:bob", "v1")
	require.NoError(t, err)
	require.Equal(t, v1, bob.Digest)
	_, err = approve("user:bob", "v1")
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "nobody counts twice")
	waiting, err := s.service.Waiting(s.ctx, everyone)
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.Equal(t, v1, waiting[0].Digest)
	require.Len(t, waiting[0].Approvals, 1)
	none, err := s.service.Waiting(s.ctx, func(artifact.Repository) bool { return false })
	require.NoError(t, err)
	require.Empty(t, none)

	// The digest is approved, and not what a tag will mean.
	_, err = approve("user:eve", "v2")
	require.NoError(t, err)
	_, err = s.promote("v1", "production")
	require.ErrorContains(t, err, "1 of 2")
	eve, err := approve("user:eve", "v1")
	require.NoError(t, err)
	_, err = s.service.RevokeApproval(s.ctx, s.ada, eve.ID)
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	_, err = s.service.RevokeApproval(s.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver, Repositories: []string{"bank/**"}}, eve.ID)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "and is not told what there is")
	_, err = s.service.RevokeApproval(s.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver, Environments: []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}}, eve.ID)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "an approver of another environment")
	_, err = s.service.RevokeApproval(s.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver}, eve.ID)
	require.NoError(t, err)
	_, err = s.promote("v1", "production")
	require.ErrorContains(t, err, "1 of 2")
	eve, err = approve("user:eve", "v1")
	require.NoError(t, err)

	// One that is revoked while a promotion is under way is no longer rested on.
	verdict, err := s.judge.JudgeStored(s.ctx, s.repository, v1)
	require.NoError(t, err)
	pass, err := verdict.Promotion()
	require.NoError(t, err)
	move := s.to(artifact.Promotion{Action: "promote", Repository: s.repository, Environment: production, Digest: v1, Actor: "user:ada", PolicyHash: pass.PolicyHash()}, pass)
	move.Approvals, move.Versions = []int64{bob.ID, 4711}, 2
	_, err = s.db.Promote(s.ctx, move)
	require.ErrorContains(t, err, "approval was revoked at this moment")
	move.Approvals, move.Versions = nil, 1
	_, err = s.db.Promote(s.ctx, move)
	require.ErrorContains(t, err, "pipelines changed at this moment")

	s.mustPromote("v1", "production")
	require.Equal(t, v1, s.current("production"))
	waiting, err = s.service.Waiting(s.ctx, everyone)
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.Equal(t, v2, waiting[0].Digest, "what somebody approved waits for the others")
	entries, err := s.db.Entries(s.ctx, 0, 1000)
	require.NoError(t, err)
	kinds := map[string]int{}
	for _, e := range entries {
		kinds[e.Kind]++
	}
	require.Equal(t, 4, kinds["approval"])
	require.Equal(t, 1, kinds["approval.revoked"])
	_, err = s.db.Pool.Exec(s.ctx, "update approvals set actor = 'user:mallory' where id = $1", bob.ID)
	require.ErrorContains(t, err, "an approval only ends")
	_ = eve
	s.sound()
}

// TestApprovalsOfOneHolder: two tokens of one name are no two people, nor does one approve what goes by the other.
func TestApprovalsOfOneHolder(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.apply(approved)
	s.release("v1")
	s.mustPromote("v1", "dev")
	production := parsed(t, artifact.ParseEnvironment, "production")
	request := promotion.Request{Repository: s.repository, Version: "v1", Environment: production}
	approve := func(name string) error {
		_, err := s.service.Approve(s.ctx, artifact.Principal{Name: name, Role: artifact.Approver}, request)
		return err
	}
	require.NoError(t, approve("token:zoe/0123456789ab"))
	err := approve("token:zoe/ba9876543210")
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "%v", err)
	require.NoError(t, approve("token:rita/0123456789ab"))
	_, err = s.service.Promote(s.ctx, artifact.Principal{Name: "token:rita/ba9876543210", Role: artifact.Promoter}, request)
	require.ErrorContains(t, err, "that of token:rita/0123456789ab does not count, who promotes it")
	s.mustPromote("v1", "production")
	s.sound()
}

func TestApprovalsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.apply(approved)
	s.release("v1")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = s.service.Approve(s.ctx, artifact.Principal{Name: "user:bob", Role: artifact.Approver},
				promotion.Request{Repository: s.repository, Version: "v1", Environment: parsed(t, artifact.ParseEnvironment, "production")})
		})
	}
	wg.Wait()
	given := 0
	for _, err := range errs {
		if err == nil {
			given++
		} else {
			require.Equal(t, artifact.Conflict, artifact.KindOf(err), "%v", err)
		}
	}
	require.Equal(t, 1, given)
	s.sound()
}

// TestSoak: the time counts from the promotion to the environment before, the last one.
func TestSoak(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.apply("apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: shop}\nspec:\n  match: {repositories: ['shop/**']}\n  environments: [{name: dev}, {name: production, requires: {after: [dev], soak: 2h}}]\n")
	w.lands("v1", "1000")
	w.lands("v2", "1000")
	w.mustPromote("v1", "dev")
	w.pass(time.Hour)
	w.mustPromote("v2", "dev")
	w.pass(30 * time.Minute)
	w.mustPromote("v1", "dev")
	w.pass(2*time.Hour - time.Second)
	_, err := w.promote("v1", "production")
	require.Equal(t, []string{"soak"}, rules(t, err))
	w.mustPromote("v2", "production")
	w.pass(time.Second)
	w.mustPromote("v1", "production")
	w.sound()
}
