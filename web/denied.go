package web

import (
	"context"

	"waybill/artifact"
)

// notStored is the answer to a tag that only a denied push had: there is no such tag, and See is why.
type notStored struct {
	error
	See artifact.Reference
}

func (e notStored) Unwrap() error { return e.error }

// elseDenied turns the answer that there is no such tag into one that leads to the push that was denied, for a reader who may
// look at the repository.
func (w *Web) elseDenied(ctx context.Context, p artifact.Principal, text string, absent error) error {
	ref, err := artifact.ParseReference(text)
	if err != nil || artifact.KindOf(absent) != artifact.NotFound || ref.Tag.IsZero() || !p.Can(artifact.ActionLook, ref.Repository) {
		return absent
	}
	d, ok, err := w.cfg.Store.DeniedTag(ctx, ref.Repository, ref.Tag)
	if err != nil || !ok {
		return absent
	}
	return notStored{artifact.NotStored(ref.Repository, ref.Tag, d), artifact.Reference{Repository: ref.Repository, Digest: d}}
}

// denied fills the page of a digest whose push policy denied: what it was, as far as that is kept, and why. There is
// nothing to sign, promote or pull.
func (w *Web) denied(ctx context.Context, p artifact.Principal, page *digestPage, ref artifact.Reference) error {
	d, err := w.cfg.Store.DeniedPush(ctx, ref.Repository, ref.Digest)
	if err != nil {
		return err
	}
	page.Denied, page.Manifest, page.Verdict, page.Judged = &d, d.Manifest, d.Verdict, true
	if d.Manifest.IsImage {
		if page.Scan, err = w.cfg.Store.Scan(ctx, ref.Digest); err != nil {
			return err
		}
	}
	page.Journey = []stop{{Name: "Pushed", State: "bad", Text: "refused", Who: d.Actor, When: d.At},
		{Name: "Verdict", State: "bad", Text: string(d.Verdict.Outcome), When: d.At}}
	page.scanned()
	page.Recalls = false
	if !d.Kept() {
		return nil
	}
	return w.image(ctx, p, page)
}
