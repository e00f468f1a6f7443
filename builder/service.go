package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/singleflight"

	"waybill/artifact"
)

// Record is a build as it is stored.
type Record struct {
	Repository artifact.Repository
	Key        artifact.Digest
	Digest     artifact.Digest // zero until it is done
	StartedBy  string
	StartedAt  time.Time
}

// Store remembers builds; *postgres.DB is one.
type Store interface {
	// LockBuild waits until no other replica builds this key, and keeps it so until release is called.
	LockBuild(ctx context.Context, repository artifact.Repository, key artifact.Digest) (release func(), err error)
	// Build returns a build that is done; ok is false when there is none.
	Build(ctx context.Context, repository artifact.Repository, key artifact.Digest) (r Record, ok bool, err error)
	StartBuild(ctx context.Context, r Record) error
	// IntendBuild stores what is about to be published, with its provenance.
	IntendBuild(ctx context.Context, r Record, provenance json.RawMessage) error
	// IntendedBuild returns what a build that has not ended was about to publish; ok is false when it did not come so far.
	IntendedBuild(ctx context.Context, repository artifact.Repository, key artifact.Digest) (r Record, provenance json.RawMessage, ok bool, err error)
	// EndBuild stores the digest and the provenance, which is then signed and attached, or why it failed.
	EndBuild(ctx context.Context, r Record, provenance json.RawMessage, failure string) error
	// RecordBases stores what images, which may not be there yet, are built on.
	RecordBases(ctx context.Context, all []artifact.BuiltOn) error
}

// Publisher puts images into the registry, by the same path as any push.
type Publisher interface {
	// Expect says that a Publish follows soon; it returns at once.
	Expect(ctx context.Context)
	Publish(ctx context.Context, p artifact.Principal, repository artifact.Repository, tags []artifact.Tag, built Artifact) (artifact.Digest, error)
	// Layer stores a layer of what is published next, while it is made, as LayerStore says. What nothing names is collected.
	Layer(ctx context.Context, p artifact.Principal, repository artifact.Repository, r io.Reader) (d artifact.Descriptor, open func() (io.ReadCloser, error), err error)
	// Tag sets more tags on what is there; NotFound when it was deleted.
	Tag(ctx context.Context, p artifact.Principal, repository artifact.Repository, tags []artifact.Tag, digest artifact.Digest) error
	// Stored returns an image or index of the repository; NotFound when it was deleted.
	Stored(ctx context.Context, p artifact.Principal, repository artifact.Repository, digest artifact.Digest) (Artifact, error)
}

// Config names what the service needs.
type Config struct {
	Store     Store
	Bases     Bases
	Publisher Publisher
	Engine    Engine   // for what the native one cannot build; nil: that is refused
	Fetcher   *Fetcher // of git contexts; nil: none are fetched
	Limits    Limits
	Hosts     []string // that this registry is reached at, which FROM may name
	Folder    string   // for temporary files
	Version   string   // of this program, for provenance
	ID        string   // of this builder, a URI, for provenance; behind it stands the engine's name
	Logger    *slog.Logger
	Now       func() time.Time
}

// Service builds once per key.
type Service struct {
	cfg     Config
	running singleflight.Group
	slots   chan struct{} // of builds at once
}

// NewService returns a service; it is safe for concurrent use.
func NewService(cfg Config) *Service {
	return &Service{cfg: cfg, slots: make(chan struct{}, buildsAtOnce)}
}

// buildsAtOnce bounds builds that run in this process; others wait. Each holds a lock in the database meanwhile, and fewer than it has
// connections for that.
const buildsAtOnce = 4

// tempPrefix begins the names of folders that builds work in.
const tempPrefix = "waybill-build-"

// CleanFolders removes what builds of a killed server left, in a folder that no other process builds in.
func CleanFolders(folder string) {
	left, _ := filepath.Glob(filepath.Join(folder, tempPrefix+"*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}

// Result is what a build came to.
type Result struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	Key        artifact.Digest
	Built      bool // false: it was built before, by whom and when BuiltBy and BuiltAt say
	BuiltBy    string
	BuiltAt    time.Time
}

// prepare reads a context, a tar stream unless the request names a repository, and pins all that the build is made of.
func (s *Service) prepare(ctx context.Context, p artifact.Principal, r Request, archive io.Reader) (*work, error) {
	if err := mayBuild(p, r.Repository); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(s.cfg.Folder, tempPrefix)
	if err != nil {
		return nil, full(err)
	}
	w := &work{temp: temp}
	defer func() {
		if w.plan == nil { // after a panic, too
			_ = os.RemoveAll(temp)
		}
	}()
	if w.plan, err = s.plan(ctx, p, r, archive, temp); err != nil {
		return nil, err
	}
	return w, nil
}

// finish builds what was prepared, unless its key was built before: then it answers with that build's digest.
func (s *Service) finish(ctx context.Context, p artifact.Principal, w *work, log io.Writer) (Result, error) {
	r := w.plan.request
	// Requests that stand at the same key share one build; each then sets its own tags.
	for {
		shared, err, joined := s.running.Do(r.Repository.String()+" "+w.plan.Key().String(), func() (any, error) {
			result, err := s.once(ctx, p, w.plan, w.temp, log)
			if err != nil && ctx.Err() != nil {
				err = leftError{err}
			}
			return result, err
		})
		var left leftError
		if errors.As(err, &left) {
			if joined && ctx.Err() == nil {
				continue // whoever began it left, or cancelled it; this one is still here
			}
			err = left.error
		}
		if err != nil {
			return Result{}, err
		}
		return s.tagged(ctx, p, r, shared.(Result), nil)
	}
}

// leftError is how a build ended whose asker does not want it any more.
type leftError struct{ error }

// tagged sets a request's tags on what was built.
func (s *Service) tagged(ctx context.Context, p artifact.Principal, r Request, result Result, err error) (Result, error) {
	if err != nil {
		return Result{}, err
	}
	return result, s.cfg.Publisher.Tag(ctx, p, r.Repository, r.Tags, result.Digest)
}

// before returns the build of the same inputs that is done, and whose image is still there.
func (s *Service) before(ctx context.Context, p artifact.Principal, plan *Plan) (Result, bool, error) {
	repository := plan.request.Repository
	before, ok, err := s.cfg.Store.Build(ctx, repository, plan.Key())
	if err != nil || !ok || s.cfg.Publisher.Tag(ctx, p, repository, nil, before.Digest) != nil {
		return Result{}, false, err
	}
	return Result{Repository: repository, Digest: before.Digest, Key: plan.Key(), BuiltBy: before.StartedBy, BuiltAt: before.StartedAt}, true, nil
}

func mayBuild(p artifact.Principal, repository artifact.Repository) error {
	if !p.Can(artifact.ActionBuild, repository) || !p.Can(artifact.ActionPush, repository) {
		return artifact.Errorf(artifact.Denied, "%s, %s, may not build in %s; that takes a token of role pusher for it", p.Name, artifact.An(p.Roles()), repository)
	}
	return nil
}

// plan reads the context, from the archive or the repository that the request names, into a file in temp.
func (s *Service) plan(ctx context.Context, p artifact.Principal, r Request, archive io.Reader, temp string) (plan *Plan, err error) {
	spool, err := os.Create(filepath.Join(temp, "context"))
	if err != nil {
		return nil, full(err)
	}
	defer func() {
		if plan == nil {
			spool.Close()
		}
	}()
	if r.Source.Git != "" {
		fetched, err := s.cfg.Fetcher.Fetch(ctx, r.Source.Git, temp, s.cfg.Limits)
		if err != nil {
			return nil, err
		}
		defer func() { _ = fetched.Close() }()
		archive, r.Source = fetched, fetched.Source
	}
	files, err := unpack(archive, spool, s.cfg.Limits)
	if err != nil {
		return nil, err
	}
	plan, err = newPlan(ctx, p, r, files, planning{bases: s.cfg.Bases, hosts: s.cfg.Hosts, engine: s.cfg.Engine})
	if err != nil {
		return nil, err
	}
	plan.spool = spool
	return plan, nil
}

// once builds under the lock of the key, unless it is done by then. A build that a killed server left is begun anew.
func (s *Service) once(ctx context.Context, p artifact.Principal, plan *Plan, temp string, log io.Writer) (Result, error) {
	repository := plan.request.Repository
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	release, err := s.cfg.Store.LockBuild(ctx, repository, plan.Key())
	if err != nil {
		return Result{}, err
	}
	defer release()
	if before, ok, err := s.before(ctx, p, plan); err != nil || ok {
		return before, err
	}
	if done, ok, err := s.published(ctx, p, plan); err != nil || ok {
		return done, err
	}
	record := Record{Repository: repository, Key: plan.Key(), StartedBy: p.Name, StartedAt: s.cfg.Now().UTC()}
	if err := s.cfg.Store.StartBuild(ctx, record); err != nil {
		return Result{}, err
	}
	digest, provenance, err := s.build(ctx, p, plan, record, temp, log)
	if err != nil {
		ended := s.cfg.Store.EndBuild(context.WithoutCancel(ctx), record, nil, err.Error())
		return Result{}, errors.Join(err, ended)
	}
	record.Digest = digest
	if err := s.cfg.Store.EndBuild(ctx, record, provenance, ""); err != nil {
		return Result{}, err
	}
	return Result{Repository: repository, Digest: digest, Key: plan.Key(), Built: true, BuiltBy: p.Name, BuiltAt: record.StartedAt}, nil
}

func (s *Service) build(ctx context.Context, p artifact.Principal, plan *Plan, record Record, temp string, log io.Writer) (artifact.Digest, json.RawMessage, error) {
	s.cfg.Publisher.Expect(ctx)
	plan.layers = func(ctx context.Context, r io.Reader) (artifact.Descriptor, func() (io.ReadCloser, error), error) {
		return s.cfg.Publisher.Layer(ctx, p, plan.request.Repository, r)
	}
	built, release, err := plan.build(ctx, temp, s.cfg.Limits, log)
	if err != nil {
		return artifact.Digest{}, nil, err
	}
	defer release()
	fmt.Fprintln(log, "publishing")
	hash, err := built.Digest()
	if err != nil {
		return artifact.Digest{}, nil, err
	}
	if record.Digest, err = artifact.ParseDigest(hash.String()); err != nil {
		return artifact.Digest{}, nil, err
	}
	provenance, err := plan.provenance(s.cfg, record, s.cfg.Now().UTC())
	if err != nil {
		return artifact.Digest{}, nil, err
	}
	if err := s.cfg.Store.IntendBuild(ctx, record, provenance); err != nil {
		return artifact.Digest{}, nil, err
	}
	if err := s.cfg.Store.RecordBases(ctx, plan.builtOn(record.Digest)); err != nil { // which count once the image is there
		return artifact.Digest{}, nil, err
	}
	digest, err := s.cfg.Publisher.Publish(ctx, p, plan.request.Repository, plan.request.Tags, built)
	return digest, provenance, err
}

// published ends a build whose server was killed, or lost its database, when its image was in the registry and its provenance was not
// yet: steps that do not always do the same would give another digest by now.
func (s *Service) published(ctx context.Context, p artifact.Principal, plan *Plan) (Result, bool, error) {
	r, provenance, ok, err := s.cfg.Store.IntendedBuild(ctx, plan.request.Repository, plan.Key())
	if err != nil || !ok || s.cfg.Publisher.Tag(ctx, p, r.Repository, nil, r.Digest) != nil {
		return Result{}, false, err
	}
	return Result{Repository: r.Repository, Digest: r.Digest, Key: r.Key, Built: true, BuiltBy: r.StartedBy, BuiltAt: r.StartedAt}, true, s.cfg.Store.EndBuild(ctx, r, provenance, "")
}
