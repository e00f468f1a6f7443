package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"waybill/artifact"
)

// fetch brings one manifest and all below it from one upstream, signed in once.
type fetch struct {
	*Service
	source *source
	puller *remote.Puller
	begun  time.Time
	bytes  atomic.Int64 // of the blobs that it has come to so far
}

func (s *Service) newFetch(src *source) (*fetch, error) {
	puller, err := remote.NewPuller(src.options...)
	return &fetch{Service: s, source: src, puller: puller, begun: s.cfg.Now()}, err
}

// repo is what a repository is called upstream.
func (f *fetch) repo(repository artifact.Repository) name.Repository {
	_, upstream := f.of(repository)
	return f.source.registry.Repo(upstream)
}

// look asks upstream where a tag stands.
func (f *fetch) look(ctx context.Context, ref artifact.Reference) (artifact.Digest, error) {
	if err := f.source.answers(f.cfg.Now()); err != nil {
		return artifact.Digest{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	tag := f.repo(ref.Repository).Tag(ref.Tag.String())
	there, err := f.digestOf(ctx, tag)
	if err == nil {
		return there, nil
	}
	err = f.failed("where is "+tag.String()+"?", err)
	var fault *fault
	if errors.As(err, &fault) {
		fault.gone = artifact.KindOf(err) == artifact.NotFound
	}
	return there, err
}

func (f *fetch) digestOf(ctx context.Context, tag name.Tag) (artifact.Digest, error) {
	head, err := f.puller.Head(ctx, tag)
	if err == nil {
		return artifact.ParseDigest(head.Digest.String())
	}
	if statusOf(err) != 0 || silent(err) {
		return artifact.Digest{}, err
	}
	// Some registries leave the digest, or the size, out of an answer to HEAD.
	got, err := f.puller.Get(ctx, tag)
	if err != nil {
		return artifact.Digest{}, err
	}
	return artifact.ParseDigest(got.Digest.String())
}

// failed is trouble, and remembers an upstream that does not answer.
func (f *fetch) failed(what string, err error) error {
	answer := f.source.trouble(what, err)
	if silent(err) {
		f.source.failed(answer, f.cfg.Now())
	}
	return answer
}

// manifest brings what ref.Digest names: children before their index, blobs before their manifest, so that whatever is
// killed in between, nothing here names what is not. It is stored as a push is, and tagged when ref has a tag.
func (f *fetch) manifest(ctx context.Context, ref artifact.Reference, depth int) error {
	if here, err := f.stored(ctx, ref); err != nil || here {
		return err
	}
	if err := f.refusedBefore(ref); err != nil {
		return err
	}
	if err := f.source.answers(f.cfg.Now()); err != nil {
		return err
	}
	at := f.repo(ref.Repository).Digest(ref.Digest.String())
	got, err := f.puller.Get(ctx, at) // which verifies the digest
	if err != nil {
		return f.failed("fetch "+at.String(), err)
	}
	mediaType, _, _ := strings.Cut(string(got.MediaType), ";")
	m, err := artifact.ParseManifest(strings.TrimSpace(mediaType), got.Manifest)
	if err != nil {
		return f.unfit(ref, err)
	}
	if err := f.content(ctx, ref, m, depth); err != nil {
		return err
	}
	err = f.cfg.Pushes.PutManifest(ctx, f.source.principal, ref, m.MediaType, got.Manifest)
	switch artifact.KindOf(err) {
	case artifact.Denied:
		f.refuse(ref, err)
	case artifact.Invalid, artifact.NotFound:
		return f.unfit(ref, err)
	}
	if err == nil && depth == 0 {
		f.cfg.Logger.Info("mirrored", "reference", ref, "bytes", f.bytes.Load(), "took", f.cfg.Now().Sub(f.begun).Round(time.Millisecond))
	}
	return err
}

// unfit: upstream has it, and it is nothing that a registry could serve.
func (f *fetch) unfit(ref artifact.Reference, err error) error {
	return &artifact.Error{Kind: artifact.Unavailable, Code: "UNAVAILABLE", Message: fmt.Sprintf("%s has %s as what cannot be kept here: %v", f.source.name(), ref, err), Err: &fault{err: err}}
}

func (f *fetch) content(ctx context.Context, ref artifact.Reference, m artifact.Manifest, depth int) error {
	if depth >= maxDepth || len(m.Manifests) > maxNamed {
		return f.unfit(ref, fmt.Errorf("it is nested deeper than %d or names more than %d manifests", maxDepth, maxNamed))
	}
	if m.IsIndex() {
		return f.children(ctx, ref, m, depth)
	}
	blobs, ctx := errgroup.WithContext(ctx)
	blobs.SetLimit(perImage)
	for _, d := range m.Blobs() {
		if f.bytes.Add(d.Size) > maxBytes {
			return f.unfit(ref, fmt.Errorf("its blobs have more than %d GiB", maxBytes>>30))
		}
		blobs.Go(func() error {
			return f.once(ctx, ref.Repository.String()+"@blob@"+d.Digest.String(), func(ctx context.Context) error { return f.blob(ctx, ref.Repository, d) })
		})
	}
	return blobs.Wait()
}

// children brings the manifests of an index, all of them: an index here never names what is not. A denial has the
// reasons of each that is denied.
func (f *fetch) children(ctx context.Context, ref artifact.Reference, m artifact.Manifest, depth int) error {
	var denied *artifact.Error
	for _, d := range m.Manifests {
		child := artifact.Reference{Repository: ref.Repository, Digest: d.Digest}
		err := f.once(ctx, child.String(), func(ctx context.Context) error { return f.manifest(ctx, child, depth+1) })
		var refused *artifact.Error
		if !errors.As(err, &refused) || refused.Kind != artifact.Denied || len(refused.Reasons) == 0 {
			if err != nil {
				return err
			}
			continue
		}
		if denied == nil {
			denied = &artifact.Error{Kind: artifact.Denied, Code: "DENIED"}
		}
		platform := d.Digest.Short()
		if d.Platform != nil {
			platform = d.Platform.String()
		}
		for _, reason := range refused.Reasons {
			reason.Platform = platform
			denied.Reasons = append(denied.Reasons, reason)
			denied.Message += platform + ": " + reason.String() + "\n"
		}
	}
	if denied == nil {
		return nil
	}
	denied.Message = strings.TrimSuffix(denied.Message, "\n")
	f.refuse(ref, denied)
	return denied
}

// blob brings one blob.
func (f *fetch) blob(ctx context.Context, repository artifact.Repository, d artifact.Descriptor) error {
	if _, err := f.cfg.Rows.KeepBlob(ctx, repository, d.Digest); artifact.KindOf(err) != artifact.NotFound {
		return err
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	at := f.repo(repository).Digest(d.Digest.String())
	layer, err := f.puller.Layer(ctx, at)
	if err != nil {
		return f.failed("fetch blob "+at.String(), err)
	}
	if taken, err := f.takeOver(ctx, repository, d.Digest, layer); err != nil || taken {
		return err
	}
	body := &lazy{open: layer.Compressed, left: d.Size}
	defer body.close()
	_, err = f.cfg.Pushes.PutBlob(ctx, f.source.principal, repository, body, d.Digest)
	switch {
	case artifact.KindOf(err) == artifact.Invalid, statusOf(err) == http.StatusNotFound: // other bytes, or none
		return f.unfit(artifact.Reference{Repository: repository, Digest: d.Digest}, err)
	case body.failed != nil:
		return f.failed("fetch blob "+at.String(), body.failed)
	}
	return err
}

// takeOver gives a repository a blob that another one of this mirror has, when upstream says that this one has it too:
// who may read one may not read all.
func (f *fetch) takeOver(ctx context.Context, repository artifact.Repository, digest artifact.Digest, layer v1.Layer) (bool, error) {
	all, err := f.cfg.Rows.BlobRepositories(ctx, digest)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(all, f.source.principal.Sees)
	if i < 0 {
		return false, nil
	}
	if there, err := partial.Exists(layer); err != nil || !there {
		return false, nil // the fetch that follows says why
	}
	return f.cfg.Pushes.Mount(ctx, f.source.principal, repository, all[i], digest)
}

// lazy opens a body when it is first read, and refuses one that is longer than announced. It keeps its own failure
// apart from that of whoever stores what it gives.
type lazy struct {
	open   func() (io.ReadCloser, error)
	body   io.ReadCloser
	left   int64
	failed error
}

func (l *lazy) Read(p []byte) (n int, err error) {
	n, err = l.read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is not the end
		l.failed = err
	}
	return n, err
}

func (l *lazy) read(p []byte) (n int, err error) {
	if l.body == nil {
		if l.body, err = l.open(); err != nil {
			return 0, err
		}
	}
	n, err = l.body.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errors.New("the blob is longer than its manifest says")
	}
	return n, err
}

func (l *lazy) close() {
	if l.body != nil {
		l.body.Close()
	}
}
