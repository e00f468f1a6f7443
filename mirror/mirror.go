// Package mirror is about registries elsewhere: it serves what they have as read-only repositories of this one, by
// fetching it when it is first asked for, and copies what is promoted here to them.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"waybill/artifact"
)

// Rows is what is stored already; *postgres.DB is one. What is not there is a NotFound error.
type Rows interface {
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	// KeepBlob returns the size of a blob that the repository has, and keeps it from being collected for a while.
	KeepBlob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (int64, error)
	// BlobRepositories returns which repositories have a blob.
	BlobRepositories(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error)
}

// Pushes is how what was fetched is stored: as anybody's push would be, judged by policy. registry.Registry does so.
type Pushes interface {
	// PutBlob stores a blob; bytes that are not of the digest are an Invalid error.
	PutBlob(ctx context.Context, p artifact.Principal, repository artifact.Repository, body io.Reader, digest artifact.Digest) (artifact.Descriptor, error)
	// Mount gives the repository a blob that another one has, if p may pull it there.
	Mount(ctx context.Context, p artifact.Principal, repository, from artifact.Repository, digest artifact.Digest) (bool, error)
	// PutManifest stores a manifest all of whose content is here; a denial has every reason.
	PutManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference, mediaType string, body []byte) error
}

// Source is a registry to mirror.
type Source struct {
	Remote
	TTL time.Duration // how long an answer of where a tag stands is good for
}

// Config names everything a Service needs.
type Config struct {
	Sources []Source
	Rows    Rows
	Pushes  Pushes
	Logger  *slog.Logger
	Now     func() time.Time
}

// Bounds. Real images come nowhere near those of size and number.
const (
	lookTime  = 10 * time.Second // to be told where a tag stands
	fetchTime = 30 * time.Minute // for a manifest and all below it
	maxBytes  = 32 << 30         // of all blobs of one fetch
	maxDepth  = 4                // of indexes in indexes, as in package policy
	maxNamed  = 200              // manifests in an index
	transfers = 8                // blobs under way at once, over all
	perImage  = 3                // and of one image

	downFor    = 10 * time.Second // an upstream that did not answer is not asked again
	refusedFor = 30 * time.Second // what policy denied is not fetched again
	maxKept    = 10_000           // answers remembered
)

// Service mirrors registries. It is safe for concurrent use; Close ends it.
type Service struct {
	cfg     Config
	sources map[string]*source // by name
	flights singleflight.Group // one fetch of a thing, however many ask
	slots   chan struct{}
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	looked  map[string]time.Time // REPOSITORY:TAG, when upstream last said where it stands
	refused map[string]refusal   // REPOSITORY@DIGEST
}

// refusal is a denial that is remembered for a moment: nodes retry a pull every few seconds, each of which would
// otherwise be asked for upstream and recorded.
type refusal struct {
	err   error
	until time.Time
}

// source is a mirrored registry and whether it answers.
type source struct {
	*client
	ttl       time.Duration
	principal artifact.Principal

	mu        sync.Mutex
	down      error
	downUntil time.Time
}

// Root is what the names of mirrors' repositories begin with: mirror/NAME/REPOSITORY.
const Root = "mirror/"

// New returns a service that mirrors what the config names; it asks nobody yet.
func New(cfg Config) (*Service, error) {
	s := &Service{cfg: cfg, sources: map[string]*source{}, slots: make(chan struct{}, transfers), stop: make(chan struct{}),
		looked: map[string]time.Time{}, refused: map[string]refusal{}}
	for _, c := range cfg.Sources {
		client, err := newClient(c.Remote)
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", c.Name, err)
		}
		// It may push where it mirrors, and no more: a blob is never taken over from a repository of somebody else's.
		principal := artifact.Principal{Name: artifact.System.Name, Role: artifact.Pusher, Repositories: []string{Root + c.Name + "/**"}}
		s.sources[c.Name] = &source{client: client, ttl: c.TTL, principal: principal}
	}
	return s, nil
}

// Close breaks off what is being fetched and waits for it to end.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	s.running.Wait()
}

// start counts a flight in, unless the service is being closed.
func (s *Service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return artifact.Coded(artifact.Unavailable, "UNAVAILABLE", "the server is stopping; try again")
	}
	s.running.Add(1)
	return nil
}

// of returns whose mirror a repository is, and what it is called there.
func (s *Service) of(repository artifact.Repository) (*source, string) {
	rest, is := strings.CutPrefix(repository.String(), Root)
	host, name, named := strings.Cut(rest, "/")
	if !is || !named {
		return nil, ""
	}
	return s.sources[host], name
}

// Mirrors reports whether a repository is of a registry that is mirrored.
func (s *Service) Mirrors(repository artifact.Repository) bool {
	src, _ := s.of(repository)
	return src != nil
}

// Tag returns where a tag stands upstream, when what it stands at is here with all that belongs to it. Upstream is
// asked at most once in a TTL. When it does not answer, stale is true and the digest is where the tag stood before.
// Who goes away does not end the fetch: the next to ask finds it done, or joins it.
func (s *Service) Tag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (_ artifact.Digest, stale bool, err error) {
	src, _ := s.of(repository)
	ref := artifact.Reference{Repository: repository, Tag: tag}
	here, err := s.here(ctx, ref)
	if err != nil || s.fresh(src, ref, here) {
		return here, false, err
	}
	err = s.once(ctx, ref.String(), func(ctx context.Context) error { return s.follow(ctx, src, ref) })
	var f *fault
	switch {
	case err == nil:
		digest, err := s.here(ctx, ref)
		return digest, false, err
	case here.IsZero() || !errors.As(err, &f):
		return here, false, err
	case f.gone:
		return here, false, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no tag %s any more; what it was is still here: %s@%s", src.name(), ref, repository, here)
	}
	s.cfg.Logger.Warn("upstream does not answer; serving what is here", "reference", ref, "digest", here, "error", err)
	return here, true, nil
}

// Manifest sees to it that a manifest is here, with all that it names.
func (s *Service) Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	src, _ := s.of(repository)
	ref := artifact.Reference{Repository: repository, Digest: digest}
	if here, err := s.stored(ctx, ref); err != nil || here {
		return err
	}
	return s.once(ctx, ref.String(), func(ctx context.Context) error {
		f, err := s.newFetch(src)
		if err != nil {
			return err
		}
		return f.manifest(ctx, ref, 0)
	})
}

// Blob brings a blob again that a manifest here names and that was found damaged.
func (s *Service) Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	src, _ := s.of(repository)
	return s.once(ctx, repository.String()+"@blob@"+digest.String(), func(ctx context.Context) error {
		f, err := s.newFetch(src)
		if err == nil {
			err = src.answers(s.cfg.Now())
		}
		if err != nil {
			return err
		}
		return f.blob(ctx, repository, artifact.Descriptor{Digest: digest, Size: maxBytes}) // its manifest was believed before
	})
}

// once runs f for a key unless it runs already, and waits. f is not ended by a caller who goes away, but by time and by
// Close.
func (s *Service) once(ctx context.Context, key string, f func(context.Context) error) error {
	result := s.flights.DoChan(key, func() (any, error) {
		if err := s.start(); err != nil {
			return nil, err
		}
		defer s.running.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
		defer cancel()
		go func() {
			select {
			case <-s.stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		return nil, f(ctx)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-result:
		return r.Err
	}
}

// follow asks upstream where a tag stands, fetches that, and moves the tag here.
func (s *Service) follow(ctx context.Context, src *source, ref artifact.Reference) error {
	here, err := s.here(ctx, ref)
	if err != nil || s.fresh(src, ref, here) {
		return err // a flight that has just ended brought it
	}
	f, err := s.newFetch(src)
	if err != nil {
		return err
	}
	there, err := f.look(ctx, ref)
	if err != nil {
		return err
	}
	if there != here {
		if err := s.move(ctx, f, artifact.Reference{Repository: ref.Repository, Tag: ref.Tag, Digest: there}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.looked) >= maxKept {
		clear(s.looked)
	}
	s.looked[ref.String()] = s.cfg.Now()
	return nil
}

// move brings the digest that a tag stands at, and has the tag stand there.
func (s *Service) move(ctx context.Context, f *fetch, ref artifact.Reference) error {
	key := artifact.Reference{Repository: ref.Repository, Digest: ref.Digest}.String()
	if err := s.once(ctx, key, func(ctx context.Context) error { return f.manifest(ctx, ref, 0) }); err != nil {
		return err
	}
	// It may have been here before, or have been fetched for another who asked by digest.
	here, err := s.here(ctx, artifact.Reference{Repository: ref.Repository, Tag: ref.Tag})
	if err != nil || here == ref.Digest {
		return err
	}
	m, err := s.cfg.Rows.Manifest(ctx, ref.Repository, ref.Digest)
	if err != nil {
		return err
	}
	return s.cfg.Pushes.PutManifest(ctx, f.source.principal, ref, m.Manifest.MediaType, m.Body)
}

// here returns where a tag stands here, or the zero Digest.
func (s *Service) here(ctx context.Context, ref artifact.Reference) (artifact.Digest, error) {
	digest, err := s.cfg.Rows.ResolveTag(ctx, ref.Repository, ref.Tag)
	if artifact.KindOf(err) == artifact.NotFound {
		return artifact.Digest{}, nil
	}
	return digest, err
}

func (s *Service) stored(ctx context.Context, ref artifact.Reference) (bool, error) {
	_, err := s.cfg.Rows.Manifest(ctx, ref.Repository, ref.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return false, nil
	}
	return err == nil, err
}

// fresh reports whether upstream was asked so recently where a tag stands that it need not be asked again.
func (s *Service) fresh(src *source, ref artifact.Reference, here artifact.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.looked[ref.String()]
	return ok && !here.IsZero() && s.cfg.Now().Sub(at) < src.ttl
}

// refusedBefore returns a denial of a moment ago.
func (s *Service) refusedBefore(ref artifact.Reference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refused[ref.Repository.String()+"@"+ref.Digest.String()]
	if !ok || s.cfg.Now().After(r.until) {
		return nil
	}
	return r.err
}

func (s *Service) refuse(ref artifact.Reference, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) >= maxKept {
		clear(s.refused)
	}
	s.refused[ref.Repository.String()+"@"+ref.Digest.String()] = refusal{err, s.cfg.Now().Add(refusedFor)}
}

// answers returns why an upstream is not asked at the moment: it failed a moment ago.
func (src *source) answers(now time.Time) error {
	src.mu.Lock()
	defer src.mu.Unlock()
	if now.Before(src.downUntil) {
		return src.down
	}
	return nil
}

// failed remembers that an upstream did not answer.
func (src *source) failed(err error, now time.Time) {
	src.mu.Lock()
	defer src.mu.Unlock()
	src.down, src.downUntil = err, now.Add(downFor)
}
