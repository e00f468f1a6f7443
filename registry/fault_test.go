package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/promotion"
	"waybill/registry"
)

var errFault = errors.New("the disk or the database went away")

// faults fails one write: before it happens, or after, when it is stored and nobody knows.
type faults struct {
	at     string
	stored bool
	hit    bool
}

func (f *faults) around(name string, write func() error) error {
	if f.at != name || f.hit {
		return write()
	}
	f.hit = true
	if f.stored {
		if err := write(); err != nil {
			return err
		}
	}
	return errFault
}

// faultyBytes and faultyRows are what the registry writes to, each write of which may fail.
type faultyBytes struct {
	registry.Bytes
	*faults
}

func (b faultyBytes) Append(ctx context.Context, id string, at registry.Progress, r io.Reader) (next registry.Progress, err error) {
	next = at
	err = b.around("append", func() error { next, err = b.Bytes.Append(ctx, id, at, r); return err })
	return next, err
}

func (b faultyBytes) Commit(ctx context.Context, id string, at registry.Progress, digest artifact.Digest) (func() error, error) {
	var publish func() error
	err := b.around("commit", func() (err error) { publish, err = b.Bytes.Commit(ctx, id, at, digest); return err })
	return func() error { return b.around("publish", publish) }, err
}

func (b faultyBytes) Cancel(id string) error {
	return b.around("cancel", func() error { return b.Bytes.Cancel(id) })
}

type faultyBlobs struct {
	registry.BlobRows
	*faults
}

func (b faultyBlobs) SaveBlob(ctx context.Context, r artifact.Repository, d artifact.Digest, size int64, upload string, publish func() error) error {
	return b.around("blob row", func() error { return b.BlobRows.SaveBlob(ctx, r, d, size, upload, publish) })
}

func (b faultyBlobs) LinkBlob(ctx context.Context, r artifact.Repository, d artifact.Digest) (linked bool, err error) {
	err = b.around("link", func() error { linked, err = b.BlobRows.LinkBlob(ctx, r, d); return err })
	return linked && err == nil, err
}

func (b faultyBlobs) UnlinkBlob(ctx context.Context, r artifact.Repository, d artifact.Digest) error {
	return b.around("unlink", func() error { return b.BlobRows.UnlinkBlob(ctx, r, d) })
}

type faultyUploads struct {
	registry.UploadRows
	*faults
}

func (u faultyUploads) CreateUpload(ctx context.Context, up artifact.Upload) error {
	return u.around("upload row", func() error { return u.UploadRows.CreateUpload(ctx, up) })
}

func (u faultyUploads) AdvanceUpload(ctx context.Context, id string, from, to int64, state []byte) error {
	return u.around("upload offset", func() error { return u.UploadRows.AdvanceUpload(ctx, id, from, to, state) })
}

func (u faultyUploads) DeleteUpload(ctx context.Context, id string) error {
	return u.around("no upload row", func() error { return u.UploadRows.DeleteUpload(ctx, id) })
}

type faultyManifests struct {
	registry.ManifestRows
	*faults
}

func (m faultyManifests) PutManifest(ctx context.Context, p artifact.Push, mutable func(artifact.Tag) bool) error {
	return m.around("manifest row", func() error { return m.ManifestRows.PutManifest(ctx, p, mutable) })
}

func (m faultyManifests) SaveDenied(ctx context.Context, p artifact.Push) error {
	return m.around("denial", func() error { return m.ManifestRows.SaveDenied(ctx, p) })
}

func (m faultyManifests) DeleteManifest(ctx context.Context, r artifact.Repository, d artifact.Digest, actor string) error {
	return m.around("no manifest row", func() error { return m.ManifestRows.DeleteManifest(ctx, r, d, actor) })
}

func (m faultyManifests) DeleteTag(ctx context.Context, r artifact.Repository, tag artifact.Tag, actor string) error {
	return m.around("no tag", func() error { return m.ManifestRows.DeleteTag(ctx, r, tag, actor) })
}

// fail has one write of the registry fail.
func (w *world) fail(f *faults) {
	w.Registry = registry.New(registry.Config{Bytes: faultyBytes{w.files, f}, Blobs: faultyBlobs{w.db, f}, Uploads: faultyUploads{w.db, f}, Manifests: faultyManifests{w.db, f},
		Judge: w, Gate: promotion.NewGate(w.db), Names: w, Inspector: w, MutableTags: []string{"latest"}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
}

// TestFaults fails each write of a push once, not stored and stored: the client is told, what was acknowledged before is
// whole, and pushing again ends as if nothing had been.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"append", "commit", "publish", "blob row", "upload row", "upload offset", "manifest row"} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s stored %v", at, stored), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				before := w.mustPut("before", w.manifest(good))
				f := &faults{at: at, stored: stored}
				w.fail(f)
				body, blobs := w.chunked()
				err := w.pushChunked("v1", body, blobs)
				require.ErrorIs(t, err, errFault)
				require.True(t, f.hit)
				w.whole(before.Digest)
				w.sound()
				require.NoError(t, w.pushChunked("v1", body, blobs))
				w.whole(before.Digest)
				w.whole(artifact.DigestOf(body))
				w.sound()
			})
		}
	}
}

// TestFaultsOfTheRest fails each other write of the registry once, not stored and stored: the client is told, what it did not ask
// about is whole, and asking again ends as it should, or says that it is done already.
func TestFaultsOfTheRest(t *testing.T) {
	t.Parallel()
	for at, does := range map[string]func(w *world, image artifact.Digest, extra artifact.Descriptor) (again func() error){
		"link": func(w *world, _ artifact.Digest, extra artifact.Descriptor) func() error {
			return func() error {
				mounted, err := w.Mount(w.t.Context(), w.pusher, parse(w.t, artifact.ParseRepository, "shop/copy"), w.shop, extra.Digest)
				require.Equal(w.t, err == nil, mounted)
				return err
			}
		},
		"unlink": func(w *world, _ artifact.Digest, extra artifact.Descriptor) func() error {
			return func() error { return w.DeleteBlob(w.t.Context(), w.admin, w.shop, extra.Digest) }
		},
		"no manifest row": func(w *world, image artifact.Digest, _ artifact.Descriptor) func() error {
			return func() error {
				return w.DeleteManifest(w.t.Context(), w.admin, artifact.Reference{Repository: w.shop, Digest: image})
			}
		},
		"no tag": func(w *world, _ artifact.Digest, _ artifact.Descriptor) func() error {
			return func() error {
				return w.DeleteManifest(w.t.Context(), w.admin, artifact.Reference{Repository: w.shop, Tag: parse(w.t, artifact.ParseTag, "v1")})
			}
		},
		"no upload row": cancelled, "cancel": cancelled,
		"denial": func(w *world, _ artifact.Digest, _ artifact.Descriptor) func() error {
			body := w.manifest(image{user: "root", files: map[string]string{"app": "denied"}})
			return func() error {
				_, err := w.put("denied", body)
				if artifact.KindOf(err) == artifact.Denied {
					return nil // as it should be
				}
				return err
			}
		},
	} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s stored %v", at, stored), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				before := w.mustPut("before", w.manifest(good))
				image := w.mustPut("v1", w.manifest(image{user: "1000", files: map[string]string{"app": "that goes"}}))
				do := does(w, image.Digest, w.blob("text/plain", []byte("that no manifest needs")))
				f := &faults{at: at, stored: stored}
				w.fail(f)
				require.ErrorIs(t, do(), errFault)
				require.True(t, f.hit)
				w.whole(before.Digest)
				w.sound()
				if err := do(); err != nil {
					require.Equal(t, artifact.NotFound, artifact.KindOf(err), "%v", err)
				}
				w.whole(before.Digest)
				w.sound()
			})
		}
	}
}

func cancelled(w *world, _ artifact.Digest, _ artifact.Descriptor) func() error {
	ctx := w.t.Context()
	u, err := w.StartUpload(ctx, w.pusher, w.shop)
	require.NoError(w.t, err)
	_, err = w.Append(ctx, w.pusher, w.shop, u.ID, nil, bytes.NewReader([]byte("half of it")))
	require.NoError(w.t, err)
	return func() error { return w.CancelUpload(ctx, w.pusher, w.shop, u.ID) }
}

// sound requires that rows and files are of each other, but for files that no row knows of yet, and that all bytes are what their
// digests say.
func (w *world) sound() {
	w.t.Helper()
	checker := registry.NewChecker(registry.CheckerConfig{Files: w.files, Rows: w.db, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	_, err := checker.Check(w.t.Context(), false, registry.CheckReport{Progress: func(registry.CheckProgress) {},
		Found: func(f registry.Finding) { require.Equal(w.t, registry.DamageUnknown, f.Damage, "%+v", f) }})
	require.NoError(w.t, err)
}

// chunked returns an image as a client has it that has pushed nothing yet.
func (w *world) chunked() (body []byte, blobs [][]byte) {
	other := newWorld(w.t)
	body = other.manifest(image{user: "1000", files: map[string]string{"app": "to come"}})
	m, err := artifact.ParseManifest("", body)
	require.NoError(w.t, err)
	for _, d := range m.Blobs() {
		file, _, err := other.files.Open(d.Digest)
		require.NoError(w.t, err)
		content, err := io.ReadAll(file)
		require.NoError(w.t, err)
		require.NoError(w.t, file.Close())
		blobs = append(blobs, content)
	}
	return body, blobs
}

// pushChunked pushes as docker does: each blob by an upload of its own, in two chunks.
func (w *world) pushChunked(tag string, body []byte, blobs [][]byte) error {
	ctx := w.t.Context()
	for _, content := range blobs {
		u, err := w.StartUpload(ctx, w.pusher, w.shop)
		if err != nil {
			return err
		}
		if u, err = w.Append(ctx, w.pusher, w.shop, u.ID, nil, bytes.NewReader(content[:len(content)/2])); err != nil {
			return err
		}
		if _, err := w.FinishUpload(ctx, w.pusher, w.shop, u.ID, nil, bytes.NewReader(content[len(content)/2:]), artifact.DigestOf(content)); err != nil {
			return err
		}
	}
	_, err := w.put(tag, body)
	return err
}

// whole requires that a manifest and all that it names are there, and are what their digests say.
func (w *world) whole(d artifact.Digest) {
	w.t.Helper()
	m, err := w.GetManifest(w.t.Context(), w.pusher, artifact.Reference{Repository: w.shop, Digest: d})
	require.NoError(w.t, err)
	require.Equal(w.t, d, artifact.DigestOf(m.Body))
	for _, b := range m.Manifest.Blobs() {
		file, size, err := w.OpenBlob(w.t.Context(), w.pusher, w.shop, b.Digest)
		require.NoError(w.t, err)
		content, err := io.ReadAll(file)
		require.NoError(w.t, err)
		require.NoError(w.t, file.Close())
		require.Equal(w.t, b.Size, size)
		require.Equal(w.t, b.Digest, artifact.DigestOf(content))
	}
}
