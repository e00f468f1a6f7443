package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/registry"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// store is a registry over a real database and real files, with what looks after them.
type store struct {
	t     testing.TB
	ctx   context.Context
	root  string // of the files
	db    *postgres.DB
	files *blob.File
	*registry.Registry
}

var (
	pusher = artifact.Principal{Name: "token:ci", Role: artifact.Admin}
	reader = artifact.Principal{Name: "token:reader", Role: artifact.Reader}
	shop   = must(artifact.ParseRepository("shop/returns"))
	other  = must(artifact.ParseRepository("other/thing"))
	config = []byte("{}")
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{t: t, ctx: context.Background(), root: t.TempDir(), db: pgtest.New(t)}
	var err error
	s.files, err = blob.NewFile(s.root)
	require.NoError(t, err)
	s.Registry = registry.New(s.config())
	return s
}

func (s *store) config() registry.Config {
	return registry.Config{Bytes: s.files, Blobs: s.db, Uploads: s.db, Manifests: s.db, Judge: allow{}, Gate: open{}, Names: open{}, Inspector: open{},
		MutableTags: []string{"*"}, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
}

// allow judges everything as allowed.
type allow struct{}

func (allow) Judge(_ context.Context, s artifact.Subject) (artifact.Judgement, error) {
	return artifact.Judgement{Verdict: artifact.VerdictRecord{Repository: s.Repository, Digest: s.Digest, Outcome: artifact.Allow, Reasons: []artifact.Reason{}, Policies: []string{"test@1"},
		PolicyHash: artifact.DigestOf([]byte("policy"))}}, nil
}

// open lets everybody pull everything.
type open struct{}

func (open) Pull(context.Context, artifact.Principal, artifact.Repository, artifact.Digest) error {
	return nil
}

func (open) Filter(_ context.Context, _ artifact.Principal, _ artifact.Repository, all []artifact.Digest) (map[artifact.Digest]bool, error) {
	allowed := map[artifact.Digest]bool{}
	for _, d := range all {
		allowed[d] = true
	}
	return allowed, nil
}

func (open) Repositories(_ context.Context, _ artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error) {
	return all, nil
}

func (open) Reserved(context.Context, artifact.Repository, artifact.Tag) (bool, error) {
	return false, nil
}

func (open) Expected(context.Context)                        {}
func (open) Arrived(context.Context, artifact.Digest, int64) {}

// collector keeps what nothing needs for that long.
func (s *store) collector(grace time.Duration) *registry.Collector {
	return s.collectorOn(s.db, grace)
}

func (s *store) collectorOn(rows registry.GarbageRows, grace time.Duration) *registry.Collector {
	return registry.NewCollector(registry.CollectorConfig{Files: s.files, Rows: rows, Grace: grace, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
}

// collect collects what has not been needed for an hour, after a dry run that must say the same.
func (s *store) collect() registry.Collected {
	s.t.Helper()
	before := s.blobFiles()
	said, err := s.collector(time.Hour).Collect(s.ctx, true)
	require.NoError(s.t, err)
	require.Equal(s.t, before, s.blobFiles(), "a dry run removes nothing")
	done, err := s.collector(time.Hour).Collect(s.ctx, false)
	require.NoError(s.t, err)
	require.True(s.t, said.DryRun)
	said.DryRun = false
	require.ElementsMatch(s.t, said.Items, done.Items)
	said.Items, done.Items = nil, nil
	require.Equal(s.t, said, done)
	return done
}

// age makes everything two hours older than it is.
func (s *store) age() {
	s.t.Helper()
	s.ageRows()
	err := filepath.WalkDir(s.root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			old := time.Now().Add(-2 * time.Hour)
			err = os.Chtimes(path, old, old)
		}
		return err
	})
	require.NoError(s.t, err)
}

func (s *store) ageRows() {
	s.t.Helper()
	for _, column := range []string{"repository_blobs set linked_at", "blobs set created_at", "uploads set updated_at"} {
		_, err := s.db.Pool.Exec(s.ctx, "update "+column+" = now() - interval '2 hours'")
		require.NoError(s.t, err)
	}
	s.forget()
}

// forget makes the database forget what it remembers of blobs, as the passing of time does, and waits until it has.
func (s *store) forget() {
	s.t.Helper()
	probe := must(artifact.ParseRepository("probe"))
	require.NoError(s.t, s.db.SaveBlob(s.ctx, probe, digestOf("probe"), 5, "", func() error { return nil }))
	_, err := s.db.Blob(s.ctx, probe, digestOf("probe"))
	require.NoError(s.t, err)
	for _, statement := range []string{"select pg_notify('changed', name) from repositories", "delete from repository_blobs where repository = 'probe'",
		"delete from blobs where digest = '" + digestOf("probe").String() + "'"} {
		_, err = s.db.Pool.Exec(s.ctx, statement)
		require.NoError(s.t, err)
	}
	require.Eventually(s.t, func() bool { // notifications come in order
		_, err := s.db.Blob(s.ctx, probe, digestOf("probe"))
		return artifact.KindOf(err) == artifact.NotFound
	}, 5*time.Second, time.Millisecond)
}

// put writes a blob.
func (s *store) put(r artifact.Repository, content string) artifact.Descriptor {
	s.t.Helper()
	d, err := s.PutBlob(s.ctx, pusher, r, bytes.NewReader([]byte(content)), artifact.DigestOf([]byte(content)))
	require.NoError(s.t, err)
	return d
}

// manifestOf is a manifest of an artifact that needs these layers.
func manifestOf(name string, layers ...artifact.Descriptor) []byte {
	for i := range layers {
		layers[i].MediaType = "application/octet-stream"
	}
	return must(json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": artifact.MediaTypeManifest, "annotations": map[string]string{"name": name},
		"config": artifact.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: artifact.DigestOf(config), Size: int64(len(config))}, "layers": layers}))
}

// push writes blobs and a manifest that needs them, and returns its digest.
func (s *store) push(r artifact.Repository, name string, contents ...string) artifact.Digest {
	s.t.Helper()
	s.put(r, string(config))
	var layers []artifact.Descriptor
	for _, c := range contents {
		layers = append(layers, s.put(r, c))
	}
	body := manifestOf(name, layers...)
	pushed, err := s.PutManifest(s.ctx, pusher, artifact.Reference{Repository: r, Digest: artifact.DigestOf(body)}, artifact.MediaTypeManifest, body, nil)
	require.NoError(s.t, err)
	return pushed.Digest
}

func (s *store) delete(r artifact.Repository, d artifact.Digest) {
	s.t.Helper()
	require.NoError(s.t, s.DeleteManifest(s.ctx, pusher, artifact.Reference{Repository: r, Digest: d}))
}

// blobFiles returns the contents of all blobs' files, by digest.
func (s *store) blobFiles() map[artifact.Digest]string {
	s.t.Helper()
	all := map[artifact.Digest]string{}
	require.NoError(s.t, s.files.Walk(s.ctx, func(some []artifact.Digest) error {
		for _, d := range some {
			all[d] = s.read(d)
		}
		return nil
	}))
	return all
}

func (s *store) read(d artifact.Digest) string {
	s.t.Helper()
	file, _, err := s.files.Open(d)
	require.NoError(s.t, err)
	defer file.Close()
	return string(must(io.ReadAll(file)))
}

// blobRows returns the digests that have a row.
func (s *store) blobRows() []artifact.Digest {
	s.t.Helper()
	rows, err := s.db.Blobs(s.ctx, artifact.Digest{}, 100_000)
	require.NoError(s.t, err)
	var all []artifact.Digest
	for _, r := range rows {
		all = append(all, r.Digest)
	}
	return all
}

// holds reports whether a repository has a blob, asking the database itself.
func (s *store) holds(r artifact.Repository, content string) bool {
	s.t.Helper()
	var has bool
	require.NoError(s.t, s.db.Pool.QueryRow(s.ctx, "select exists (select from repository_blobs where repository = $1 and digest = $2)", r, digestOf(content)).Scan(&has))
	return has
}

func digestOf(content string) artifact.Digest { return artifact.DigestOf([]byte(content)) }

// requireContents checks that rows and files are of exactly these contents.
func (s *store) requireContents(contents ...string) {
	s.t.Helper()
	var digests []artifact.Digest
	for _, c := range contents {
		digests = append(digests, digestOf(c))
	}
	require.ElementsMatch(s.t, digests, s.blobRows(), "rows")
	files := s.blobFiles()
	require.Len(s.t, files, len(contents), "files")
	for _, c := range contents {
		require.Equal(s.t, c, files[digestOf(c)])
	}
}

// orphan writes the file of a blob that has no row.
func (s *store) orphan(content string) artifact.Digest {
	s.t.Helper()
	at, err := s.files.Append(s.ctx, "0", blob.Progress{}, bytes.NewReader([]byte(content)))
	require.NoError(s.t, err)
	publish, err := s.files.Commit(s.ctx, "0", at, digestOf(content))
	require.NoError(s.t, err)
	require.NoError(s.t, publish())
	return digestOf(content)
}

func (s *store) path(d artifact.Digest) string {
	return filepath.Join(s.root, d.Algorithm(), d.Hex()[:2], d.Hex())
}

func (s *store) uploadFile(id string) string { return filepath.Join(s.root, "uploads", id) }

func (s *store) upload(content string) artifact.Upload {
	s.t.Helper()
	u, err := s.StartUpload(s.ctx, pusher, shop)
	require.NoError(s.t, err)
	if content != "" {
		u, err = s.Append(s.ctx, pusher, shop, u.ID, nil, bytes.NewReader([]byte(content)))
		require.NoError(s.t, err)
	}
	return u
}

// sound checks that each row whose blob is not in quarantine has a file with the bytes of its digest.
func (s *store) sound() {
	s.t.Helper()
	rows, err := s.db.Blobs(s.ctx, artifact.Digest{}, 100_000)
	require.NoError(s.t, err)
	for _, r := range rows {
		if r.Quarantined {
			continue
		}
		content := s.read(r.Digest)
		require.Equal(s.t, r.Digest, digestOf(content))
		require.EqualValues(s.t, r.Size, len(content))
	}
}
