package registry_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/layer"
	"waybill/policy"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/promotion"
	"waybill/registry"
)

// world is a registry over a real database and real files; only the scanner's process is left out: facts are read here.
type world struct {
	*registry.Registry
	t      testing.TB
	db     *postgres.DB
	files  *blob.File
	folder string // of the files
	judge  *policy.Judge
	pusher artifact.Principal
	admin  artifact.Principal
	shop   artifact.Repository

	mu      sync.Mutex
	arrived []artifact.Digest // what the inspector was told of
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db := pgtest.New(t)
	folder := t.TempDir()
	files, err := blob.NewFile(folder)
	require.NoError(t, err)
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	_, _, err = db.ApplyDocument(t.Context(), "Policy", parsed[0].Name(), parsed[0].Hash(), string(policy.Baseline()), "system")
	require.NoError(t, err)
	w := &world{t: t, db: db, files: files, folder: folder, pusher: artifact.Principal{Name: "token:ci", Role: artifact.Pusher}, admin: artifact.Principal{Name: "user:ada", Role: artifact.Admin},
		shop: parse(t, artifact.ParseRepository, "shop/returns")}
	w.judge = policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: contents{w}, Policies: db})
	w.Registry = registry.New(registry.Config{Bytes: files, Blobs: db, Uploads: db, Manifests: db, Judge: w, Gate: promotion.NewGate(db), Names: w, Inspector: w,
		MutableTags: []string{"latest"}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	return w
}

func parse[T any](t testing.TB, parse func(string) (T, error), s string) T {
	t.Helper()
	v, err := parse(s)
	require.NoError(t, err)
	return v
}

// contents lets the judge read what lies in the registry.
type contents struct{ w *world }

func (c contents) Manifest(ctx context.Context, r artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	return c.w.db.Manifest(ctx, r, d)
}

func (c contents) Blob(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]byte, error) {
	return c.w.Registry.Blob(ctx, r, d)
}

// Layer reads a layer as the scanner's process does.
func (w *world) Layer(_ context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	file, _, err := w.files.Open(d.Digest)
	if err != nil {
		return artifact.LayerFacts{}, err
	}
	defer file.Close()
	facts, err := layer.Read(file, layer.Options{})
	if err != nil {
		err = artifact.Errorf(artifact.Denied, "cannot be inspected: %w", err)
	}
	return facts, err
}

func (w *world) Judge(ctx context.Context, s artifact.Subject) (artifact.Judgement, error) {
	v, err := w.judge.Judge(ctx, s)
	return artifact.Judgement{Verdict: v.VerdictRecord, Scan: v.Scan}, err
}

func (w *world) Scan(_ context.Context, s artifact.Subject, _ bool) (artifact.Scan, bool, error) {
	return artifact.Scan{Digest: s.Digest, State: artifact.ScanPending}, true, nil
}

func (w *world) Expected(context.Context) {}

func (w *world) Arrived(_ context.Context, digest artifact.Digest, _ int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived = append(w.arrived, digest)
}

func (w *world) Reserved(_ context.Context, _ artifact.Repository, tag artifact.Tag) (bool, error) {
	return tag.String() == "production", nil
}

// blob pushes bytes and returns their descriptor.
func (w *world) blob(mediaType string, content []byte) artifact.Descriptor {
	w.t.Helper()
	d, err := w.PutBlob(w.t.Context(), w.pusher, w.shop, bytes.NewReader(content), artifact.DigestOf(content))
	require.NoError(w.t, err)
	d.MediaType = mediaType
	return d
}

// image describes an image to push.
type image struct {
	user      string
	files     map[string]string // of its one layer
	layerType string            // default: an OCI gzip layer
	subject   *artifact.Descriptor
}

// manifest pushes an image's blobs and returns its manifest.
func (w *world) manifest(img image) []byte {
	w.t.Helper()
	var archive, packed bytes.Buffer
	out := tar.NewWriter(&archive)
	for name, content := range img.files {
		require.NoError(w.t, out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}))
		_, err := out.Write([]byte(content))
		require.NoError(w.t, err)
	}
	require.NoError(w.t, out.Close())
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(archive.Bytes())
	require.NoError(w.t, z.Close())
	if img.layerType == "" {
		img.layerType = artifact.MediaTypeLayerGzip
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"User": img.user},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []artifact.Digest{artifact.DigestOf(archive.Bytes())}}})
	require.NoError(w.t, err)
	return w.wire(map[string]any{"mediaType": artifact.MediaTypeManifest, "config": w.blob(artifact.MediaTypeConfig, config),
		"layers": []artifact.Descriptor{w.blob(img.layerType, packed.Bytes())}, "subject": img.subject})
}

func (w *world) wire(fields map[string]any) []byte {
	w.t.Helper()
	fields["schemaVersion"] = 2
	if fields["subject"] == (*artifact.Descriptor)(nil) {
		delete(fields, "subject")
	}
	body, err := json.Marshal(fields)
	require.NoError(w.t, err)
	return body
}

// put pushes a manifest by a tag, or by its digest when that is empty.
func (w *world) put(tag string, body []byte) (registry.Pushed, error) {
	ref := artifact.Reference{Repository: w.shop, Digest: artifact.DigestOf(body)}
	if tag != "" {
		ref = artifact.Reference{Repository: w.shop, Tag: parse(w.t, artifact.ParseTag, tag)}
	}
	return w.PutManifest(w.t.Context(), w.pusher, ref, "", body, nil)
}

func (w *world) mustPut(tag string, body []byte) artifact.Descriptor {
	w.t.Helper()
	pushed, err := w.put(tag, body)
	require.NoError(w.t, err)
	return artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: pushed.Digest, Size: int64(len(body))}
}
