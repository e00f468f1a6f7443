package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/postgres"
	"waybill/promotion"
)

// town is a shop with policies that are in force, a judge of what is stored, and a clock.
type town struct {
	*shop
	judge   *policy.Judge
	many    *policy.Judge
	waiving *policy.Waiving
	bob     artifact.Principal // an approver

	mu    sync.Mutex // guards what follows
	blobs map[artifact.Digest][]byte
	time  time.Time
}

func (w *town) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *town) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

// townContents are rows of the database, and blobs of the town.
type townContents struct {
	postgres.Cold
	town *town
}

func (c townContents) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	c.town.mu.Lock()
	defer c.town.mu.Unlock()
	b, ok := c.town.blobs[d]
	if !ok {
		return nil, artifact.Errorf(artifact.NotFound, "no blob %s", d)
	}
	return b, nil
}

// lax and strict differ in whether an image may run as root.
const (
	lax    = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: no-sshd, action: deny}\n    - {rule: no-root-user, action: warn}\n"
	strict = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: baseline}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: no-sshd, action: deny}\n    - {rule: no-root-user, action: deny}\n"
)

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{shop: newShop(t), blobs: map[artifact.Digest][]byte{}, time: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), bob: artifact.Principal{Name: "user:bob", Role: artifact.Approver}}
	w.db.Now = w.now
	cold := postgres.Cold{DB: w.db}
	w.judge = policy.NewJudge(policy.JudgeConfig{Facts: cold, Scans: unscanned{}, Contents: townContents{cold, w}, Policies: w.db, Waivers: w.db, Now: w.now})
	w.many = w.judge.Many(cold, townContents{cold, w})
	w.service = promotion.NewService(promotion.Config{Store: w.db, Judge: w.judge, Now: w.now})
	w.waiving = policy.NewWaiving(policy.WaivingConfig{Store: w.db, Policies: w.db, MaxLife: 90 * 24 * time.Hour, Max: 3, Now: w.now})
	w.enforce(lax)
	return w
}

func (w *town) enforce(source string) {
	w.t.Helper()
	all, err := policy.Parse("policy.yaml", []byte(source))
	require.NoError(w.t, err)
	for _, p := range all {
		_, _, err = w.db.ApplyDocument(w.ctx, "Policy", p.Name(), p.Hash(), source, "user:ada")
		require.NoError(w.t, err)
	}
}

// image is an image of one layer that runs as a user.
func (w *town) image(name, user string) func(*artifact.Push) {
	diffID := artifact.DigestOf([]byte("tar of " + name))
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":%q},"rootfs":{"type":"layers","diff_ids":[%q]}}`, user, diffID)
	layer := artifact.DigestOf([]byte("layer of " + name))
	w.mu.Lock()
	w.blobs[artifact.DigestOf(config)] = config
	w.mu.Unlock()
	require.NoError(w.t, w.db.SaveLayer(w.ctx, artifact.LayerFacts{Format: artifact.FactsFormat, Digest: layer, DiffID: diffID, Compressed: 1, Uncompressed: 1024,
		Files: []artifact.File{{Path: "app", Type: artifact.Regular, Mode: 0o755}}}, "test", []byte("{}")))
	return func(p *artifact.Push) {
		p.Manifest.Config = &artifact.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: artifact.DigestOf(config), Size: int64(len(config))}
		p.Manifest.Layers[0].Digest = layer
	}
}

// arrive does with a push what the registry does: it is judged, and stored or refused.
func (w *town) arrive(name, by string, change func(*artifact.Push), tags ...string) (artifact.Digest, error) {
	w.t.Helper()
	p := push(w.t, w.db, w.repository, name, change)
	p.PushedBy = by
	if len(tags) > 0 {
		tagged(w.t, tags...)(&p)
		p.Reference = tags[0]
	}
	subject := artifact.Subject{Repository: w.repository, Digest: p.Digest, Manifest: p.Manifest, IsImage: p.IsImage, Reference: p.Reference}
	if p.Manifest.Config != nil {
		subject.Config = w.blobs[p.Manifest.Config.Digest]
	}
	v, err := w.judge.Judge(w.ctx, subject)
	require.NoError(w.t, err)
	p.Verdict = v.VerdictRecord
	if v.Outcome != artifact.Allow {
		require.NoError(w.t, w.db.SaveDenied(w.ctx, p))
		return p.Digest, &artifact.Error{Kind: artifact.Denied, Message: "denied", Reasons: v.Denials()}
	}
	return p.Digest, w.db.PutManifest(w.ctx, p, func(artifact.Tag) bool { return true })
}

// lands is arrive of a tagged image that is allowed and signed.
func (w *town) lands(name, user string) artifact.Digest {
	w.t.Helper()
	d, err := w.arrive(name, "token:ci", w.image(name, user), name)
	require.NoError(w.t, err)
	w.sign(d, "key-1")
	return d
}

// rejudge does what the job does, and returns how many manifests that were.
func (w *town) rejudge() (n int, turned []artifact.TurnedBad) {
	w.t.Helper()
	for {
		page, err := w.db.NextToJudge(w.ctx, 1, 2)
		require.NoError(w.t, err)
		if len(page) == 0 {
			return n, turned
		}
		verdicts, errs := w.many.JudgeManifests(w.ctx, page)
		for _, err := range errs {
			require.NoError(w.t, err)
		}
		bad, err := w.db.SaveJudged(w.ctx, verdicts)
		require.NoError(w.t, err)
		turned = append(turned, bad...)
		n += len(page)
		last := page[len(page)-1]
		require.NoError(w.t, w.db.Judged(w.ctx, 1, artifact.Reference{Repository: last.Repository, Digest: last.Digest}))
	}
}

func (w *town) waive(rule string, r policy.WaiverRequest) artifact.Waiver {
	w.t.Helper()
	r.Rule = rule
	if r.Reason == "" {
		r.Reason = "the vendor fixes it this week"
	}
	if r.Expires.IsZero() {
		r.Expires = w.now().Add(72 * time.Hour)
	}
	made, err := w.waiving.Create(w.ctx, w.bob, r)
	require.NoError(w.t, err)
	return made
}

func (w *town) outcome(d artifact.Digest) artifact.Outcome {
	w.t.Helper()
	v, err := w.judge.JudgeStored(w.ctx, w.repository, d)
	require.NoError(w.t, err)
	return v.Outcome
}

// stored is the verdict as pages read it.
func (w *town) stored(d artifact.Digest) artifact.VerdictRecord {
	w.t.Helper()
	v, err := w.db.RefusedVerdict(w.ctx, w.repository, d.String())
	require.NoError(w.t, err)
	return v
}

// entries are the kinds of ledger entries about waivers and what turned bad.
func (w *town) entries() []string {
	w.t.Helper()
	all, err := w.db.Entries(w.ctx, 0, 1000)
	require.NoError(w.t, err)
	var kinds []string
	for _, e := range all {
		if strings.HasPrefix(e.Kind, "waiver.") || strings.HasPrefix(e.Kind, "digest.") {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// unscanned is a scanner without an advisory database.
type unscanned struct{}

func (unscanned) Scan(_ context.Context, s artifact.Subject, _ bool) (artifact.Scan, bool, error) {
	return artifact.Scan{Digest: s.Digest, State: artifact.ScanPending, Reason: "no advisory database"}, false, nil
}
