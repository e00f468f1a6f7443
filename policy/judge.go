package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"waybill/artifact"
)

// Facts gives what is known of a layer, and waits for an inspection that runs. A Denied error says that the layer cannot
// be inspected.
type Facts interface {
	Layer(ctx context.Context, repository artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error)
}

// Contents reads what is stored. Blob is for small blobs: it refuses one over artifact.MaxManifest.
type Contents interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
}

// Policies gives the policies in force.
type Policies interface {
	Policies(ctx context.Context) ([]Versioned, error)
}

// Scans gives what the scanner finds in an image whose layers have been inspected.
type Scans interface {
	// Scan returns the newest scan there is, and makes one where there is none. Of an image that is arriving it is one by
	// the advisory database in force; with fresh, the caller has to store it.
	Scan(ctx context.Context, s artifact.Subject, arriving bool) (scan artifact.Scan, fresh bool, err error)
}

// Assessments adds to an image's findings what documents of those who are trusted say of them (OpenVEX).
type Assessments interface {
	Apply(ctx context.Context, repository artifact.Repository, image artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error)
}

// JudgeConfig names what a judge needs.
type JudgeConfig struct {
	Facts    Facts
	Scans    Scans       // nil: nothing is scanned, so that no rule about findings is met
	VEX      Assessments // nil: nobody says anything of findings
	Contents Contents
	Policies Policies
	// Referrers gives what refers to a manifest; nil: nothing does.
	Referrers Referrers
	// Signatures finds what others signed; nil: nothing, so that no rule that asks for it is met.
	Signatures Signatures
	Holders    Holders          // nil: an image is judged by itself alone, whatever index holds it
	Waivers    Waivers          // nil: there are none
	Weights    Weights          // nil: however heavy, images are judged as they come
	Now        func() time.Time // nil: time.Now; when waivers end, and how old things are
}

// Judge answers, for push, signature, promotion, page and command alike: is this digest allowed, now?
type Judge struct {
	cfg   JudgeConfig
	folds *folds // of a judge of many; nil keeps nothing

	remembered *rememberedFacts // likewise; cfg.Facts is the same

	impact sync.Mutex          // one at a time: it takes all there is of a processor
	heavy  *semaphore.Weighted // what heavy images take
}

// NewJudge returns a judge; it is safe for concurrent use.
func NewJudge(cfg JudgeConfig) *Judge { return &Judge{cfg: cfg, heavy: newRoom()} }

// Bounds of an index: no real one comes near.
const (
	maxDepth     = 4
	maxChildren  = 200
	maxManifests = 500 // in all
)

// Judge judges a manifest on its way in, with all that it names. An error is no verdict: the caller refuses, and may
// try again.
func (j *Judge) Judge(ctx context.Context, s artifact.Subject) (Verdict, error) {
	return j.begin(ctx, s, s.Digest)
}

func (j *Judge) begin(ctx context.Context, s artifact.Subject, arriving artifact.Digest) (Verdict, error) {
	set, err := j.inForce(ctx)
	if err != nil {
		return Verdict{}, err
	}
	return j.judging(s, set, arriving).judge(ctx, s, 0)
}

func (j *Judge) judging(s artifact.Subject, set Set, arriving artifact.Digest) *judging {
	return &judging{Judge: j, set: set, arriving: arriving, known: map[artifact.Digest]Verdict{}, asked: s}
}

// JudgeStored judges a manifest by its digest; NotFound when the repository does not have it.
func (j *Judge) JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (Verdict, error) {
	s, err := j.subject(ctx, repository, digest)
	if err != nil {
		return Verdict{}, err
	}
	return j.begin(ctx, s, artifact.Digest{})
}

func (j *Judge) subject(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.Subject, error) {
	stored, err := j.cfg.Contents.Manifest(ctx, repository, digest)
	if err != nil {
		return artifact.Subject{}, err
	}
	stored.Repository, stored.Digest = repository, digest
	return j.subjectOf(ctx, stored)
}

func (j *Judge) subjectOf(ctx context.Context, stored artifact.StoredManifest) (s artifact.Subject, err error) {
	s = artifact.Subject{Repository: stored.Repository, Digest: stored.Digest, Manifest: stored.Manifest, IsImage: stored.IsImage, Reference: stored.Digest.String()}
	if stored.Manifest.Config != nil && stored.Manifest.Config.Size <= artifact.MaxManifest {
		s.Config, err = j.cfg.Contents.Blob(ctx, stored.Repository, stored.Manifest.Config.Digest)
	}
	return s, err
}

// judging is one question under way: whatever an index names more than once is judged once.
type judging struct {
	*Judge
	set      Set
	arriving artifact.Digest // what is not stored yet; the zero Digest when all is
	known    map[artifact.Digest]Verdict
	asked    artifact.Subject
	answers  map[string]Signed // to questions about signatures

	images map[artifact.Digest]Image // what was loaded, for another judging of the same; nil keeps nothing
}

func (j *judging) judge(ctx context.Context, s artifact.Subject, depth int) (Verdict, error) {
	if v, ok := j.known[s.Digest]; ok {
		return v, nil
	}
	if len(j.known) >= maxManifests {
		return j.set.Uninspectable(s, fmt.Sprintf("the index leads to more than %d manifests", maxManifests)), nil
	}
	var (
		v   Verdict
		err error
	)
	switch {
	case s.Manifest.IsIndex():
		v, err = j.index(ctx, s, depth)
	case s.IsImage:
		v, err = j.image(ctx, s)
	default:
		v = j.set.Artifact(s)
	}
	if err == nil {
		j.known[s.Digest] = v
	}
	return v, err
}

func (j *judging) index(ctx context.Context, s artifact.Subject, depth int) (Verdict, error) {
	if depth >= maxDepth || len(s.Manifest.Manifests) > maxChildren {
		return j.set.Uninspectable(s, fmt.Sprintf("the index is nested deeper than %d or names more than %d manifests", maxDepth, maxChildren)), nil
	}
	var children []Child
	for _, d := range s.Manifest.Manifests {
		v, known := j.known[d.Digest]
		if !known {
			child, err := j.subject(ctx, s.Repository, d.Digest)
			if artifact.KindOf(err) == artifact.NotFound {
				return j.set.Uninspectable(s, fmt.Sprintf("the index names %s, which is not here", d.Digest)), nil
			}
			if err != nil {
				return Verdict{}, err
			}
			if v, err = j.judge(ctx, child, depth+1); err != nil {
				return Verdict{}, err
			}
		}
		platform := d.Digest.Short()
		if d.Platform != nil {
			platform = d.Platform.String()
		}
		children = append(children, Child{platform, v})
	}
	return j.set.Index(s, children), nil
}

// scan brings in what the scanner finds in an image, where somebody asks, and returns what is to be stored of it.
func (j *judging) scan(ctx context.Context, img *Image) (fresh *artifact.Scan, err error) {
	s := img.Subject
	arriving := s.Digest == j.arriving
	if j.cfg.Scans == nil || !arriving && j.images == nil && !j.set.asks(s.Repository, rulesOnScans...) {
		return nil, nil
	}
	scan, anew, err := j.cfg.Scans.Scan(ctx, s, arriving)
	if err != nil {
		return nil, err
	}
	if img.Scan = scan; j.cfg.VEX != nil && len(scan.Findings) > 0 {
		// What is said of findings is not stored with them: it may be said otherwise tomorrow.
		if img.Scan.Findings, err = j.cfg.VEX.Apply(ctx, s.Repository, s.Digest, scan.Findings); err != nil {
			return nil, err
		}
	}
	if anew {
		fresh = &scan
	}
	return fresh, nil
}

func (j *judging) image(ctx context.Context, s artifact.Subject) (Verdict, error) {
	if img, ok := j.images[s.Digest]; ok {
		var err error
		img.Signed, err = j.signed(ctx, s) // another set asks something else
		return j.set.Evaluate(img), err
	}
	if len(s.Manifest.Layers) > artifact.MaxLayers {
		return j.set.Uninspectable(s, fmt.Sprintf("the image has %d layers; no runtime stacks more than %d", len(s.Manifest.Layers), artifact.MaxLayers)), nil
	}
	config, err := artifact.ParseImageConfig(s.Config, len(s.Manifest.Layers))
	if err != nil {
		return j.set.Uninspectable(s, err.Error()), nil
	}
	img := Image{Subject: s, Config: config, Now: j.now(), Names: j.asked.Tags}
	if img.Signed, err = j.signed(ctx, s); err != nil {
		return Verdict{}, err
	}
	if img.Referrers, err = j.referrers(ctx, s); err != nil {
		return Verdict{}, err
	}
	had, release, err := j.room(ctx, s)
	if err != nil {
		return Verdict{}, err
	}
	defer release()
	folding := j.folds.begin(config)
	var why []string
	for i, d := range s.Manifest.Layers {
		facts, here := had[d.Digest]
		var err error
		if !here {
			facts, err = j.cfg.Facts.Layer(ctx, s.Repository, d)
		}
		var refused *artifact.Error
		switch {
		case artifact.KindOf(err) == artifact.NotFound && d.IsForeign():
			img.Foreign = append(img.Foreign, fmt.Sprintf("layer %d (%s) lies elsewhere, and what is not here cannot be judged; push it with the image", i+1, d.MediaType))
			facts = artifact.LayerFacts{Digest: d.Digest, Compressed: d.Size}
		case errors.As(err, &refused) && refused.Kind == artifact.Denied:
			why = append(why, fmt.Sprintf("layer %d (%s) %s", i+1, d.Digest, refused.Message))
			continue
		case err != nil:
			return Verdict{}, err
		case config.RootFS.DiffIDs[i] != facts.DiffID && config.RootFS.DiffIDs[i] != facts.DiffID512:
			img.Lies = append(img.Lies, fmt.Sprintf("layer %d (%s) holds %s, but the config's diff_ids say %s; rebuild the image", i+1, d.Digest, facts.DiffID, config.RootFS.DiffIDs[i]))
		}
		if len(why) > 0 {
			continue
		}
		if err := folding.Add(facts); err != nil {
			why = append(why, fmt.Sprintf("layer %d (%s) cannot be stacked: %s", i+1, d.Digest, err))
		}
	}
	if len(why) > 0 {
		return j.set.Uninspectable(s, why...), nil
	}
	img.Facts = folding.Facts()
	fresh, err := j.scan(ctx, &img)
	if err != nil {
		return Verdict{}, err
	}
	if j.images != nil {
		j.images[s.Digest] = img
	}
	v := j.set.Evaluate(img)
	v.Scan = fresh
	return v, nil
}
