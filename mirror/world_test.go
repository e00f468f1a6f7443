package mirror_test

import (
	"context"
	"crypto/rand"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/mirror"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/promotion"
	"waybill/registry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// elsewhere is another registry: go-containerregistry's, with a record of what it was asked and switches for what goes
// wrong.
type elsewhere struct {
	*httptest.Server
	t testing.TB

	mu    sync.Mutex
	asked []string // METHOD PATH
	// before answers in place of the registry when it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newElsewhere(t testing.TB, options ...gcrregistry.Option) *elsewhere {
	e := &elsewhere{t: t}
	behind := gcrregistry.New(append(options, gcrregistry.Logger(log.New(io.Discard, "", 0)))...)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		e.asked = append(e.asked, r.Method+" "+r.URL.Path)
		before := e.before
		e.mu.Unlock()
		if before == nil || !before(w, r) {
			behind.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(e.Close)
	return e
}

// answer has what goes wrong be f; nil is nothing.
func (e *elsewhere) answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.before = f
}

// down has every request fail with a status.
func (e *elsewhere) down(status int) {
	e.answer(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true })
}

// count returns how often it was asked something that begins so, and forgets nothing.
func (e *elsewhere) count(prefix string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.asked {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

func (e *elsewhere) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = nil
}

func (e *elsewhere) ref(s string) name.Reference {
	ref, err := name.ParseReference(strings.TrimPrefix(e.URL, "http://") + "/" + s)
	require.NoError(e.t, err)
	return ref
}

func (e *elsewhere) push(ref string, what remote.Taggable) string {
	require.NoError(e.t, remote.Push(e.ref(ref), what))
	d, err := what.(interface{ Digest() (v1.Hash, error) }).Digest()
	require.NoError(e.t, err)
	return d.String()
}

// world is a registry of ours that mirrors another: real rows, real files, and a judge that a test can turn.
type world struct {
	t       testing.TB
	db      *postgres.DB
	images  *registry.Registry
	service *mirror.Service
	bytes   *blob.File

	mu     sync.Mutex
	now    time.Time
	denied map[string]bool // digests
}

func newWorld(t testing.TB, sources ...mirror.Source) *world {
	w := &world{t: t, db: pgtest.New(t), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), denied: map[string]bool{}}
	files, err := blob.NewFile(t.TempDir())
	require.NoError(t, err)
	w.bytes = files
	store := &pushes{}
	w.service, err = mirror.New(mirror.Config{Sources: sources, Rows: w.db, Pushes: store, Logger: slog.New(slog.DiscardHandler), Now: w.clock})
	require.NoError(t, err)
	t.Cleanup(w.service.Close)
	w.images = registry.New(registry.Config{Bytes: files, Blobs: w.db, Uploads: w.db, Manifests: w.db, Judge: w, Gate: promotion.NewGate(w.db), Names: w, Inspector: w,
		Upstream: w.service, Logger: slog.New(slog.DiscardHandler), Now: w.clock})
	store.Registry = w.images
	return w
}

type pushes struct{ *registry.Registry }

func (p *pushes) PutManifest(ctx context.Context, by artifact.Principal, ref artifact.Reference, mediaType string, body []byte) error {
	_, err := p.Registry.PutManifest(ctx, by, ref, mediaType, body, nil)
	return err
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) deny(digest string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied[digest] = true
}

func (w *world) Judge(_ context.Context, s artifact.Subject) (artifact.Judgement, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := artifact.VerdictRecord{Repository: s.Repository, Digest: s.Digest, Outcome: artifact.Allow, PolicyHash: artifact.DigestOf(nil), Policies: []string{"baseline@1"}, Reasons: []artifact.Reason{}}
	if w.denied[s.Digest.String()] {
		v.Outcome, v.Reasons = artifact.Deny, []artifact.Reason{{Rule: "no-root-user", Message: "it runs as root"}, {Rule: "no-sshd", Message: "it has an sshd"}}
	}
	return artifact.Judgement{Verdict: v}, nil
}

func (w *world) Reserved(_ context.Context, _ artifact.Repository, tag artifact.Tag) (bool, error) {
	return tag.String() == "production", nil
}

func (w *world) Expected(context.Context)                        {}
func (w *world) Arrived(context.Context, artifact.Digest, int64) {}

var (
	reader = artifact.Principal{Name: "token:r", Role: artifact.Reader}
	admin  = artifact.Principal{Name: "token:a", Role: artifact.Admin}
)

func (w *world) get(ref string) (registry.Pulled, error) {
	return w.images.GetManifest(w.t.Context(), reader, reference(w.t, ref))
}

// pulled gets a reference and everything below it, as a client does.
func (w *world) pulled(ref string) registry.Pulled {
	w.t.Helper()
	got, err := w.get(ref)
	require.NoError(w.t, err)
	w.whole(got)
	return got
}

func (w *world) whole(m registry.Pulled) {
	w.t.Helper()
	for _, d := range m.Manifest.Blobs() {
		file, size, err := w.images.OpenBlob(w.t.Context(), reader, m.Repository, d.Digest)
		require.NoError(w.t, err)
		sum := artifact.NewHash("sha256")
		_, err = io.Copy(sum, file)
		require.NoError(w.t, err)
		file.Close()
		require.Equal(w.t, d.Size, size)
		require.Equal(w.t, d.Digest, artifact.DigestFrom("sha256", sum))
	}
	for _, d := range m.Manifest.Manifests {
		child, err := w.get(m.Repository.String() + "@" + d.Digest.String())
		require.NoError(w.t, err)
		w.whole(child)
	}
}

func reference(t testing.TB, s string) artifact.Reference {
	t.Helper()
	ref, err := artifact.ParseReference(s)
	require.NoError(t, err)
	return ref
}

// image is an image of small layers that no other has.
func image(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	if len(layers) == 0 {
		layers = []v1.Layer{layer(4 << 10), layer(64 << 10)}
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(t, err)
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	return img
}

func layer(n int) v1.Layer {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return static.NewLayer(b, artifact.MediaTypeLayer)
}
