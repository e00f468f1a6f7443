package web

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/policy"
)

// side is one of two digests that are compared, or an image of one.
type side struct {
	artifact.Compared
	Repository artifact.Repository
	Digest     artifact.Digest
	Tags       []artifact.Tag
	Image      artifact.Digest // that was compared: of an index, one of its images
	Platform   string
}

// difference is what the second digest has that the first has not, and the other way round.
type difference struct {
	artifact.Difference
	A, B      side
	Indexes   bool // an image of each, of the same platform where they have one in common, was compared
	MoreFiles int  // that are not shown
}

// maxFileRows is how many files of a comparison are shown.
const maxFileRows = 100

// comparePage compares two digests that may lie in two repositories.
type comparePage struct {
	From, To   string // as they were asked for
	Difference *difference
}

func (w *Web) compare(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	page := &comparePage{From: strings.TrimSpace(c.Query("from")), To: strings.TrimSpace(c.Query("to"))}
	if page.From == "" || page.To == "" {
		w.render(c, http.StatusOK, "compare", "Compare", page)
		return nil
	}
	var sides [2]side
	for i, text := range []string{page.From, page.To} {
		ref, err := w.resolve(ctx, p, text)
		if err != nil {
			return err
		}
		sides[i] = side{Repository: ref.Repository, Digest: ref.Digest}
	}
	d, err := w.difference(ctx, sides[0], sides[1])
	if err != nil {
		return err
	}
	page.Difference = &d
	w.render(c, http.StatusOK, "compare", "Compare "+d.A.Digest.Short()+" with "+d.B.Digest.Short(), page)
	return nil
}

// resolve finds the digest that a text names, for a reader who may see it.
func (w *Web) resolve(ctx context.Context, p artifact.Principal, text string) (artifact.Reference, error) {
	named, err := artifact.ParseShortReference(text)
	ref := named.Reference
	if err != nil {
		return ref, err
	}
	if named.Short != "" {
		ref.Digest, err = w.byPrefix(ctx, p, named)
		return ref, err
	}
	if ref.Digest.IsZero() {
		ref.Digest, err = w.cfg.Store.ResolveTag(ctx, ref.Repository, ref.Tag)
		if artifact.KindOf(err) == artifact.NotFound && !p.Can(artifact.ActionLook, ref.Repository) {
			return ref, p.Refusal(artifact.ActionLook, ref.Repository) // to a deployer a tag that is not there and one that is not its own look the same
		} else if err != nil {
			return ref, err
		}
	}
	if ok, err := w.sees(ctx, p, ref.Repository, ref.Digest); err != nil || !ok {
		if err == nil {
			err = p.Refusal(artifact.ActionLook, ref.Repository)
		}
		return ref, err
	}
	return ref, nil
}

// byPrefix finds the one digest that begins so, of those that the reader may see; what was denied, where nothing that is stored does.
func (w *Web) byPrefix(ctx context.Context, p artifact.Principal, named artifact.ShortReference) (artifact.Digest, error) {
	found, err := w.cfg.Store.DigestsByPrefix(ctx, named.Repository, named.Short)
	if err != nil {
		return artifact.Digest{}, err
	}
	if !p.Can(artifact.ActionLook, named.Repository) {
		allowed, err := w.cfg.Gate.Filter(ctx, p, named.Repository, found)
		if err != nil {
			return artifact.Digest{}, err
		}
		if found = slices.DeleteFunc(found, func(d artifact.Digest) bool { return !allowed[d] }); len(found) == 0 {
			return artifact.Digest{}, p.Refusal(artifact.ActionLook, named.Repository)
		}
	} else if len(found) == 0 {
		if found, err = w.cfg.Store.DeniedByPrefix(ctx, named.Repository, named.Short); err != nil {
			return artifact.Digest{}, err
		}
	}
	switch len(found) {
	case 0:
		return artifact.Digest{}, artifact.Errorf(artifact.NotFound, "%s has no manifest whose digest begins with %s", named.Repository, named.Short)
	case 1:
		return found[0], nil
	}
	return artifact.Digest{}, artifact.Errorf(artifact.Conflict, "%s is not unique: %s and %s begin so; give more digits", named, found[0], found[1])
}

// difference compares two digests; of indexes, their images of one platform. The caller has checked the reader.
func (w *Web) difference(ctx context.Context, a, b side) (d difference, err error) {
	d = difference{A: a, B: b}
	ours, err := w.cfg.Store.Manifest(ctx, a.Repository, a.Digest)
	if err != nil {
		return d, err
	}
	theirs, err := w.cfg.Store.Manifest(ctx, b.Repository, b.Digest)
	if err != nil {
		return d, err
	}
	d.Indexes = ours.Manifest.IsIndex() || theirs.Manifest.IsIndex()
	d.A.Image, d.B.Image = artifact.Counterparts(ours, theirs)
	if err = w.load(ctx, &d.A, ours); err != nil {
		return d, err
	}
	if err = w.load(ctx, &d.B, theirs); err != nil {
		return d, err
	}
	d.Difference = artifact.Compare(d.A.Compared, d.B.Compared)
	if len(d.Files) > maxFileRows {
		d.Files, d.MoreFiles = d.Files[:maxFileRows], len(d.Files)-maxFileRows
	}
	return d, nil
}

// load reads a side, whose manifest is at hand.
func (w *Web) load(ctx context.Context, s *side, m artifact.StoredManifest) (err error) {
	if s.Tags, err = w.cfg.Store.TagsOf(ctx, s.Repository, s.Digest); err != nil {
		return err
	}
	if s.Image != m.Digest {
		if m, err = w.cfg.Store.Manifest(ctx, s.Repository, s.Image); err != nil {
			return err
		}
	}
	s.Layers, s.Platform = m.Manifest.Layers, m.Platform
	if s.Scan, err = w.cfg.Store.Scan(ctx, m.Digest); err != nil || !m.IsImage {
		return err
	}
	s.Config, s.Facts, err = w.insides(ctx, m)
	return err
}

// insides reads an image's config and stacks its layers; facts are nil where a layer's are not known.
func (w *Web) insides(ctx context.Context, m artifact.StoredManifest) (*artifact.ImageConfig, *artifact.ImageFacts, error) {
	body, err := w.cfg.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
	if err != nil {
		return nil, nil, err
	}
	return w.stacked(ctx, m, body)
}

// stacked is insides of an image whose config is at hand.
func (w *Web) stacked(ctx context.Context, m artifact.StoredManifest, body []byte) (*artifact.ImageConfig, *artifact.ImageFacts, error) {
	config, err := artifact.ParseImageConfig(body, len(m.Manifest.Layers))
	if err != nil {
		return nil, nil, nil // policy says what is wrong with it
	}
	facts, err := policy.Stack(ctx, w.cfg.Facts, m, config)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil, err
	case err != nil:
		return &config, nil, nil // policy says why it cannot be inspected
	}
	return &config, &facts, nil
}
