package server

import (
	"context"

	"waybill/artifact"
	"waybill/policy"
)

// Comparison is what two digests differ in.
type Comparison struct {
	From       ComparedImage       `json:"from"`
	To         ComparedImage       `json:"to"`
	Difference artifact.Difference `json:"difference"`
	MoreFiles  int                 `json:"moreFiles,omitempty" doc:"Lighter ones that are left out"`
}

// ComparedImage is one of them.
type ComparedImage struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Tags       []artifact.Tag      `json:"tags"`
	Image      artifact.Digest     `json:"image" doc:"What was compared: of an index, its image of a platform that both have"`
	Platform   string              `json:"platform,omitempty"`
	Layers     int                 `json:"layers"`
	Size       int64               `json:"size" doc:"Bytes of the layers, compressed"`
	Scan       artifact.ScanState  `json:"scan"`
}

type (
	compareInput struct {
		From string `query:"from" required:"true" maxLength:"500" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST; of the digest the first 12 hex digits are enough" example:"shop/returns:v455"`
		To   string `query:"to" required:"true" maxLength:"500" doc:"As from, also of another repository" example:"shop/returns:v456"`
	}
	compareOutput struct{ Body Comparison }
)

// maxComparedFiles is how many files of a comparison are told, the heaviest changes.
const maxComparedFiles = 1000

func (a *API) compare(ctx context.Context, p artifact.Principal, in *compareInput) (*compareOutput, error) {
	from, err := a.look(ctx, p, in.From)
	if err != nil {
		return nil, err
	}
	to, err := a.look(ctx, p, in.To)
	if err != nil {
		return nil, err
	}
	var c Comparison
	ours, theirs := artifact.Counterparts(from.StoredManifest, to.StoredManifest)
	one, err := a.compared(ctx, &c.From, from.StoredManifest, ours)
	if err != nil {
		return nil, err
	}
	other, err := a.compared(ctx, &c.To, to.StoredManifest, theirs)
	if err != nil {
		return nil, err
	}
	d := artifact.Compare(one, other)
	if len(d.Files) > maxComparedFiles {
		d.Files, c.MoreFiles = d.Files[:maxComparedFiles], len(d.Files)-maxComparedFiles
	}
	d.Added, d.Removed, d.Changed = orEmpty(d.Added), orEmpty(d.Removed), orEmpty(d.Changed)
	d.Introduced, d.Fixed, d.Config, d.Files = orEmpty(d.Introduced), orEmpty(d.Fixed), orEmpty(d.Config), orEmpty(d.Files)
	c.Difference = d
	return &compareOutput{Body: c}, nil
}

// compared reads what is known of an image, which is a manifest or one of an index's.
func (a *API) compared(ctx context.Context, says *ComparedImage, m artifact.StoredManifest, image artifact.Digest) (c artifact.Compared, err error) {
	says.Repository, says.Digest, says.Image = m.Repository, m.Digest, image
	if says.Tags, err = a.cfg.Content.TagsOf(ctx, m.Repository, m.Digest); err != nil {
		return c, err
	}
	if image != m.Digest {
		if m, err = a.cfg.Content.Manifest(ctx, m.Repository, image); err != nil {
			return c, err
		}
	}
	c.Layers = m.Manifest.Layers
	if c.Scan, err = a.cfg.Records.Scan(ctx, m.Digest); err != nil {
		return c, err
	}
	says.Tags, says.Platform, says.Layers, says.Size, says.Scan = orEmpty(says.Tags), m.Platform, len(c.Layers), c.Size(), c.Scan.State
	if m.IsImage {
		c.Config, c.Facts, err = a.stacked(ctx, m)
	}
	return c, err
}

// stacked reads an image's config and stacks its layers; what cannot be read is nil, and policy says why.
func (a *API) stacked(ctx context.Context, m artifact.StoredManifest) (*artifact.ImageConfig, *artifact.ImageFacts, error) {
	body, err := a.cfg.Content.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
	if err != nil {
		return nil, nil, err
	}
	config, err := artifact.ParseImageConfig(body, len(m.Manifest.Layers))
	if err != nil {
		return nil, nil, nil // what is not known is not compared
	}
	facts, err := policy.Stack(ctx, a.cfg.Facts, m, config)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil, err
	case err != nil:
		return &config, nil, nil
	}
	return &config, &facts, nil
}
