package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"waybill/artifact"
)

// Target is a registry to copy what is promoted to.
type Target struct {
	Remote
	Repositories []string               // globs
	Environments []artifact.Environment // a promotion to one of these is copied
	Prefix       string                 // of the repository's name there; "": it is called as here
}

// Promoted is what is copied; *postgres.DB is one.
type Promoted interface {
	// Closure returns the manifests that belong to a promoted digest: itself and, of an index, its children, and what
	// refers to any of them. What was recalled is not among them.
	Closure(ctx context.Context, repository artifact.Repository, root artifact.Digest) ([]artifact.Digest, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	TagsOf(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Tag, error)
	// TagHistory returns what a tag stood at.
	TagHistory(ctx context.Context, repository artifact.Repository, tag artifact.Tag) ([]artifact.TagChange, error)
	// Current returns what an environment runs now.
	Current(ctx context.Context, repository artifact.Repository, environment artifact.Environment) (artifact.Deployment, bool, error)
	// RecalledIn says who recalled a digest, or a part of it, and why.
	RecalledIn(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]string, error)
}

// Bytes opens blobs; blob.File is one.
type Bytes interface {
	Open(digest artifact.Digest) (*os.File, int64, error)
}

// CopierConfig names everything a Copier needs.
type CopierConfig struct {
	Targets  []Target
	Promoted Promoted
	Bytes    Bytes
	Logger   *slog.Logger
}

// Copier copies promoted digests to other registries. It is safe for concurrent use.
type Copier struct {
	cfg     CopierConfig
	targets map[string]*target
}

type target struct {
	Target
	*client
}

// NewCopier returns a copier; it asks nobody yet.
func NewCopier(cfg CopierConfig) (*Copier, error) {
	c := &Copier{cfg: cfg, targets: map[string]*target{}}
	for _, t := range cfg.Targets {
		client, err := newClient(t.Remote)
		if err != nil {
			return nil, fmt.Errorf("replication %s: %w", t.Name, err)
		}
		c.targets[t.Name] = &target{t, client}
	}
	return c, nil
}

// Targets returns where a promotion to an environment of a repository is to be copied, by name.
func (c *Copier) Targets(repository artifact.Repository, environment artifact.Environment) []string {
	var names []string
	for _, t := range c.cfg.Targets {
		matches := func(glob string) bool { return artifact.MatchGlob(glob, repository.String()) }
		if slices.Contains(t.Environments, environment) && slices.ContainsFunc(t.Repositories, matches) {
			names = append(names, t.Name)
		}
	}
	return names
}

// Copy copies a digest with all that belongs to it, and then tags it there, so that nobody who asks for a tag gets an
// image without its signature. What is there already is not sent again: a copy that was cut short goes on. It returns
// the replication with what became of it; an error says to try again.
func (c *Copier) Copy(ctx context.Context, r artifact.Replication) (artifact.Replication, error) {
	drop := func(why string) (artifact.Replication, error) {
		r.State, r.Problem = artifact.ReplicationDropped, why
		return r, nil
	}
	t, ok := c.targets[r.Target]
	if !ok {
		return drop("the configuration names no such target any more")
	}
	recalled, err := c.cfg.Promoted.RecalledIn(ctx, r.Repository, r.Digest)
	if err != nil {
		return r, err
	}
	if len(recalled) > 0 {
		return drop(strings.Join(recalled, "; "))
	}
	if _, err := c.cfg.Promoted.Manifest(ctx, r.Repository, r.Digest); artifact.KindOf(err) == artifact.NotFound {
		return drop("it was deleted here")
	}
	run, err := c.begin(t, r.Repository)
	if err != nil {
		return r, err
	}
	there := run.repo.Name() + "@" + r.Digest.String()
	if err := run.closure(ctx, r.Digest); err != nil {
		return r, t.trouble("copy "+there, err)
	}
	if r.Problem, err = run.tag(ctx, r); err != nil {
		return r, t.trouble("tag "+there, err)
	}
	r.State = artifact.ReplicationCopied
	c.cfg.Logger.Info("replicated", "target", t.Name, "reference", there, "environment", r.Environment, "manifests", run.sent, "blobs", run.blobs)
	return r, nil
}

// copying is one copy under way, signed in once.
type copying struct {
	*Copier
	repository  artifact.Repository
	repo        name.Repository // there
	puller      *remote.Puller
	pusher      *remote.Pusher
	manifests   map[artifact.Digest]artifact.StoredManifest // all that is to be copied
	done        map[artifact.Digest]bool
	sent, blobs int
}

func (c *Copier) begin(t *target, repository artifact.Repository) (*copying, error) {
	run := &copying{Copier: c, repository: repository, repo: t.registry.Repo(t.Prefix, repository.String()),
		manifests: map[artifact.Digest]artifact.StoredManifest{}, done: map[artifact.Digest]bool{}}
	var err error
	if run.puller, err = remote.NewPuller(t.options...); err != nil {
		return nil, err
	}
	run.pusher, err = remote.NewPusher(t.options...)
	return run, err
}

// closure copies a digest and all that belongs to it: first what is found by its digest, then what cosign finds by a tag.
func (c *copying) closure(ctx context.Context, root artifact.Digest) error {
	all, err := c.cfg.Promoted.Closure(ctx, c.repository, root)
	if err != nil {
		return err
	}
	attached := map[artifact.Tag]artifact.StoredManifest{}
	for _, digest := range all {
		m, err := c.cfg.Promoted.Manifest(ctx, c.repository, digest)
		if err != nil {
			return err
		}
		tags, err := c.cosignTags(ctx, digest, all)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			attached[tag] = m
		}
		if len(tags) == 0 || m.Manifest.Subject != nil {
			c.manifests[digest] = m
		}
	}
	if _, ok := c.manifests[root]; !ok {
		return artifact.Coded(artifact.Conflict, "", "%s@%s is gone, or is a signature", c.repository, root)
	}
	for _, digest := range all {
		if err := c.manifest(ctx, digest); err != nil {
			return err
		}
	}
	for tag, m := range attached {
		err := c.attach(ctx, tag, m)
		if statusOf(err) == http.StatusForbidden {
			err = c.attach(ctx, tag, m) // another Waybill has just signed it too, and lets no signature be dropped
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var cosignTag = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]+)\.(sig|att|sbom)$`)

// cosignTags returns the tags of a digest by which cosign finds it for one of the others.
func (c *copying) cosignTags(ctx context.Context, digest artifact.Digest, others []artifact.Digest) ([]artifact.Tag, error) {
	tags, err := c.cfg.Promoted.TagsOf(ctx, c.repository, digest)
	return slices.DeleteFunc(tags, func(tag artifact.Tag) bool {
		found := cosignTag.FindStringSubmatch(tag.String())
		return found == nil || !slices.ContainsFunc(others, func(d artifact.Digest) bool { return d.String() == found[1]+":"+found[2] })
	}), err
}

// manifest copies one manifest after what it names and what it refers to.
func (c *copying) manifest(ctx context.Context, digest artifact.Digest) error {
	m, ok := c.manifests[digest]
	if !ok || c.done[digest] {
		return nil
	}
	c.done[digest] = true
	at := c.repo.Digest(digest.String())
	switch _, err := c.puller.Head(ctx, at); {
	case err == nil && m.Manifest.Subject == nil:
		return nil // with all below it, or it would not have been taken
	case err == nil:
		// A registry without the referrers API lists it under a tag, which a crash may have left out.
		return c.pusher.Put(ctx, at, wire(m))
	case silent(err), statusOf(err) == http.StatusUnauthorized:
		return err
	}
	before := m.Manifest.Manifests
	if m.Manifest.Subject != nil {
		before = append(slices.Clone(before), *m.Manifest.Subject)
	}
	for _, d := range before {
		if err := c.manifest(ctx, d.Digest); err != nil {
			return err
		}
	}
	if err := c.content(ctx, m.Manifest); err != nil {
		return err
	}
	c.sent++
	return c.pusher.Put(ctx, at, wire(m))
}

func (c *copying) content(ctx context.Context, m artifact.Manifest) error {
	for _, d := range m.Blobs() {
		if c.done[d.Digest] {
			continue
		}
		if err := c.pusher.Upload(ctx, c.repo, &storedBlob{c.cfg.Bytes, d}); err != nil {
			return err
		}
		c.done[d.Digest] = true
		c.blobs++
	}
	return nil
}

// attach has a cosign tag there hold what it holds here. What it holds beside that stays: the other registry may sign
// too, and a signature is never dropped.
func (c *copying) attach(ctx context.Context, tag artifact.Tag, m artifact.StoredManifest) error {
	at := c.repo.Tag(tag.String())
	there, err := c.puller.Get(ctx, at)
	switch status := statusOf(err); {
	case status == http.StatusNotFound, status == http.StatusForbidden:
		if err := c.content(ctx, m.Manifest); err != nil {
			return err
		}
		c.sent++
		return c.pusher.Push(ctx, at, wire(m))
	case err != nil:
		return err
	}
	if there.Digest.String() == m.Digest.String() {
		return nil
	}
	ours, err := c.attestedHere(ctx, tag, there.Digest.String())
	if err != nil {
		return err
	}
	if ours {
		if err := c.content(ctx, m.Manifest); err != nil {
			return err
		}
		c.sent++
		return c.pusher.Push(ctx, at, wire(m))
	}
	base, err := there.Image()
	if err != nil {
		return err
	}
	return c.merge(ctx, at, base, m)
}

// attestedHere reports whether all that a tag of attestations holds there is what it held here before: then what has
// been replaced here since is replaced there too.
func (c *copying) attestedHere(ctx context.Context, tag artifact.Tag, there string) (bool, error) {
	if !strings.HasSuffix(tag.String(), ".att") {
		return false, nil
	}
	history, err := c.cfg.Promoted.TagHistory(ctx, c.repository, tag)
	return slices.ContainsFunc(history, func(h artifact.TagChange) bool { return h.Digest.String() == there }), err
}

// merge adds to an image of signatures or attestations there what is here and not there.
func (c *copying) merge(ctx context.Context, at name.Tag, base v1.Image, m artifact.StoredManifest) error {
	theirs, err := base.Manifest()
	if err != nil {
		return err
	}
	var added []mutate.Addendum
	for _, d := range m.Manifest.Layers {
		if slices.ContainsFunc(theirs.Layers, func(t v1.Descriptor) bool {
			return t.Digest.String() == d.Digest.String() && t.Annotations[signature] == d.Annotations[signature]
		}) {
			continue
		}
		content, err := c.read(d)
		if err != nil {
			return err
		}
		added = append(added, mutate.Addendum{Layer: static.NewLayer(content, types.MediaType(d.MediaType)), Annotations: d.Annotations, MediaType: types.MediaType(d.MediaType)})
	}
	if len(added) == 0 {
		return nil
	}
	merged, err := mutate.Append(base, added...)
	if err != nil {
		return err
	}
	c.sent++
	return c.pusher.Push(ctx, at, merged)
}

const (
	signature   = "dev.cosignproject.cosign/signature" // two signatures of one payload differ in this annotation only
	maxAttached = 32 << 20                             // bytes of one signature or attestation
)

func (c *copying) read(d artifact.Descriptor) ([]byte, error) {
	file, size, err := c.cfg.Bytes.Open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > maxAttached {
		return nil, artifact.Errorf(artifact.TooLarge, "attached blob %s has %d bytes; at most %d are merged", d.Digest, size, maxAttached)
	}
	return io.ReadAll(file)
}

// tag has the version, and the environment if it runs the digest now, name it there.
func (c *copying) tag(ctx context.Context, r artifact.Replication) (note string, err error) {
	if tag, err := artifact.ParseTag(r.Version); err == nil {
		if err := c.pusher.Push(ctx, c.repo.Tag(tag.String()), wire(c.manifests[r.Digest])); err != nil {
			return "", err
		}
	}
	now, runs, err := c.cfg.Promoted.Current(ctx, r.Repository, r.Environment)
	if err != nil || !runs || now.Digest != r.Digest {
		return "", err // another copy's to name
	}
	for {
		note, err := c.name(ctx, now)
		if err != nil || note != "" {
			return note, err
		}
		// Who named its own late, when another is current by now, names that: it was there, or is about to be.
		again, runs, err := c.cfg.Promoted.Current(ctx, r.Repository, r.Environment)
		if err != nil || !runs || again.Digest == now.Digest {
			return "", err
		}
		now = again
	}
}

// name tags there what an environment runs here. A registry may keep a name to itself, as another Waybill does with its
// own environments': that is noted, and no failure, since the digest is there.
func (c *copying) name(ctx context.Context, d artifact.Deployment) (note string, err error) {
	m, err := c.cfg.Promoted.Manifest(ctx, d.Repository, d.Digest)
	if err != nil {
		return "", err
	}
	err = c.pusher.Push(ctx, c.repo.Tag(d.Environment.String()), wire(m))
	if statusOf(err) == http.StatusForbidden {
		return fmt.Sprintf("it keeps the tag %s to itself: %s", d.Environment, why(err)), nil
	}
	return "", err
}

// manifestBytes is a remote.Taggable: bytes that are sent as they are.
type manifestBytes struct {
	body      []byte
	mediaType types.MediaType
}

func wire(m artifact.StoredManifest) manifestBytes {
	return manifestBytes{m.Body, types.MediaType(m.Manifest.MediaType)}
}

func (m manifestBytes) RawManifest() ([]byte, error)        { return m.body, nil }
func (m manifestBytes) MediaType() (types.MediaType, error) { return m.mediaType, nil }

// storedBlob is a v1.Layer over the store, as far as sending one asks.
type storedBlob struct {
	bytes      Bytes
	descriptor artifact.Descriptor
}

func (b *storedBlob) Digest() (v1.Hash, error) { return v1.NewHash(b.descriptor.Digest.String()) }
func (b *storedBlob) Size() (int64, error)     { return b.descriptor.Size, nil }

func (b *storedBlob) MediaType() (types.MediaType, error) {
	return types.MediaType(b.descriptor.MediaType), nil
}

func (b *storedBlob) Compressed() (io.ReadCloser, error) {
	file, _, err := b.bytes.Open(b.descriptor.Digest)
	return file, err
}

var errNotAsked = errors.New("only the bytes are sent")

func (b *storedBlob) DiffID() (v1.Hash, error)             { return v1.Hash{}, errNotAsked }
func (b *storedBlob) Uncompressed() (io.ReadCloser, error) { return nil, errNotAsked }
