package policy

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"waybill/artifact"
)

// Many returns a judge of many digests one after another, from what is stored: it remembers the facts of layers, and
// what the layers come to that several images begin with.
func (j *Judge) Many(facts Facts, contents Contents) *Judge {
	cfg := j.cfg
	remembered := &rememberedFacts{facts: facts, known: map[artifact.Digest]*artifact.LayerFacts{}}
	cfg.Facts, cfg.Contents, cfg.Weights = remembered, contents, nil // few are judged at a time
	return &Judge{cfg: cfg, folds: newFolds(), remembered: remembered}
}

// Forget gives back the memory that a judge of many took, once there are no more.
func (j *Judge) Forget() {
	if j.folds != nil {
		j.folds.forget()
		j.remembered.forget()
	}
}

// JudgeManifests judges stored manifests, and returns a verdict or an error for each, in their order.
func (j *Judge) JudgeManifests(ctx context.Context, all []artifact.StoredManifest) ([]Verdict, []error) {
	verdicts, errs := make([]Verdict, len(all)), make([]error, len(all))
	set, err := j.inForce(ctx)
	each(all, func(i int) {
		if errs[i] = err; err == nil {
			verdicts[i], errs[i] = j.judgeUnder(ctx, all[i], set, nil)
		}
	})
	return verdicts, errs
}

// workers judge a page of manifests at a time. More would only wait for each other's processor and database.
const workers = 2

func each[T any](all []T, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range all {
		group.Go(func() error { do(i); return nil })
	}
	_ = group.Wait()
}

// judgeUnder judges one manifest under a set. images, if it is not nil, keeps what was loaded for a second set.
func (j *Judge) judgeUnder(ctx context.Context, m artifact.StoredManifest, set Set, images map[artifact.Digest]Image) (Verdict, error) {
	s, err := j.subjectOf(ctx, m)
	if err != nil {
		return Verdict{}, err
	}
	judging := j.judging(s, set, artifact.Digest{})
	judging.images = images
	return judging.judge(ctx, s, 0)
}

// rememberedFacts keeps the facts of the layers asked for last.
type rememberedFacts struct {
	facts Facts

	mu    sync.Mutex // guards what follows
	known map[artifact.Digest]*artifact.LayerFacts
	files int
}

// maxRemembered bounds the files of remembered layers; each takes some 200 bytes.
const maxRemembered = 60_000

func (r *rememberedFacts) Layer(ctx context.Context, repository artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	r.mu.Lock()
	known := r.known[d.Digest]
	r.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	facts, err := r.facts.Layer(ctx, repository, d)
	if err != nil || len(facts.Files) > maxRemembered {
		return facts, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[d.Digest] == nil {
		r.known[d.Digest] = &facts
		r.files += 1 + len(facts.Files)
	}
	for digest, other := range r.known { // in no order
		if r.files <= maxRemembered {
			break
		}
		delete(r.known, digest)
		r.files -= 1 + len(other.Files)
	}
	return facts, nil
}

func (r *rememberedFacts) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.known)
	r.files = 0
}

// folds keeps what layers come to, lowest first, that several images begin with. What it holds is never changed.
type folds struct {
	mu    sync.Mutex // guards what follows
	known map[artifact.Digest]*fold
	once  map[artifact.Digest]bool // met lately, and not kept
	older map[artifact.Digest]bool // met before those
	nodes int
	clock int64
}

type fold struct {
	folding *artifact.Folding
	used    int64
}

// Bounds of what is kept.
const (
	maxFolded = 60_000 // files of all kept foldings; each takes some 300 bytes
	maxOnce   = 500
)

func newFolds() *folds {
	return &folds{known: map[artifact.Digest]*fold{}, once: map[artifact.Digest]bool{}}
}

// begin starts the folding of one image.
func (f *folds) begin(config artifact.ImageConfig) *stacking {
	return &stacking{folds: f, config: config, current: artifact.NewFolding(config), own: true}
}

// stacking is an artifact.Folding that goes on from a kept one as far as there is one.
type stacking struct {
	folds   *folds
	config  artifact.ImageConfig
	current *artifact.Folding
	own     bool // current may be changed
	key     artifact.Digest
}

func (s *stacking) Add(l artifact.LayerFacts) error {
	if s.folds == nil {
		return s.current.Add(l)
	}
	s.key = artifact.DigestOf([]byte(s.key.String() + " " + l.Digest.String() + " " + l.DiffID.String()))
	known, keep := s.folds.look(s.key)
	if known != nil {
		s.current, s.own = known, false
		return nil
	}
	s.mine()
	if err := s.current.Add(l); err != nil {
		return err
	}
	if keep {
		s.own = !s.folds.keep(s.key, s.current)
	}
	return nil
}

// mine makes the folding one that may be changed.
func (s *stacking) mine() {
	if !s.own {
		s.current, s.own = s.current.Continue(s.config), true
	}
}

func (s *stacking) Facts() artifact.ImageFacts {
	s.mine()
	return s.current.Facts()
}

func (f *folds) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.known)
	clear(f.once)
	clear(f.older)
	f.nodes = 0
}

// look returns what is kept, or whether it should be: it was met lately. Images come in the order of their repositories,
// whose bases are few; the same image comes again much later.
func (f *folds) look(key artifact.Digest) (known *artifact.Folding, keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	if kept := f.known[key]; kept != nil {
		kept.used = f.clock
		return kept.folding, false
	}
	if f.once[key] || f.older[key] {
		return nil, true
	}
	if len(f.once) >= maxOnce {
		f.once, f.older = map[artifact.Digest]bool{}, f.once
	}
	f.once[key] = true
	return nil, false
}

// keep takes a folding, which nobody changes from then on, and makes room for it.
func (f *folds) keep(key artifact.Digest, folding *artifact.Folding) (kept bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	size := folding.Size()
	if f.known[key] != nil || size > maxFolded/2 {
		return false
	}
	folding.Freeze()
	delete(f.once, key)
	delete(f.older, key)
	f.known[key] = &fold{folding, f.clock}
	for f.nodes += size; f.nodes > maxFolded; {
		var oldest artifact.Digest
		for k, kept := range f.known {
			if k != key && (oldest.IsZero() || kept.used < f.known[oldest].used) {
				oldest = k
			}
		}
		f.nodes -= f.known[oldest].folding.Size()
		delete(f.known, oldest)
	}
	return true
}
