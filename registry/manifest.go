package registry

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"unicode"

	"waybill/artifact"
)

// Pushed is what became of a manifest.
type Pushed struct {
	Digest   artifact.Digest
	Subject  artifact.Digest // zero when it has none
	Tags     []artifact.Tag
	Warnings []artifact.Reason
}

// Pulled is a manifest on its way out.
type Pulled struct {
	artifact.StoredManifest
	Stale bool // of a mirror whose upstream does not answer: the tag may stand elsewhere by now
}

// GetManifest returns a manifest to one who may have it.
func (r *Registry) GetManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference) (Pulled, error) {
	if !p.Sees(ref.Repository) {
		return Pulled{}, r.cfg.Gate.Pull(ctx, p, ref.Repository, ref.Digest)
	}
	digest, stale, err := r.resolve(ctx, p, ref)
	if err != nil {
		return Pulled{}, r.hide(p, ref, err)
	}
	if err := r.cfg.Gate.Pull(ctx, p, ref.Repository, digest); err != nil {
		return Pulled{}, r.hide(p, ref, err)
	}
	m, err := r.cfg.Manifests.Manifest(ctx, ref.Repository, digest)
	return Pulled{m, stale}, err
}

// resolve returns the digest that a reference means. What a mirror lacks is fetched for one who may pull at will; a
// deployer gets what was promoted, and that is here.
func (r *Registry) resolve(ctx context.Context, p artifact.Principal, ref artifact.Reference) (digest artifact.Digest, stale bool, err error) {
	follow := false
	if ofMirror(ref.Repository) && p.Can(artifact.ActionPull, ref.Repository) {
		if follow, err = r.followed(ctx, ref); err != nil {
			return digest, false, err
		}
	}
	switch {
	case follow && ref.Digest.IsZero():
		return r.cfg.Upstream.Tag(ctx, ref.Repository, ref.Tag)
	case follow:
		return ref.Digest, false, r.cfg.Upstream.Manifest(ctx, ref.Repository, ref.Digest)
	case ref.Digest.IsZero():
		digest, err = r.cfg.Manifests.ResolveTag(ctx, ref.Repository, ref.Tag)
		return digest, false, err
	}
	return ref.Digest, false, nil
}

// hide keeps from one who may pull nothing at will whether a tag exists, and where it stands: a tag that is not there and
// one that is not promoted get the same answer. That a digest was recalled, and why, everybody is told.
func (r *Registry) hide(p artifact.Principal, ref artifact.Reference, err error) error {
	if ref.Tag.IsZero() || !p.Sees(ref.Repository) || p.Can(artifact.ActionPull, ref.Repository) {
		return err
	}
	var refused *artifact.Error
	if errors.As(err, &refused) && (refused.Kind == artifact.NotFound || refused.Kind == artifact.Denied && len(refused.Reasons) > 0 && refused.Reasons[0].Rule == "not-promoted") {
		return artifact.Coded(artifact.Denied, "DENIED", "%s is not promoted to %s, and %s may pull nothing else; a promoter can do so: waybill promote %s %s ENVIRONMENT",
			ref, environments(p, ref.Repository), p.Name, ref.Repository, ref.Tag)
	}
	return err
}

func environments(p artifact.Principal, repository artifact.Repository) string {
	deploys := p.Deploys(repository)
	names := make([]string, len(deploys))
	for i, e := range deploys {
		names[i] = e.String()
	}
	return strings.Join(names, " or ")
}

// PutManifest judges a manifest and, if it is allowed, stores it under its digest and its tags. A denial carries every
// reason, and leaves nothing that can be pulled.
func (r *Registry) PutManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference, contentType string, body []byte, more []artifact.Tag) (Pushed, error) {
	all := more
	if !ref.Tag.IsZero() {
		all = append([]artifact.Tag{ref.Tag}, more...)
	}
	var plain, cosign []artifact.Tag
	for _, tag := range all {
		if tag.IsCosign() {
			cosign = append(cosign, tag)
		} else {
			plain = append(plain, tag)
		}
	}
	if len(cosign) == 0 {
		return r.putManifest(ctx, p, ref, contentType, body, more)
	}
	// Each of cosign's tags is a push of its own, the plain ones go with the first. One that fails leaves those before it,
	// and the next push of all goes on.
	var pushed Pushed
	for _, tag := range cosign {
		one, err := r.putAttached(ctx, p, artifact.Reference{Repository: ref.Repository, Digest: ref.Digest, Tag: tag}, contentType, body, plain, nil)
		if err != nil {
			return Pushed{}, err
		}
		one.Tags, one.Warnings = append(pushed.Tags, one.Tags...), append(pushed.Warnings, one.Warnings...)
		pushed, plain = one, nil
	}
	return pushed, nil
}

func (r *Registry) putManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference, contentType string, body []byte, more []artifact.Tag, drops ...artifact.Digest) (Pushed, error) {
	r.pushing(ctx)
	if err := may(p, artifact.ActionPush, ref.Repository); err != nil {
		return Pushed{}, err
	}
	m, err := artifact.ParseManifest(contentType, body)
	if err != nil {
		return Pushed{}, err
	}
	digest, err := digestOf(ref, body)
	if err != nil {
		return Pushed{}, err
	}
	tags, err := r.tags(ctx, ref, more)
	if err != nil {
		return Pushed{}, err
	}
	subject, err := r.subject(ctx, ref, digest, m)
	if err != nil {
		return Pushed{}, err
	}
	subject.Tags = tags
	if err := holdsStatements(tags, subject); err != nil {
		return Pushed{}, err
	}
	mutable, err := r.mutable(ctx, ref.Repository)
	if err != nil {
		return Pushed{}, err
	}
	judgement, err := r.cfg.Judge.Judge(ctx, subject)
	if err != nil {
		return Pushed{}, err
	}
	verdict := judgement.Verdict
	push := artifact.Push{
		StoredManifest: artifact.StoredManifest{Repository: ref.Repository, Digest: digest, Manifest: m, Body: body, IsImage: subject.IsImage,
			Platform: platform(subject), PushedBy: p.Name},
		Tags: tags, Reference: subject.Reference, Drops: drops, Judgement: judgement,
		Attached: p.Name == artifact.System.Name && !ofMirror(ref.Repository),
	}
	if subject.IsImage {
		push.Config = subject.Config
	}
	switch verdict.Outcome {
	case artifact.Allow:
		err = r.cfg.Manifests.PutManifest(ctx, push, mutable)
	case artifact.Deny:
		err = r.deny(ctx, push)
	default:
		err = &artifact.Error{Kind: artifact.Unavailable, Message: "the image cannot be judged yet, so it is not accepted; push it again", Reasons: verdict.Reasons}
	}
	if err != nil {
		return Pushed{}, err
	}
	pushed := Pushed{Digest: digest, Tags: tags, Warnings: verdict.Warnings()}
	if m.Subject != nil {
		pushed.Subject = m.Subject.Digest
	}
	return pushed, nil
}

// holdsStatements refuses at cosign's tags what cosign would not put there: in its place no signature could be written.
func holdsStatements(tags []artifact.Tag, s artifact.Subject) error {
	for _, tag := range tags {
		if tag.IsCosign() && (s.IsImage || !s.Manifest.ClaimsStatements()) {
			return artifact.Coded(artifact.Invalid, "MANIFEST_INVALID", "%s is where cosign keeps signatures, attestations or SBOMs, and this holds none; push it by another tag", tag)
		}
	}
	return nil
}

func (r *Registry) deny(ctx context.Context, push artifact.Push) error {
	if err := r.cfg.Manifests.SaveDenied(ctx, push); err != nil {
		return err
	}
	reasons := push.Verdict.Denials()
	lines := make([]string, len(reasons))
	for i, reason := range reasons {
		lines[i] = reason.String()
		if reason.Platform != "" {
			lines[i] = reason.Platform + ": " + lines[i]
		}
	}
	// Some clients show only an error's message, so all of it stands there.
	return &artifact.Error{Kind: artifact.Denied, Code: "DENIED", Message: strings.Join(lines, "\n"), Reasons: reasons}
}

func digestOf(ref artifact.Reference, body []byte) (artifact.Digest, error) {
	if ref.Digest.IsZero() {
		return artifact.DigestOf(body), nil
	}
	sum := artifact.NewHash(ref.Digest.Algorithm())
	sum.Write(body)
	if got := artifact.DigestFrom(ref.Digest.Algorithm(), sum); got != ref.Digest {
		return got, artifact.Coded(artifact.Invalid, "DIGEST_INVALID", "the manifest is %s, not %s", got, ref.Digest)
	}
	return ref.Digest, nil
}

// tags collects the tags to set, and refuses environments' names.
func (r *Registry) tags(ctx context.Context, ref artifact.Reference, more []artifact.Tag) ([]artifact.Tag, error) {
	tags := more
	if !ref.Tag.IsZero() {
		tags = append([]artifact.Tag{ref.Tag}, more...)
	}
	for _, tag := range tags {
		reserved, err := r.cfg.Names.Reserved(ctx, ref.Repository, tag)
		if err != nil {
			return nil, err
		}
		if reserved {
			return nil, artifact.Coded(artifact.Denied, "DENIED", "%s is an environment's name, and only a promotion moves it; push another tag, then `waybill promote %s TAG %s`", tag, ref.Repository, tag)
		}
	}
	return tags, nil
}

// subject checks that all a manifest names is here, and reads its config.
func (r *Registry) subject(ctx context.Context, ref artifact.Reference, digest artifact.Digest, m artifact.Manifest) (artifact.Subject, error) {
	s := artifact.Subject{Repository: ref.Repository, Digest: digest, Manifest: m, Reference: digest.String()}
	if !ref.Tag.IsZero() {
		s.Reference = ref.Tag.String()
	}
	missing, err := r.cfg.Manifests.Missing(ctx, ref.Repository, m.Blobs(), m.Manifests)
	if err != nil {
		return s, err
	}
	if len(missing) > 0 {
		return s, artifact.Coded(artifact.NotFound, "MANIFEST_BLOB_UNKNOWN", "the manifest names what %s does not have: %s; push that first", ref.Repository, strings.Join(missing[:min(5, len(missing))], ", "))
	}
	if m.Config != nil {
		if m.Config.Size > artifact.MaxManifest {
			return s, artifact.Coded(artifact.TooLarge, "SIZE_INVALID", "the config %s has %d bytes, and at most %d are read; put what is large into a layer", m.Config.Digest, m.Config.Size, artifact.MaxManifest)
		}
		if s.Config, err = r.Blob(ctx, ref.Repository, m.Config.Digest); err != nil {
			return s, err
		}
	}
	s.IsImage, err = r.isImage(m, s.Config)
	return s, err
}

// isImage looks at the bytes: what claims to be a signature or an attestation is one when it is text, which no runtime
// can unpack.
func (r *Registry) isImage(m artifact.Manifest, config []byte) (bool, error) {
	if !m.IsImage(config) || !m.ClaimsStatements() {
		return m.IsImage(config), nil
	}
	for _, d := range m.Layers {
		if text, err := r.isText(d.Digest); err != nil || !text {
			return true, err
		}
	}
	return false, nil
}

// maxStatement bounds what is read of a layer that claims to be a statement, in bytes. SBOMs have some MB.
const maxStatement = 64 << 20

// isText reports whether a blob is UTF-8 without control characters: no archive, compressed or not, and no program is.
func (r *Registry) isText(digest artifact.Digest) (bool, error) {
	file, size, err := r.cfg.Bytes.Open(digest)
	if err != nil {
		return false, err
	}
	defer file.Close()
	if size > maxStatement {
		return false, nil
	}
	for in := bufio.NewReaderSize(file, 64<<10); ; {
		c, n, err := in.ReadRune()
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil:
			return false, err
		case c == unicode.ReplacementChar && n == 1, unicode.IsControl(c) && c != '\t' && c != '\n' && c != '\r':
			return false, nil
		}
	}
}

func platform(s artifact.Subject) string {
	if !s.IsImage {
		return ""
	}
	config, err := artifact.ParseImageConfig(s.Config, len(s.Manifest.Layers))
	if err != nil {
		return ""
	}
	return config.Platform().String()
}

// DeleteManifest deletes what a digest names, with its tags, or a tag alone.
func (r *Registry) DeleteManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference) error {
	if err := may(p, artifact.ActionDelete, ref.Repository); err != nil {
		return err
	}
	if ref.Digest.IsZero() {
		return r.cfg.Manifests.DeleteTag(ctx, ref.Repository, ref.Tag, p.Name)
	}
	return r.cfg.Manifests.DeleteManifest(ctx, ref.Repository, ref.Digest, p.Name)
}
