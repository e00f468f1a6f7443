package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
	"waybill/storage"
)

// attic is a shop whose content has an age.
type attic struct {
	*shop
	blobs map[artifact.Digest][]byte // what signatures say
}

func newAttic(t *testing.T, retention string) *attic {
	a := &attic{shop: newShop(t), blobs: map[artifact.Digest][]byte{}}
	a.rules(retention)
	return a
}

func (a *attic) rules(retention string) {
	a.t.Helper()
	source := "apiVersion: waybill/v1\nkind: Repositories\nmetadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, retention: " + retention + "}\n"
	parsed, err := storage.Parse("r.yaml", []byte(source))
	require.NoError(a.t, err)
	_, _, err = a.db.ApplyDocument(a.ctx, storage.Kind, "shop", parsed[0].Hash(), source, "user:ada")
	require.NoError(a.t, err)
}

// age makes manifests, and tags that stand at them, so many days older.
func (a *attic) age(days int, digests ...artifact.Digest) {
	a.t.Helper()
	for _, d := range digests {
		for _, sql := range []string{`update manifests set pushed_at = pushed_at - $3 * interval '1 day' where repository = $1 and digest = $2`,
			`update tags set updated_at = updated_at - $3 * interval '1 day' where repository = $1 and digest = $2`} {
			_, err := a.db.Pool.Exec(a.ctx, sql, a.repository, d, days)
			require.NoError(a.t, err)
		}
	}
}

func (a *attic) pulledAgo(days int, d artifact.Digest) {
	a.t.Helper()
	require.NoError(a.t, a.db.SavePulls(a.ctx, []storage.Pull{{Repository: a.repository, Digest: d, At: time.Now().Add(-time.Duration(days) * 24 * time.Hour)}}))
}

// signedFor attaches a signature as `cosign sign -a environment=…` writes it.
func (a *attic) signedFor(d artifact.Digest, environment string) artifact.Digest {
	payload := fmt.Appendf(nil, `{"critical":{},"optional":{"environment":%q}}`, environment)
	a.blobs[artifact.DigestOf(payload)] = payload
	return a.put("signature for "+environment+" of "+d.String(), func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest.Layers = []artifact.Descriptor{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: artifact.DigestOf(payload), Size: int64(len(payload))}}
		tagged(a.t, "sha256-"+d.Hex()+".sig")(p)
	})
}

func (a *attic) keeper() *storage.Keeper {
	return storage.NewKeeper(storage.KeeperConfig{Store: a.db, Environments: a.service.Environments, Logger: slog.New(slog.DiscardHandler),
		Flush: func(context.Context) error { return nil },
		Blob: func(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
			return a.blobs[d], nil
		}})
}

func (a *attic) run(dry bool) storage.Report {
	a.t.Helper()
	report, err := a.keeper().Run(a.ctx, "user:ada", dry)
	require.NoError(a.t, err)
	return report
}

func (a *attic) here(d artifact.Digest) bool {
	_, err := a.db.Manifest(a.ctx, a.repository, d)
	if artifact.KindOf(err) != artifact.NotFound {
		require.NoError(a.t, err)
	}
	return err == nil
}

func (a *attic) reasons(report storage.Report) map[string]string {
	said := map[string]string{}
	for _, k := range report.Repositories[0].Kept {
		said[k.Tag.String()] = strings.Join(k.Reasons, "; ")
	}
	return said
}

// TestRetention: a dry run says what the run that follows does, and what is needed stays.
func TestRetention(t *testing.T) {
	t.Parallel()
	a := newAttic(t, "{keepLast: 2, keepPulledWithin: 720h, tags: [\"v*\", \"old*\"], untagged: 168h}")
	newest, second := a.release("v9"), a.release("v8")
	promoted := a.release("v3")
	a.mustPromote("v3", "dev")
	recalled := a.release("v2")
	a.mustPromote("v2", "dev")
	require.NoError(t, a.db.Recall(a.ctx, a.repository, recalled, "user:ada", "CVE", ""))
	pulled, forgotten := a.release("v5"), a.release("v4")
	forStaging := a.put("v6", tagged(t, "v6"))
	signature := a.signedFor(forStaging, "staging")
	forNobody := a.put("v7", tagged(t, "v7"))
	a.signedFor(forNobody, "moon")
	amd64, arm64 := a.put("amd64", nil), a.put("arm64", nil)
	multi := a.put("multi", func(p *artifact.Push) { index(amd64, arm64)(p); tagged(t, "v1", "old1")(p) })
	sbom := a.put("sbom of amd64", attached(amd64))
	stable := a.put("stable", tagged(t, "stable", "v0"))
	loose, young := a.put("loose", nil), a.put("young", nil)
	looseSBOM := a.put("sbom of loose", attached(loose))
	a.age(90, promoted, recalled, pulled, forgotten, forStaging, forNobody, amd64, arm64, multi, sbom, stable, signature)
	a.age(8, loose, looseSBOM)
	a.pulledAgo(29, pulled)
	a.pulledAgo(31, forgotten)

	dry := a.run(true)
	require.True(t, a.here(multi), "a dry run removes nothing")
	require.True(t, dry.DryRun)
	require.Len(t, dry.Repositories, 1)
	require.Equal(t, map[string]string{"v9": "one of the newest 2; set less than a minute ago", "v8": "one of the newest 2; set less than a minute ago",
		"v3": "promoted to dev", "v5": "pulled 29 days ago", "v6": "signed for staging", "stable": "not among the tags that may be removed"}, a.reasons(dry))
	earlier, err := a.db.Entries(a.ctx, 0, 1000)
	require.NoError(t, err)

	done := a.run(false)
	require.False(t, done.DryRun)
	done.DryRun = true
	require.Equal(t, dry, done, "the run does what the dry run said")

	for _, d := range []artifact.Digest{newest, second, promoted, pulled, forStaging, signature, stable, young} {
		require.True(t, a.here(d))
	}
	for _, d := range []artifact.Digest{recalled, forgotten, forNobody, amd64, arm64, multi, sbom, loose, looseSBOM} {
		require.False(t, a.here(d))
	}
	tags, err := a.db.Tags(a.ctx, a.repository)
	require.NoError(t, err)
	var names []string
	for _, tag := range tags {
		if !strings.HasPrefix(tag.Name.String(), "sha256-") {
			names = append(names, tag.Name.String())
		}
	}
	require.Equal(t, []string{"stable", "v3", "v5", "v6", "v8", "v9"}, names)
	a.sound()

	t.Run("as if a user had deleted it", func(t *testing.T) {
		changes, err := a.db.TagHistory(a.ctx, a.repository, parsed(t, artifact.ParseTag, "old1"))
		require.NoError(t, err)
		require.Len(t, changes, 2)
		require.True(t, changes[1].Digest.IsZero())
		require.Equal(t, "user:ada", changes[1].Actor)
		entries, err := a.db.Entries(a.ctx, int64(len(earlier)), 100)
		require.NoError(t, err)
		kinds := map[string]int{}
		for _, e := range entries {
			kinds[e.Kind]++
			require.Equal(t, "retention of shop@1", e.Reason)
		}
		manifests, tagsOnly := 0, 0
		for _, r := range done.Repositories[0].Removed {
			if r.TagOnly {
				tagsOnly++
			} else {
				manifests++
				require.Positive(t, r.Bytes)
			}
		}
		require.Equal(t, map[string]int{"manifest.deleted": manifests, "tag.deleted": tagsOnly}, kinds)
		require.Equal(t, 1, tagsOnly, "v0, of which stable keeps the manifest")
	})
	t.Run("again", func(t *testing.T) {
		again := a.run(false)
		require.Empty(t, again.Repositories[0].Removed)
		require.Empty(t, again.Repositories[0].Skipped)
	})
	t.Run("freed is what only these named", func(t *testing.T) {
		// Each image has a layer of 1 byte of its own and shares the config with all.
		require.EqualValues(t, a.layers(done), done.Repositories[0].Freed)
	})
}

// layers counts the blobs of what was removed but for the config that every manifest of these tests shares.
func (a *attic) layers(r storage.Report) (n int64) {
	for _, m := range r.Repositories[0].Removed {
		if !m.TagOnly {
			n++
		}
	}
	return n + int64(len(`{"critical":{},"optional":{"environment":"moon"}}`)) - 2 // moon's payload; the index has no layer
}

// TestRetirementLooksAgain: what has come to need a part of a unit since the plan was made keeps all of it.
func TestRetirementLooksAgain(t *testing.T) {
	t.Parallel()
	a := newAttic(t, "{keepLast: 1}")
	holdings := func() storage.Holdings {
		h, err := a.db.Holdings(a.ctx, a.repository)
		require.NoError(t, err)
		return h
	}
	n := 0
	// unit makes an old index with a child, of which the plan has one unit.
	unit := func() (storage.Unit, storage.Holdings, artifact.Digest, artifact.Digest) {
		n++
		child := a.put(fmt.Sprint("child", n), nil)
		old := a.put(fmt.Sprint("index", n), func(p *artifact.Push) { index(child)(p); tagged(t, fmt.Sprint("old", n))(p) })
		a.age(9, child, old)
		h := holdings()
		plan, err := (storage.Retention{KeepLast: 1, Tags: []string{fmt.Sprint("old", n), "new"}}).Plan(h, nil, func(artifact.Digest, []artifact.Digest) ([]artifact.Environment, error) { return nil, nil })
		require.NoError(t, err)
		require.Len(t, plan.Units, 1)
		require.Len(t, plan.Units[0].Manifests, 2)
		return plan.Units[0], h, old, child
	}
	a.put("new", tagged(t, "new"))
	for name, change := range map[string]func(old, child artifact.Digest){
		"another tag": func(old, _ artifact.Digest) {
			_, err := a.db.Pool.Exec(a.ctx, `insert into tags (repository, name, digest, updated_by) values ($1, 'again', $2, 'ci')`, a.repository, old)
			require.NoError(t, err)
		},
		"the tag was moved there anew": func(old, _ artifact.Digest) {
			_, err := a.db.Pool.Exec(a.ctx, `update tags set updated_at = now() where repository = $1 and digest = $2`, a.repository, old)
			require.NoError(t, err)
		},
		"a signature":          func(old, _ artifact.Digest) { a.sign(old, "key-1") },
		"an SBOM of the child": func(_, child artifact.Digest) { a.put("sbom of "+child.String(), attached(child)) },
		"another index":        func(_, child artifact.Digest) { a.put("other of "+child.String(), index(child)) },
		"a pull of the child":  func(_, child artifact.Digest) { a.pulledAgo(0, child) },
		"a promotion of the child": func(_, child artifact.Digest) {
			a.sign(child, "key-1")
			a.mustPromote(child.String(), "dev")
		},
		"the child is gone": func(_, child artifact.Digest) {
			_, err := a.db.Pool.Exec(a.ctx, `delete from manifests where repository = $1 and digest = $2`, a.repository, child)
			require.NoError(t, err)
		},
	} {
		u, h, old, child := unit()
		change(old, child)
		err := a.db.Retire(a.ctx, a.repository, u, h.At, "user:ada", "test")
		require.Contains(t, []artifact.Kind{artifact.Conflict, artifact.Denied}, artifact.KindOf(err), "%s: %v", name, err)
		require.True(t, a.here(old), name)
	}
	u, h, old, child := unit()
	a.tells(func() { require.NoError(t, a.db.Retire(a.ctx, a.repository, u, h.At, "user:ada", "test")) })
	require.False(t, a.here(old))
	require.False(t, a.here(child))

	// A tag alone, of a manifest that stays.
	both := a.put("both", tagged(t, "keep", "go"))
	var tag storage.Tag
	for _, candidate := range holdings().Tags {
		if candidate.Name.String() == "go" {
			tag = candidate
		}
	}
	alone := storage.Unit{Tags: []storage.Tag{tag}}
	moved := alone
	moved.Tags = []storage.Tag{{Name: tag.Name, Digest: u.Manifests[0].Digest, SetAt: tag.SetAt}}
	require.Equal(t, artifact.Conflict, artifact.KindOf(a.db.Retire(a.ctx, a.repository, moved, h.At, "user:ada", "test")))
	require.NoError(t, a.db.Retire(a.ctx, a.repository, alone, h.At, "user:ada", "test"))
	require.True(t, a.here(both))
	left, err := a.db.TagsOf(a.ctx, a.repository, both)
	require.NoError(t, err)
	require.Len(t, left, 1)
	a.sound()
}

func TestSavePulls(t *testing.T) {
	t.Parallel()
	a := newAttic(t, "{keepLast: 1}")
	d := a.put("v1", tagged(t, "v1"))
	last := func() time.Time {
		h, err := a.db.Holdings(a.ctx, a.repository)
		require.NoError(t, err)
		return h.Manifests[0].PulledAt
	}
	require.True(t, last().IsZero())
	at := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	save := func(at time.Time) {
		require.NoError(t, a.db.SavePulls(a.ctx, []storage.Pull{{Repository: a.repository, Digest: artifact.DigestOf([]byte("never here")), At: at}, {Repository: a.repository, Digest: d, At: at}}))
	}
	save(at)
	require.True(t, at.Equal(last()))
	save(at.Add(30 * time.Second))
	require.True(t, at.Equal(last()), "once a minute is enough")
	save(at.Add(-time.Hour))
	require.True(t, at.Equal(last()), "never back")
	save(at.Add(time.Hour))
	require.True(t, at.Add(time.Hour).Equal(last()))
	require.NoError(t, a.db.DeleteManifest(a.ctx, a.repository, d, "user:ada"))
	save(at.Add(2 * time.Hour))
}

// TestRetentionWithoutADocument asks for nothing.
func TestRetentionWithoutADocument(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	keeper := storage.NewKeeper(storage.KeeperConfig{Store: s.db})
	report, err := keeper.Run(s.ctx, "system", false)
	require.NoError(t, err)
	require.Empty(t, report.Repositories)
}

// TestRetentionBesidePushes: retention runs again and again while others push, attach and promote. Whatever a promotion
// was told is promoted is there afterwards, with all that its environment may pull.
func TestRetentionBesidePushes(t *testing.T) {
	t.Parallel()
	a := newAttic(t, "{keepLast: 1}")
	a.put("first", tagged(t, "first"))
	ctx, stop := context.WithCancel(a.ctx)
	var keepers, pushers sync.WaitGroup
	removed := 0
	keepers.Go(func() {
		for ctx.Err() == nil {
			report, err := a.keeper().Run(a.ctx, "system", false)
			if !assert.NoError(t, err) {
				return
			}
			removed += len(report.Repositories[0].Removed)
		}
	})
	var mu sync.Mutex
	promoted := map[artifact.Digest]string{}
	for worker := range 3 {
		pushers.Go(func() {
			for i := range 12 {
				name := fmt.Sprintf("w%d-%d", worker, i)
				child := push(t, a.db, a.repository, "child of "+name, nil)
				if err := a.db.PutManifest(a.ctx, child, movable); err != nil {
					assert.NoError(t, err)
					return
				}
				image := push(t, a.db, a.repository, name, func(p *artifact.Push) { index(child.Digest)(p); tagged(t, name)(p) })
				if err := a.db.PutManifest(a.ctx, image, movable); err != nil {
					assert.Equal(t, artifact.NotFound, artifact.KindOf(err), "%v", err)
					continue
				}
				sbom := push(t, a.db, a.repository, "sbom of "+name, attached(child.Digest))
				assert.NoError(t, a.db.PutManifest(a.ctx, sbom, movable))
				if i%3 != 0 {
					continue
				}
				verdict, err := a.judge.JudgeStored(a.ctx, a.repository, image.Digest)
				if err != nil {
					assert.Equal(t, artifact.NotFound, artifact.KindOf(err), "%v", err)
					continue
				}
				pass, err := verdict.Promotion()
				assert.NoError(t, err)
				_, err = a.db.Promote(a.ctx, a.to(artifact.Promotion{Action: "promote", Repository: a.repository, Digest: image.Digest, Actor: "ada", PolicyHash: pass.PolicyHash(),
					Environment: parsed(t, artifact.ParseEnvironment, "dev")}, pass))
				if err != nil {
					assert.Contains(t, []artifact.Kind{artifact.NotFound, artifact.Conflict}, artifact.KindOf(err), "%v", err)
					continue
				}
				mu.Lock()
				promoted[image.Digest] = name
				mu.Unlock()
			}
		})
	}
	pushers.Wait()
	stop()
	keepers.Wait()
	require.Positive(t, removed)
	require.NotEmpty(t, promoted)
	for d, name := range promoted {
		require.True(t, a.here(d), "%s is promoted", name)
	}
	var missing int
	require.NoError(t, a.db.Pool.QueryRow(a.ctx, `select count(*) from grants g where repository = $1 and not exists (select from manifests m where m.repository = $1 and m.digest = g.digest)
		and not exists (select from blobs b where b.digest = g.digest)`, a.repository).Scan(&missing))
	require.Zero(t, missing, "what may be pulled is here")
	a.sound()
}

func movable(artifact.Tag) bool { return true }

// TestPulls: who pulled what is told by digest, repository and principal, for a period, page by page; it outlives the manifest.
func TestPulls(t *testing.T) {
	t.Parallel()
	db, ctx := pgtest.New(t), t.Context()
	repository, other := parsed(t, artifact.ParseRepository, "shop/returns"), parsed(t, artifact.ParseRepository, "shop/orders")
	a, b := artifact.DigestOf([]byte("a")), artifact.DigestOf([]byte("b"))
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	pull := func(r artifact.Repository, d artifact.Digest, who string, count int64, at time.Time) storage.Pull {
		return storage.Pull{Repository: r, Digest: d, Principal: who, Count: count, First: at.Add(-time.Hour), At: at}
	}
	require.NoError(t, db.SavePulls(ctx, []storage.Pull{pull(repository, a, "token:ci/1", 3, day(0)), pull(repository, a, "token:k8s/2", 1, day(0)), pull(repository, a, "", 9, day(0)),
		pull(repository, b, "token:ci/1", 1, day(1)), pull(other, a, "token:ci/1", 5, day(1))}))
	require.NoError(t, db.SavePulls(ctx, []storage.Pull{pull(repository, a, "token:ci/1", 2, day(0).Add(2*time.Hour)), pull(repository, a, "token:ci/1", 1, day(2))}))
	for name, c := range map[string]struct {
		filter artifact.PullFilter
		want   []int64
	}{
		"all":               {artifact.PullFilter{}, []int64{5, 1, 5, 1, 1}},
		"a repository":      {artifact.PullFilter{Repository: repository}, []int64{5, 1, 1, 1}},
		"a digest":          {artifact.PullFilter{Repository: repository, Digest: a}, []int64{5, 1, 1}},
		"a digest, by one":  {artifact.PullFilter{Repository: repository, Digest: a, Principal: "token:k8s/2"}, []int64{1}},
		"a principal":       {artifact.PullFilter{Principal: "token:ci/1"}, []int64{5, 5, 1, 1}},
		"a principal's day": {artifact.PullFilter{Principal: "token:ci/1", From: day(1), To: day(1)}, []int64{5, 1}},
		"nobody's":          {artifact.PullFilter{Principal: "token:x/1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.filter
			f.Limit = 2
			if f.To.IsZero() {
				f.To = day(9)
			}
			var got []int64
			for {
				page, err := db.Pulls(ctx, f)
				require.NoError(t, err)
				for _, d := range page {
					got = append(got, d.Pulls)
				}
				if len(page) < f.Limit {
					break
				}
				f.After = page[len(page)-1]
			}
			require.Equal(t, c.want, got)
			f.Newest, f.After = true, artifact.PullDay{}
			var back []int64
			for {
				page, err := db.Pulls(ctx, f)
				require.NoError(t, err)
				for _, d := range page {
					back = append(back, d.Pulls)
				}
				if len(page) < f.Limit {
					break
				}
				f.After = page[len(page)-1]
			}
			slices.Reverse(back)
			require.Equal(t, c.want, back, "the newest first is the other way round")
		})
	}
	page, err := db.Pulls(ctx, artifact.PullFilter{Repository: repository, Digest: a, Principal: "token:ci/1", To: day(0), Limit: 10})
	require.NoError(t, err)
	require.Equal(t, []artifact.PullDay{{Day: day(0).Add(-12 * time.Hour), Repository: repository, Digest: a, Principal: "token:ci/1", Pulls: 5, First: noon.Add(-time.Hour), Last: noon.Add(2 * time.Hour)}}, page)
	signature := artifact.DigestOf([]byte("signature"))
	_, err = db.Pool.Exec(ctx, `insert into repositories (name) values ($1) on conflict do nothing`, repository)
	require.NoError(t, err)
	for digest, isImage := range map[artifact.Digest]bool{a: true, signature: false} {
		_, err := db.Pool.Exec(ctx, `insert into manifests (repository, digest, media_type, artifact_type, is_image, is_index, platform, annotations, body, pushed_by, follows) values ($1, $2, '', '', $3, false, '', '{}', '', '', true)`, repository, digest, isImage)
		require.NoError(t, err)
		require.NoError(t, db.SavePulls(ctx, []storage.Pull{pull(repository, digest, "token:cosign/3", 1, day(3))}))
	}
	page, err = db.Pulls(ctx, artifact.PullFilter{Principal: "token:cosign/3", To: day(9), Limit: 10})
	require.NoError(t, err)
	types := map[artifact.Digest]artifact.PulledType{}
	for _, p := range page {
		types[p.Digest] = p.Type
	}
	require.Equal(t, map[artifact.Digest]artifact.PulledType{a: artifact.PulledImage, signature: artifact.PulledAttached}, types)
}
