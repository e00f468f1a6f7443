package policy

import (
	"context"
	"errors"

	"golang.org/x/sync/semaphore"

	"waybill/artifact"
)

// Weights tells what the facts of layers weigh before they are read; *postgres.DB is one.
type Weights interface {
	// FactsBytes returns of layers that have facts how many bytes those are.
	FactsBytes(ctx context.Context, layers []artifact.Digest) (map[artifact.Digest]int64, error)
}

// An image of a million empty files is some megabytes, and takes most of a gigabyte to judge: a push of a few hundred bytes, since
// its layer is here. So few of those are judged at a time. Bytes are of facts as they are stored; what comes of them
// takes five times that. An image that is lighter, as nearly all are, never waits.
const (
	lightImage = 8 << 20 // some 60,000 files
	heavyRoom  = 128 << 20
)

func newRoom() *semaphore.Weighted { return semaphore.NewWeighted(heavyRoom) }

// room waits until every layer of an image is inspected, and until there is room for its facts, which is given back by release.
// What was waited for, and is light, is in had.
func (j *Judge) room(ctx context.Context, s artifact.Subject) (had map[artifact.Digest]artifact.LayerFacts, release func(), err error) {
	release = func() {}
	if j.cfg.Weights == nil {
		return nil, release, nil
	}
	digests := make([]artifact.Digest, len(s.Manifest.Layers))
	for i, d := range s.Manifest.Layers {
		digests[i] = d.Digest
	}
	stored, err := j.cfg.Weights.FactsBytes(ctx, digests)
	if err != nil {
		return nil, release, err
	}
	had = map[artifact.Digest]artifact.LayerFacts{}
	var weight int64
	for _, d := range s.Manifest.Layers {
		n, known := stored[d.Digest]
		if !known {
			facts, err := j.cfg.Facts.Layer(ctx, s.Repository, d)
			var refused *artifact.Error
			if err != nil && !(errors.As(err, &refused) && (refused.Kind == artifact.Denied || refused.Kind == artifact.NotFound)) {
				return nil, release, err
			}
			if n = weigh(facts); err == nil && n < lightImage {
				had[d.Digest] = facts
			}
			stored[d.Digest] = n
		}
		weight += n
	}
	if release, err = j.enter(ctx, weight); err != nil {
		return nil, release, err
	}
	return had, release, nil
}

// weigh is about as many bytes as facts are stored in.
func weigh(facts artifact.LayerFacts) (n int64) {
	const each = 60 // of what is written of a file besides its names
	for _, f := range facts.Files {
		n += int64(len(f.Path)+len(f.Target)) + each
	}
	for _, content := range facts.Contents {
		n += int64(len(content))
	}
	return n
}

// Turns are facts for others than judges, who wait their turn with heavy images too: pages and the API stack layers as
// judges do.
type Turns struct {
	Facts
	judge *Judge
}

// Turns returns what of f others read.
func (j *Judge) Turns(f Facts) Turns { return Turns{f, j} }

// Stack returns what the layers of an image come to. Heavy images wait for their turn where f has them take turns.
func Stack(ctx context.Context, f Facts, m artifact.StoredManifest, config artifact.ImageConfig) (artifact.ImageFacts, error) {
	release, err := turn(ctx, f, m.Manifest.Layers)
	defer release()
	if err != nil {
		return artifact.ImageFacts{}, err
	}
	folding := artifact.NewFolding(config)
	for _, d := range m.Manifest.Layers {
		facts, err := f.Layer(ctx, m.Repository, d)
		if err != nil {
			return artifact.ImageFacts{}, err
		}
		if err := folding.Add(facts); err != nil {
			return artifact.ImageFacts{}, artifact.Errorf(artifact.Invalid, "%s@%s cannot be stacked: %w", m.Repository, m.Digest, err)
		}
	}
	return folding.Facts(), nil
}

func turn(ctx context.Context, f Facts, layers []artifact.Descriptor) (release func(), err error) {
	t, ok := f.(Turns)
	if !ok || t.judge.cfg.Weights == nil {
		return func() {}, nil
	}
	digests := make([]artifact.Digest, len(layers))
	for i, d := range layers {
		digests[i] = d.Digest
	}
	stored, err := t.judge.cfg.Weights.FactsBytes(ctx, digests)
	if err != nil {
		return func() {}, err
	}
	var weight int64
	for _, n := range stored {
		weight += n
	}
	return t.judge.enter(ctx, weight)
}

// enter takes room for an image that weighs so much.
func (j *Judge) enter(ctx context.Context, weight int64) (release func(), err error) {
	if weight < lightImage {
		return func() {}, nil
	}
	weight = min(weight, heavyRoom)
	if err := j.heavy.Acquire(ctx, weight); err != nil {
		return func() {}, err
	}
	return func() { j.heavy.Release(weight) }, nil
}
