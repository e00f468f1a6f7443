package server

import (
	"context"
	"time"

	"waybill/artifact"
)

// Denial says of a manifest that policy denied it as it was pushed: it is not stored, and nobody can pull it. What is told of
// it is what was kept for whoever wants to know why.
type Denial struct {
	Reference   string    `json:"reference" doc:"What the pusher called it: a tag or a digest"`
	By          string    `json:"by"`
	At          time.Time `json:"at"`
	LedgerIndex int64     `json:"ledgerIndex"`
	Kept        bool      `json:"kept" doc:"Whether more than the verdict was kept"`
}

// elseNotStored turns the answer that there is no such tag into one that names the denied push that had it, for one who may
// look at the repository.
func (a *API) elseNotStored(ctx context.Context, p artifact.Principal, ref artifact.Reference, absent error) error {
	if artifact.KindOf(absent) != artifact.NotFound || ref.Tag.IsZero() || !p.Can(artifact.ActionLook, ref.Repository) {
		return absent
	}
	if d, ok, err := a.cfg.Records.DeniedTag(ctx, ref.Repository, ref.Tag); err == nil && ok {
		return artifact.NotStored(ref.Repository, ref.Tag, d)
	}
	return absent
}

// lookOrDenied is look which answers for a digest too whose push was denied, to one who may look at the repository; denied is
// nil of what is stored.
func (a *API) lookOrDenied(ctx context.Context, p artifact.Principal, ref string) (s subject, denied *artifact.DeniedPush, err error) {
	s, absent := a.look(ctx, p, ref)
	if artifact.KindOf(absent) != artifact.NotFound || s.reference.Digest.IsZero() || !p.Can(artifact.ActionLook, s.reference.Repository) {
		return s, nil, absent
	}
	d, err := a.cfg.Records.DeniedPush(ctx, s.reference.Repository, s.reference.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return s, nil, absent
	} else if err != nil {
		return s, nil, err
	}
	s.StoredManifest = d.Manifest
	return s, &d, nil
}

func denialOf(d *artifact.DeniedPush) *Denial {
	if d == nil {
		return nil
	}
	return &Denial{Reference: d.Reference, By: d.Actor, At: d.At, LedgerIndex: d.LedgerIndex, Kept: d.Kept()}
}

// inspectDenied is inspection of what was denied, as far as it was kept.
func (a *API) inspectDenied(ctx context.Context, d *artifact.DeniedPush, tree int) (Inspection, error) {
	i := sketch(d.Manifest)
	i.Denied = denialOf(d)
	if !d.Kept() {
		i.Type = "unknown"
	}
	if !d.Manifest.IsImage {
		return i, nil
	}
	image, err := a.insides(ctx, d.Manifest, d.Config, tree)
	if kind := artifact.KindOf(err); kind == artifact.NotFound || kind == artifact.Denied || kind == artifact.Invalid {
		err = nil // the verdict says what could not be known of it
	}
	i.Image = image
	return i, err
}

// scanDenied is scanReport of what was denied, as far as it was kept.
func (a *API) scanDenied(ctx context.Context, d *artifact.DeniedPush) (report ScanReport, err error) {
	m := d.Manifest
	if d.Kept() {
		report, err = a.scanReport(ctx, m)
	} else {
		report = ScanReport{Repository: m.Repository, Digest: m.Digest, State: artifact.ScanPending, Reason: "the push was denied, and nothing but the verdict was kept", Counts: map[artifact.Severity]int{}, Findings: []artifact.Finding{}}
	}
	report.Denied = denialOf(d)
	return report, err
}

// tellDenied is the story of what was denied: it has no signatures, and went nowhere.
func (a *API) tellDenied(ctx context.Context, d *artifact.DeniedPush) (Story, error) {
	story := Story{Verdict: d.Verdict, Signatures: []SignatureRecord{}, Promotions: []artifact.Promotion{}, RunsIn: []artifact.Deployment{}}
	story.Verdict.Reasons, story.Verdict.Policies = orEmpty(story.Verdict.Reasons), orEmpty(story.Verdict.Policies)
	story.Manifest = sketch(d.Manifest)
	story.Manifest.Denied = denialOf(d)
	if !d.Kept() {
		story.Manifest.Type = "unknown"
	}
	if !d.Manifest.IsImage && !d.Manifest.Manifest.IsIndex() {
		return story, nil
	}
	report, err := a.scanDenied(ctx, d)
	story.Scan = &report
	return story, err
}
