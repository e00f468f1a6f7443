// Package registry holds the rules of pushing and pulling, without HTTP and without SQL: who may, what must be here
// first, what is refused. The OCI distribution-spec 1.1 says what it offers.
package registry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"waybill/artifact"
)

// Bytes is where blob bytes lie; blob.Store is one (its contract is there).
type Bytes interface {
	Append(ctx context.Context, id string, at Progress, r io.Reader) (Progress, error)
	Commit(ctx context.Context, id string, at Progress, digest artifact.Digest) (publish func() error, err error)
	Cancel(id string) error
	Open(digest artifact.Digest) (*os.File, int64, error)
}

// Progress is how far an upload is.
type Progress = artifact.Progress

// BlobRows records which blobs there are and which repository has which. A row is written after the bytes are durable.
type BlobRows interface {
	// Blob returns the size of a blob that a repository has, or NotFound.
	Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error)
	// KeepBlob is Blob, and keeps the blob from being collected for another grace period.
	KeepBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (size int64, err error)
	// SaveBlob publishes a durable blob, records it, gives it to the repository, and ends the upload, if there was one.
	// From before publish until the row is there, no collector takes the blob away. publish may be called twice.
	SaveBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest, size int64, upload string, publish func() error) error
	// LinkBlob gives a blob that is here to a repository; false when it is not here, or not whole.
	LinkBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (bool, error)
	// BlobRepositories returns which repositories have a blob.
	BlobRepositories(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error)
	// UnlinkBlob takes a blob from a repository; Unsupported while one of its manifests needs it.
	UnlinkBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error
}

// UploadRows records upload sessions, so that any replica continues any upload.
type UploadRows interface {
	CreateUpload(ctx context.Context, u artifact.Upload) error
	Upload(ctx context.Context, repository artifact.Repository, id string) (artifact.Upload, error)
	// AdvanceUpload moves an upload on from an offset; Conflict when another request moved it meanwhile.
	AdvanceUpload(ctx context.Context, id string, from, to int64, state []byte) error
	DeleteUpload(ctx context.Context, id string) error
}

// ManifestRows records manifests, tags and what they refer to.
type ManifestRows interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	// Missing returns which of the digests the repository does not have, as manifests or as blobs of those sizes.
	Missing(ctx context.Context, repository artifact.Repository, blobs, manifests []artifact.Descriptor) ([]string, error)
	// PutManifest stores all of p in one transaction. mutable says of a tag whether it may leave another digest.
	PutManifest(ctx context.Context, p artifact.Push, mutable func(artifact.Tag) bool) error
	// SaveDenied records that a push was refused; nothing of it can be pulled.
	SaveDenied(ctx context.Context, p artifact.Push) error
	// DeleteManifest removes a manifest with its tags, and what the service attached to it; Denied while it is promoted somewhere or part of an index.
	DeleteManifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest, actor string) error
	DeleteTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag, actor string) error
	// ResolveTag returns the digest of a tag, or of an environment of that name.
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	// Tags returns the tags of a repository, environments' names among them, sorted.
	Tags(ctx context.Context, repository artifact.Repository) ([]TagRow, error)
	// RepositoriesAfter returns the repositories that have a manifest, sorted, after a name, at most n.
	RepositoriesAfter(ctx context.Context, last string, n int) ([]artifact.Repository, error)
	// ReferrersAfter returns those of some artifact types, or of any, that follow a digest, sorted by digest, at most n, and
	// whether more follow.
	ReferrersAfter(ctx context.Context, repository artifact.Repository, subject artifact.Digest, artifactTypes []string, last string, n int) (page []artifact.Descriptor, more bool, err error)
	// Named reports whether a manifest of the repository names a blob.
	Named(ctx context.Context, repository artifact.Repository, blob artifact.Digest) (bool, error)
}

// TagRow is a tag and where it stands.
type TagRow = struct {
	Name   artifact.Tag
	Digest artifact.Digest
}

// Judge says whether what is pushed is allowed; policy.Judge is one.
type Judge interface {
	Judge(ctx context.Context, s artifact.Subject) (artifact.Judgement, error)
}

// Gate decides every pull; promotion.Gate is one.
type Gate interface {
	// Pull returns nil when p may have the manifest or blob, else why not.
	Pull(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) error
	// Filter says of each digest whether p may have it.
	Filter(ctx context.Context, p artifact.Principal, repository artifact.Repository, digests []artifact.Digest) (map[artifact.Digest]bool, error)
	// Repositories returns those of all that p may know of.
	Repositories(ctx context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error)
}

// Names says which tags are environments' names, which only a promotion moves.
type Names interface {
	Reserved(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (bool, error)
}

// Inspector is told of each blob as soon as it is complete. It does not block.
type Inspector interface {
	// Expected says that a blob is on its way.
	Expected(ctx context.Context)
	// Arrived says that it is stored.
	Arrived(ctx context.Context, digest artifact.Digest, size int64)
}

// Rules say what a repository may hold; storage.Rules is one.
type Rules interface {
	// MutableTags returns the patterns of tags that may be moved in a repository; false where only the configuration says.
	MutableTags(ctx context.Context, repository artifact.Repository) ([]string, bool, error)
	// Room returns how a request takes bytes of the quotas on a repository, before it stores them, and how it says, once,
	// how many of them it has stored and committed in the end. take is a Denied error, with figures, where they do not
	// fit. linked is for bytes that the store has already. Both functions are nil where there is no quota.
	Room(ctx context.Context, repository artifact.Repository, linked bool) (take func(ctx context.Context, n int64) error, settle func(stored int64), err error)
}

// Config names everything a registry needs.
type Config struct {
	Bytes       Bytes
	Blobs       BlobRows
	Uploads     UploadRows
	Manifests   ManifestRows
	Judge       Judge
	Gate        Gate
	Names       Names
	Inspector   Inspector
	Upstream    Upstream // nil: nothing is mirrored
	Rules       Rules    // nil: no quotas, and MutableTags everywhere
	MutableTags []string // patterns, as in path.Match, where no rule has others
	Logger      *slog.Logger
	Now         func() time.Time
	// Heard returns when the database was last heard for certain: all that was withdrawn before, Withdrawn was told of. Nil: it
	// always is, since nobody else withdraws anything.
	Heard func() time.Time
}

// Registry is the use cases. It is safe for concurrent use.
type Registry struct {
	cfg       Config
	uploading keyed
	pushed    atomic.Int64 // when somebody last pushed something, in Unix nanoseconds
	pulls     rush
	servings  servings
}

// New returns a registry.
func New(cfg Config) *Registry {
	if cfg.Heard == nil {
		cfg.Heard = time.Now
	}
	return &Registry{cfg: cfg, servings: servings{asking: make(chan struct{}, askers)}}
}

// may returns nil when p's role allows an action on a repository, else what role would.
func may(p artifact.Principal, a artifact.Action, r artifact.Repository) error {
	if ofMirror(r) && p.Name != artifact.System.Name {
		return artifact.Coded(artifact.Denied, "DENIED", "%s is read-only: repositories below %s hold what other registries have, as Waybill fetches it; %s elsewhere", r, mirrors, a)
	}
	if p.Can(a, r) {
		return nil
	}
	return p.Refusal(a, r)
}

// subjectTag names a digest: the referrers tag schema's (distribution-spec 1.1), and cosign's of an image that it copied.
var subjectTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)

// mutable says of the tags of a repository whether they may be moved to another digest.
func (r *Registry) mutable(ctx context.Context, repository artifact.Repository) (func(artifact.Tag) bool, error) {
	patterns := r.cfg.MutableTags
	if r.cfg.Rules != nil {
		own, ok, err := r.cfg.Rules.MutableTags(ctx, repository)
		if err != nil {
			return nil, err
		}
		if ok {
			patterns = own
		}
	}
	return func(tag artifact.Tag) bool {
		return ofMirror(repository) || tag.IsCosign() || subjectTag.MatchString(tag.String()) || slices.ContainsFunc(patterns, func(pattern string) bool {
			ok, err := path.Match(pattern, tag.String())
			return ok && err == nil
		})
	}, nil
}

// page returns the part of sorted names after last, at most n of them, and whether more follow. n < 0 is no limit.
func page[T fmt.Stringer](names []T, last string, n int) (part []T, more bool) {
	start := 0
	if last != "" {
		start, _ = slices.BinarySearchFunc(names, last, func(name T, last string) int {
			if name.String() <= last {
				return -1
			}
			return 1
		})
	}
	names = names[start:]
	if n >= 0 && len(names) > n {
		return names[:n], true
	}
	return names, false
}
