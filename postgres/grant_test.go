package postgres_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// model answers what may be pulled by walking the graph anew each time.
type model struct {
	manifests map[artifact.Digest]*node
	order     []artifact.Digest
	attached  map[artifact.Digest][]artifact.Digest // by subject or cosign tag
	promoted  map[string]map[artifact.Digest]bool   // by environment
	recalled  map[artifact.Digest]bool
	disputed  map[artifact.Digest]bool // see isOfImage; of the last granted
}

type node struct {
	image    bool
	children []artifact.Digest
	blobs    []artifact.Digest
}

// closure is what a promoted digest brings with it: its children, and what is attached to any of these but is no image
// and no index.
func (m *model) closure(root artifact.Digest) map[artifact.Digest]bool {
	reached := map[artifact.Digest]bool{}
	seen := map[string]bool{}
	var walk func(d artifact.Digest, promoted bool)
	walk = func(d artifact.Digest, promoted bool) {
		if key := fmt.Sprint(d, promoted); seen[key] {
			return
		} else {
			seen[key] = true
		}
		n := m.manifests[d]
		reached[d] = true
		for _, b := range n.blobs {
			if promoted || !m.isOfImage(b) {
				reached[b] = true
			} else {
				m.disputed[b] = true
			}
		}
		for _, c := range n.children {
			if !m.recalled[c] && (promoted || !m.manifests[c].image) {
				walk(c, promoted)
			}
		}
		for _, a := range m.attached[d] {
			if !m.recalled[a] && !m.manifests[a].image && len(m.manifests[a].children) == 0 {
				walk(a, false)
			}
		}
	}
	walk(root, true)
	return reached
}

// isOfImage: what is attached does not bring an image's blobs with it. Whether an image had them when they were granted
// depends on the order of pushes, so that either answer will do for those.
func (m *model) isOfImage(blob artifact.Digest) bool {
	for _, n := range m.manifests {
		if n.image && slices.Contains(n.blobs, blob) {
			return true
		}
	}
	return false
}

func (m *model) granted(environment string) map[artifact.Digest]bool {
	all := map[artifact.Digest]bool{}
	m.disputed = map[artifact.Digest]bool{}
	for root := range m.promoted[environment] {
		if m.recalled[root] {
			continue
		}
		for d := range m.closure(root) {
			all[d] = true
		}
	}
	return all
}

// holdsRecalled reports whether a digest, or a manifest of the index that it is, was recalled.
func (m *model) holdsRecalled(d artifact.Digest) bool {
	if m.recalled[d] {
		return true
	}
	for _, c := range m.manifests[d].children {
		if m.holdsRecalled(c) {
			return true
		}
	}
	return false
}

// TestGrantsAreTheClosure: in any order of pushes, promotions, recalls and pulls the gate's answers, stored and remembered,
// are those of the model.
func TestGrantsAreTheClosure(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		w := &world{shop: s, t: rt, repository: parsed(rt, artifact.ParseRepository, fmt.Sprintf("shop/r%d", round)),
			model: model{map[artifact.Digest]*node{}, nil, map[artifact.Digest][]artifact.Digest{}, map[string]map[artifact.Digest]bool{"dev": {}, "prod": {}}, map[artifact.Digest]bool{}, nil}}
		w.put()
		for range rapid.IntRange(3, 14).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "put", "tag", "promote", "promote", "recall", "pull", "pull", "pull"}).Draw(rt, "step") {
			case "put":
				w.put()
			case "tag":
				w.tag()
			case "promote":
				w.promote()
			case "pull":
				w.pull()
			case "recall":
				d := w.any("recall")
				w.compare() // all that may be pulled is remembered
				require.NoError(rt, s.db.Recall(s.ctx, w.repository, d, "ada", "bad", ""))
				w.model.recalled[d] = true
				w.compare()
			}
		}
		w.compare()
	})
	s.sound()
}

type world struct {
	shop       *shop
	t          *rapid.T
	repository artifact.Repository
	model      model
	tags       map[string]bool
	pushes     map[artifact.Digest]artifact.Push
	blobs      []artifact.Digest
}

func (w *world) any(label string) artifact.Digest {
	return rapid.SampledFrom(w.model.order).Draw(w.t, label)
}

// put stores an image, an index or something else, with or without a subject. Layers are shared.
func (w *world) put() {
	kind := rapid.SampledFrom([]string{"image", "image", "other", "index"}).Draw(w.t, "kind")
	if len(w.model.order) == 0 {
		kind = "image"
	}
	p := push(w.t, w.shop.db, w.repository, fmt.Sprint(len(w.model.order)), func(p *artifact.Push) {
		switch kind {
		case "index":
			index(rapid.SliceOfNDistinct(rapid.SampledFrom(w.model.order), 1, min(3, len(w.model.order)), rapid.ID).Draw(w.t, "children")...)(p)
		default:
			p.IsImage = kind == "image"
			p.Manifest.Layers[0].Digest = artifact.DigestOf([]byte{byte(rapid.IntRange(0, 5).Draw(w.t, "layer"))})
		}
		if len(w.model.order) > 0 && rapid.Bool().Draw(w.t, "attached") {
			p.Manifest.Subject = &artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: w.any("subject"), Size: 1}
		}
	})
	n := &node{image: p.IsImage}
	for _, d := range p.Manifest.Blobs() {
		n.blobs = append(n.blobs, d.Digest)
		w.blobs = append(w.blobs, d.Digest)
	}
	for _, d := range p.Manifest.Manifests {
		n.children = append(n.children, d.Digest)
	}
	w.model.manifests[p.Digest] = n
	w.model.order = append(w.model.order, p.Digest)
	if p.Manifest.Subject != nil {
		w.model.attached[p.Manifest.Subject.Digest] = append(w.model.attached[p.Manifest.Subject.Digest], p.Digest)
	}
	if w.pushes == nil {
		w.pushes, w.tags = map[artifact.Digest]artifact.Push{}, map[string]bool{}
	}
	w.pushes[p.Digest] = p
	require.NoError(w.t, w.shop.db.PutManifest(w.shop.ctx, p, func(artifact.Tag) bool { return true }))
}

// tag pushes a manifest once more, by a cosign tag of another.
func (w *world) tag() {
	subject, what := w.any("subject"), w.any("what")
	tag := "sha256-" + subject.Hex() + rapid.SampledFrom([]string{".sig", ".att", ".sbom"}).Draw(w.t, "suffix")
	if w.tags[tag] {
		return
	}
	w.tags[tag] = true
	p := w.pushes[what]
	p.Tags = []artifact.Tag{parsed(w.t, artifact.ParseTag, tag)}
	require.NoError(w.t, w.shop.db.PutManifest(w.shop.ctx, p, func(artifact.Tag) bool { return true }))
	w.model.attached[subject] = append(w.model.attached[subject], what)
}

func (w *world) promote() {
	d := w.any("promote")
	environment := rapid.SampledFrom([]string{"dev", "prod"}).Draw(w.t, "environment")
	verdict, err := w.shop.judge.JudgeStored(w.shop.ctx, w.repository, d)
	require.NoError(w.t, err)
	pass, err := verdict.Promotion()
	require.NoError(w.t, err)
	_, err = w.shop.db.Promote(w.shop.ctx, w.shop.to(artifact.Promotion{Action: "promote", Repository: w.repository, Digest: d, Actor: "ada", PolicyHash: pass.PolicyHash(),
		Environment: parsed(w.t, artifact.ParseEnvironment, environment)}, pass))
	if w.model.holdsRecalled(d) && !w.isCurrent(environment, d) {
		require.Equal(w.t, artifact.Denied, artifact.KindOf(err), "%v", err)
		return
	}
	require.NoError(w.t, err)
	w.model.promoted[environment][d] = true
}

// isCurrent: promoting what is current changes nothing, even when a part of it was recalled since.
func (w *world) isCurrent(environment string, d artifact.Digest) bool {
	current, _, err := w.shop.db.Current(w.shop.ctx, w.repository, parsed(w.t, artifact.ParseEnvironment, environment))
	require.NoError(w.t, err)
	return current.Digest == d
}

// pull asks the gate for something, in one or in both environments, so that what it remembers of that, and of what belongs to
// it, is there when the next promotion, push or recall changes it.
func (w *world) pull() {
	d := rapid.SampledFrom(append(append([]artifact.Digest{}, w.model.order...), w.blobs...)).Draw(w.t, "pull")
	in := rapid.SampledFrom([][]string{{"dev"}, {"prod"}, {"dev", "prod"}}).Draw(w.t, "in")
	want, disputed := false, false
	var environments []artifact.Environment
	for _, e := range in {
		want = want || w.model.granted(e)[d]
		disputed = disputed || w.model.disputed[d]
		environments = append(environments, parsed(w.t, artifact.ParseEnvironment, e))
	}
	got, err := w.shop.db.Granted(w.shop.ctx, environments, w.repository, d)
	require.NoError(w.t, err)
	if !disputed {
		require.Equal(w.t, want, got, "%v may pull %s", in, d)
	}
}

func (w *world) compare() {
	asked := append(append([]artifact.Digest{}, w.model.order...), w.blobs...)
	for _, environment := range []string{"dev", "prod"} {
		e := []artifact.Environment{parsed(w.t, artifact.ParseEnvironment, environment)}
		want := w.model.granted(environment)
		for _, d := range asked {
			got, err := w.shop.db.Granted(w.shop.ctx, e, w.repository, d)
			require.NoError(w.t, err)
			if w.model.disputed[d] && !want[d] {
				want[d] = got
			}
			require.Equal(w.t, want[d], got, "%s may pull %s", environment, d)
		}
		maps.DeleteFunc(want, func(_ artifact.Digest, may bool) bool { return !may })
		list, err := w.shop.db.GrantedOf(w.shop.ctx, e, w.repository, asked)
		require.NoError(w.t, err)
		require.Len(w.t, list, len(want))
	}
}

// TestGrantedAsksOnce: of an image that nobody pulled yet the database is asked once, not once for each manifest and blob; and
// anew when the repository has changed.
func TestGrantedAsksOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	child, other := s.put("amd64", layers(20)), s.put("arm64", layers(20))
	root := s.put("index", func(p *artifact.Push) { index(child, other)(p); tagged(t, "v1")(p) })
	signature := s.sign(root, "key-1")
	s.mustPromote("v1", "dev")
	stranger := s.put("stranger", nil)
	dev := []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}
	all := []artifact.Digest{root, child, other, signature}
	for _, d := range []artifact.Digest{child, other} {
		m, err := s.db.Manifest(s.ctx, s.repository, d)
		require.NoError(t, err)
		for _, blob := range m.Manifest.Blobs() {
			all = append(all, blob.Digest)
		}
	}
	require.Len(t, all, 4+2*21)
	asked := func(want bool, digests ...artifact.Digest) int64 {
		t.Helper()
		before := s.db.Pool.Stat().AcquireCount()
		for _, d := range digests {
			got, err := s.db.Granted(s.ctx, dev, s.repository, d)
			require.NoError(t, err)
			require.Equal(t, want, got, d)
		}
		return s.db.Pool.Stat().AcquireCount() - before
	}
	// Until the database is heard, or when it says just then that something has changed, it is asked more often.
	once := func(what string) {
		t.Helper()
		require.Eventually(t, func() bool {
			s.db.Forget(s.repository)
			return asked(true, all...) == 1 && asked(true, all...) == 0
		}, 10*time.Second, time.Millisecond, what)
	}
	once("the index first")
	slices.Reverse(all)
	once("a layer first")
	require.Equal(t, int64(2), asked(false, stranger, stranger), "what is refused is asked for each time")

	require.NoError(t, s.db.Recall(s.ctx, s.repository, root, "user:ada", "CVE", ""))
	asked(false, all...)
}

// layers makes a push an image of n layers, no two of any images alike.
func layers(n int) func(*artifact.Push) {
	return func(p *artifact.Push) {
		first := p.Manifest.Layers[0]
		p.Manifest.Layers = nil
		for i := range n {
			first.Digest = artifact.DigestOf(fmt.Appendf(nil, "layer %d of %s", i, p.Reference))
			p.Manifest.Layers = append(p.Manifest.Layers, first)
		}
	}
}
