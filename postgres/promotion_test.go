package postgres_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/promotion"
)

func TestPromote(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.put("v1", tagged(t, "v1"))
	_, err := s.promote("v1", "production")
	require.Equal(t, []string{"after", "signed"}, rules(t, err), "every unmet gate at once")
	s.judge.denied[v1] = true
	_, err = s.promote("v1", "production")
	require.Equal(t, []string{"inspect", "after", "signed"}, rules(t, err))
	delete(s.judge.denied, v1)
	_, err = s.promote("v1", "dev")
	require.Equal(t, []string{"signed"}, rules(t, err), "no signature, no promotion, to any environment")
	signature := s.sign(v1, "key-1")

	dry, err := s.service.Promote(s.ctx, s.ada, promotion.Request{Repository: s.repository, Version: "v1", Environment: parsed(t, artifact.ParseEnvironment, "dev"), DryRun: true})
	require.NoError(t, err)
	require.Equal(t, v1, dry.Digest)
	require.Zero(t, dry.ID)
	require.True(t, s.current("dev").IsZero())
	require.Error(t, s.pulls("dev", v1))
	history, err := s.db.History(s.ctx, s.repository)
	require.NoError(t, err)
	require.Empty(t, history)

	done, err := s.promote("v1", "dev")
	require.NoError(t, err)
	require.NotZero(t, done.ID)
	require.Equal(t, "v1", done.Version)
	require.Equal(t, v1, s.current("dev"))
	for _, d := range []artifact.Digest{v1, signature, artifact.DigestOf([]byte("layer of v1")), artifact.DigestOf([]byte("{}"))} {
		require.NoError(t, s.pulls("dev", d))
		require.ErrorContains(t, s.pulls("staging", d), "not promoted to staging")
	}
	entries, err := s.db.Entries(s.ctx, done.LedgerIndex, 1)
	require.NoError(t, err)
	entry := entries[0].Entry
	require.Equal(t, ledger.KindPromotion, entry.Kind)
	require.Equal(t, v1, entry.Digest)
	require.Equal(t, done.PolicyHash, entry.PolicyHash)
	require.Contains(t, entry.Evidence, signature)
	require.True(t, done.At.Equal(entry.At))

	again, err := s.promote("v1", "dev")
	require.NoError(t, err)
	require.True(t, again.Unchanged)
	history, err = s.db.History(s.ctx, s.repository)
	require.NoError(t, err)
	require.Len(t, history, 1, "nothing is recorded twice")

	v2 := s.release("v2")
	done, err = s.promote(v2.String(), "dev")
	require.NoError(t, err)
	require.Equal(t, v1, done.Previous)
	require.Equal(t, "v2", done.Version, "a digest goes by its tag")
	require.NoError(t, s.pulls("dev", v1), "what ran before can still be pulled")
	// By the beginning of its digest, and by the environment that runs it.
	done, err = s.promote(v2.Short(), "staging")
	require.NoError(t, err)
	require.Equal(t, v2, done.Digest)
	done, err = s.promote("staging", "production")
	require.NoError(t, err)
	require.Equal(t, v2, done.Digest)
	require.Equal(t, "v2", done.Version)
	s.sound()
}

func TestPromoteRefuses(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	for name, c := range map[string]struct {
		p                    artifact.Principal
		version, environment string
		kind                 artifact.Kind
	}{
		"a pusher":                 {artifact.Principal{Name: "ci", Role: artifact.Pusher}, "v1", "dev", artifact.Denied},
		"a deployer":               {artifact.Principal{Name: "node", Role: artifact.Deployer}, "v1", "dev", artifact.Denied},
		"another environment":      {artifact.Principal{Name: "p", Role: artifact.Promoter, Environments: []artifact.Environment{parsed(t, artifact.ParseEnvironment, "staging")}}, "v1", "dev", artifact.Denied},
		"another repository":       {artifact.Principal{Name: "p", Role: artifact.Promoter, Repositories: []string{"bank/**"}}, "v1", "dev", artifact.Denied},
		"nobody":                   {artifact.Principal{}, "v1", "dev", artifact.Denied},
		"an admin, past the gates": {artifact.Principal{Name: "root", Role: artifact.Admin}, "v1", "production", artifact.Denied},
		"no such tag":              {s.ada, "v9", "dev", artifact.NotFound},
		"no such digest":           {s.ada, artifact.DigestOf([]byte("x")).String(), "dev", artifact.NotFound},
		"no such short digest":     {s.ada, "0123456789ab", "dev", artifact.NotFound},
		"malformed":                {s.ada, "sha256:xyz", "dev", artifact.Invalid},
		"no such environment":      {s.ada, "v1", "moon", artifact.NotFound},
	} {
		_, err := s.service.Promote(s.ctx, c.p, promotion.Request{Repository: s.repository, Version: c.version, Environment: parsed(t, artifact.ParseEnvironment, c.environment)})
		require.Equal(t, c.kind, artifact.KindOf(err), "%s: %v", name, err)
	}
	// Not even the store takes a promotion without a pass for exactly it.
	p := artifact.Promotion{Action: "promote", Repository: s.repository, Environment: parsed(t, artifact.ParseEnvironment, "dev"), Digest: v1}
	_, err := s.db.Promote(s.ctx, promotion.Move{Promotion: p})
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	verdict, err := s.judge.JudgeStored(s.ctx, s.repository, v1)
	require.NoError(t, err)
	pass, err := verdict.Promotion()
	require.NoError(t, err)
	p.Digest, p.PolicyHash = s.release("v2"), pass.PolicyHash()
	_, err = s.db.Promote(s.ctx, s.to(p, pass))
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	deployments, err := s.db.Deployments(s.ctx, artifact.Repository{})
	require.NoError(t, err)
	require.Empty(t, deployments)
	s.sound()
}

// TestSignedGate: a signature counts when its key is in force and its artifact is here.
func TestSignedGate(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.put("v1", tagged(t, "v1"))
	signature := s.sign(v1, "key-0")
	_, err := s.promote("v1", "dev")
	require.Equal(t, []string{"signed"}, rules(t, err))
	require.ErrorContains(t, err, keyID("key-0")[:12]+" alone, which is none of this service's")
	_, err = s.db.Pool.Exec(s.ctx, `update signatures set key_id = $1`, keyID("key-1"))
	require.NoError(t, err)
	require.NoError(t, s.db.DeleteManifest(s.ctx, s.repository, signature, "user:eve"))
	_, err = s.promote("v1", "dev")
	require.Equal(t, []string{"signed"}, rules(t, err))
}

func TestScanGate(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.apply(`
apiVersion: waybill/v1
kind: Pipeline
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  environments: [{name: dev, requires: {scan: {maxAge: 24h, severity: high}}}]
`)
	one, two := s.put("one", nil), s.put("two", nil)
	multi := s.put("multi", func(p *artifact.Push) { index(one, two)(p); tagged(t, "multi")(p) })
	s.sign(multi, "key-1")
	_, err := s.promote("multi", "dev")
	require.Equal(t, []string{"scan", "scan"}, rules(t, err), "of an index each image")
	scan := artifact.Scan{State: artifact.Scanned, ScannedAt: time.Now(), DatabaseDigest: artifact.DigestOf([]byte("db")), DatabaseUpdatedAt: time.Now()}
	scan.Digest = one
	require.NoError(t, s.db.SaveScan(s.ctx, scan))
	require.NoError(t, s.db.SaveScan(s.ctx, artifact.Scan{Digest: two, State: artifact.ScanPending, Reason: "no advisory database"}))
	_, err = s.promote("multi", "dev")
	require.Equal(t, []string{"scan"}, rules(t, err))
	require.ErrorContains(t, err, "pending: no advisory database")
	scan.Digest, scan.Findings = two, []artifact.Finding{{ID: "CVE-1", Class: "vulnerability", Severity: artifact.Critical}}
	require.NoError(t, s.db.SaveScan(s.ctx, scan))
	_, err = s.promote("multi", "dev")
	require.ErrorContains(t, err, "CVE-1")
	scan.Findings[0].Severity = artifact.Medium
	require.NoError(t, s.db.SaveScan(s.ctx, scan))
	done, err := s.promote("multi", "dev")
	require.NoError(t, err)
	entries, err := s.db.Entries(s.ctx, done.LedgerIndex, 1)
	require.NoError(t, err)
	require.Contains(t, entries[0].Evidence, scan.DatabaseDigest)
	later := promotion.NewService(promotion.Config{Store: s.db, Judge: s.judge, Now: func() time.Time { return time.Now().Add(25 * time.Hour) }})
	_, err = later.Promote(s.ctx, s.ada, promotion.Request{Repository: s.repository, Version: "multi", Environment: parsed(t, artifact.ParseEnvironment, "dev"), DryRun: true})
	require.Equal(t, []string{"scan", "scan"}, rules(t, err))
}

// TestPromoteAtOnce: promotions to one environment take turns, and each records what stood there before it.
func TestPromoteAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const n = 8
	var versions []string
	for i := range n {
		versions = append(versions, "v"+string(rune('0'+i)))
		s.release(versions[i])
	}
	var wg sync.WaitGroup
	errs := make([]error, 2*n)
	for i := range errs { // each version twice
		wg.Go(func() { _, errs[i] = s.promote(versions[i%n], "dev") })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		require.Equal(t, artifact.Conflict, artifact.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "by user:ada at this moment", "who lost is told to whom")
	}
	require.Positive(t, won)
	history, err := s.db.History(s.ctx, s.repository)
	require.NoError(t, err)
	require.LessOrEqual(t, len(history), won)
	require.NotEmpty(t, history)
	var before artifact.Digest
	for _, p := range history {
		require.Equal(t, before, p.Previous)
		require.NotEqual(t, before, p.Digest, "a promotion that changes nothing is not recorded")
		before = p.Digest
	}
	require.Equal(t, before, s.current("dev"))
	s.sound()
}

func TestRollback(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	_, err := s.rollback("dev")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	v1, v2, v3 := s.release("v1"), s.release("v2"), s.release("v3")
	for _, v := range []string{"v1", "v2", "v3"} {
		s.mustPromote(v, "dev", "staging")
	}
	_, err = s.service.Rollback(s.ctx, artifact.Principal{Name: "ci", Role: artifact.Pusher}, s.repository, parsed(t, artifact.ParseEnvironment, "dev"), "")
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	done, err := s.rollback("dev")
	require.NoError(t, err)
	require.Equal(t, v2, done.Digest)
	require.Equal(t, v3, done.Previous)
	require.Equal(t, "v2", done.Version)
	require.Equal(t, v2, s.current("dev"))
	require.Equal(t, v3, s.current("staging"), "only there")
	done, err = s.rollback("dev")
	require.NoError(t, err)
	require.Equal(t, v1, done.Digest, "twice is two steps back, not forth again")
	_, err = s.rollback("dev")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))

	// What was recalled is skipped, and what policy denies by now is refused.
	require.NoError(t, s.service.Recall(s.ctx, s.ada, s.repository, v2, "CVE", ""))
	s.judge.denied[v1] = true
	_, err = s.rollback("staging")
	require.Equal(t, []string{"inspect"}, rules(t, err))
	delete(s.judge.denied, v1)
	done, err = s.rollback("staging")
	require.NoError(t, err)
	require.Equal(t, v1, done.Digest)
	s.sound()
}

// TestRollbackIsForEmergencies: the gates that the digest met once are not asked again, a key that was changed included.
func TestRollbackIsForEmergencies(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	s.release("v2")
	s.mustPromote("v1", "dev")
	s.mustPromote("v2", "dev")
	s.apply(`
apiVersion: waybill/v1
kind: Pipeline
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  environments: [{name: qa}, {name: dev, requires: {after: [qa], scan: {maxAge: 1h}}}]
`)
	s.rotate("key-2")
	_, err := s.promote("v1", "dev")
	require.Equal(t, []string{"after", "scan"}, rules(t, err), "what a key signed counts after its rotation")
	_, err = s.rollback("dev")
	require.NoError(t, err)
	require.Equal(t, v1, s.current("dev"))
}

func TestRecall(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1, v2 := s.release("v1"), s.release("v2")
	s.tells(func() { s.mustPromote("v1", "dev") })
	s.put("SBOM of v1", attached(v1))
	s.mustPromote("v1", "staging", "production")
	s.mustPromote("v2", "dev")
	recall := func(p artifact.Principal, d artifact.Digest, reason string) error {
		return s.service.Recall(s.ctx, p, s.repository, d, reason, "")
	}
	require.Equal(t, artifact.Invalid, artifact.KindOf(recall(s.ada, v1, " ")))
	require.Equal(t, artifact.NotFound, artifact.KindOf(recall(s.ada, artifact.DigestOf(nil), "x")))
	require.Equal(t, artifact.Denied, artifact.KindOf(recall(artifact.Principal{Name: "ci", Role: artifact.Pusher}, v1, "x")))
	one := s.ada
	one.Environments = []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}
	require.Equal(t, artifact.Denied, artifact.KindOf(recall(one, v1, "x")))

	s.tells(func() { require.NoError(t, recall(s.ada, v1, "CVE-2024-24790")) })

	for _, e := range []string{"dev", "staging", "production"} {
		require.ErrorContains(t, s.pulls(e, v1), "recalled by user:ada: CVE-2024-24790")
		require.Error(t, s.pulls(e, artifact.DigestOf([]byte("layer of v1"))))
	}
	require.NoError(t, s.pulls("dev", v2))
	require.NoError(t, s.pulls("dev", artifact.DigestOf([]byte("{}"))), "a blob that it shares with what stays")
	require.Equal(t, v2, s.current("dev"))
	require.True(t, s.current("production").IsZero(), "the environment is empty")
	_, err := s.promote("v1", "dev")
	require.Contains(t, rules(t, err), "recalled")
	require.NoError(t, recall(s.ada, v1, "again"), "it is done already")
	history, err := s.db.History(s.ctx, s.repository)
	require.NoError(t, err)
	require.Len(t, history, 7)
	for _, p := range history[4:] {
		require.Equal(t, "recall", p.Action)
		require.Equal(t, history[4].LedgerIndex, p.LedgerIndex, "one decision, one entry")
		require.Equal(t, "CVE-2024-24790", p.Reason)
	}
	s.sound()
}

// TestRecallInIndex: an image that was recalled cannot be pulled or promoted within an index either.
func TestRecallInIndex(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	one, two := s.put("one", nil), s.put("two", nil)
	multi := s.put("multi", func(p *artifact.Push) { index(one, two)(p); tagged(t, "multi")(p) })
	other := s.put("other", func(p *artifact.Push) { index(two, one)(p); tagged(t, "other")(p) })
	s.sign(multi, "key-1")
	s.sign(other, "key-1")
	s.mustPromote("multi", "dev")
	require.NoError(t, s.pulls("dev", one))
	require.NoError(t, s.service.Recall(s.ctx, s.ada, s.repository, one, "CVE", ""))
	require.ErrorContains(t, s.pulls("dev", one), "recalled")
	require.Error(t, s.pulls("dev", artifact.DigestOf([]byte("layer of one"))))
	require.NoError(t, s.pulls("dev", two))
	require.Equal(t, multi, s.current("dev"))
	_, err := s.promote("other", "dev")
	require.Contains(t, rules(t, err), "recalled")
	require.ErrorContains(t, err, "the index holds "+one.String())
	s.sound()

	require.NoError(t, s.service.Recall(s.ctx, s.ada, s.repository, multi, "all of it", ""))
	require.Error(t, s.pulls("dev", two), "the children came with the index only")
	require.True(t, s.current("dev").IsZero())
	s.sound()
}

// TestNoImageByReference: whoever may push cannot have an image pulled that nobody promoted, by calling it a referrer or
// a signature of a promoted one, or by hanging an index with it there.
func TestNoImageByReference(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	plain := s.put("plain", nil)
	asSubject := func(p *artifact.Push) {
		p.Manifest.Subject = &artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: v1, Size: 1}
	}
	hung := func(p *artifact.Push) { index(plain)(p); asSubject(p) }
	s.put("index with subject", hung)
	images := []artifact.Digest{plain, s.put("image with subject", asSubject)}
	s.mustPromote("v1", "dev")
	s.put("index with subject, later", hung)
	images = append(images, s.put("image with subject, later", asSubject), s.put("image as SBOM", tagged(t, "sha256-"+v1.Hex()+".sbom")))
	for i, d := range images {
		require.Error(t, s.pulls("dev", d), i)
	}
	require.NoError(t, s.pulls("dev", s.put("SBOM", attached(v1))), "what is no image follows its subject")
}

func TestReserved(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	for tag, want := range map[string]bool{"production": true, "dev": true, "v1": false, "Production": false} {
		reserved, err := s.service.Reserved(s.ctx, s.repository, parsed(t, artifact.ParseTag, tag))
		require.NoError(t, err)
		require.Equal(t, want, reserved, tag)
	}
	s.release("v1")
	found, err := s.service.ResolveService(s.ctx, "returns")
	require.NoError(t, err)
	require.Equal(t, s.repository, found)
	_, err = s.service.ResolveService(s.ctx, "turns")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	environments, err := s.service.Environments(s.ctx)
	require.NoError(t, err)
	require.Len(t, environments, 3)
}
