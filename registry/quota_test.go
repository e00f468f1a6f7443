package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/policy"
	"waybill/promotion"
	"waybill/registry"
	"waybill/server"
	"waybill/storage"
)

// limited is a world whose repositories have quotas, and a clock that tests set.
type limited struct {
	*world
	ahead atomic.Int64 // of the real clock, in nanoseconds
}

func (l *limited) wait(d time.Duration) { l.ahead.Add(int64(d)) }

// limit puts a document in force, and a quota on all.
func limit(t testing.TB, total policy.Quantity, documents ...string) *limited {
	t.Helper()
	l := &limited{world: newWorld(t)}
	for _, source := range documents {
		l.apply(source)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) }
	l.Registry = registry.New(registry.Config{Bytes: l.files, Blobs: l.db, Uploads: l.db, Manifests: l.db, Judge: l, Gate: promotion.NewGate(l.db), Names: l, Inspector: l,
		Rules: storage.NewRules(storage.RulesConfig{Documents: l.db, Usage: l.db, Total: total, Now: now}), MutableTags: []string{"latest"}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	return l
}

func (w *world) apply(source string) {
	w.t.Helper()
	source = "apiVersion: waybill/v1\nkind: Repositories\n" + source
	parsed, err := storage.Parse("r.yaml", []byte(source))
	require.NoError(w.t, err)
	_, _, err = w.db.ApplyDocument(w.t.Context(), storage.Kind, parsed[0].Name(), parsed[0].Hash(), source, "user:ada")
	require.NoError(w.t, err)
}

const oneMebi = "metadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, quota: 1Mi}\n"

// TestRepairWithinQuota: a blob that was found damaged is repaired also where nothing else fits, and nothing fits beside it then.
func TestRepairWithinQuota(t *testing.T) {
	t.Parallel()
	for name, total := range map[string]policy.Quantity{"of the repository": 0, "of the store": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var documents []string
			if total == 0 {
				documents = []string{oneMebi}
			}
			l := limit(t, total, documents...)
			content := bytesOf(1 << 20)
			push := func(content []byte) error {
				l.wait(time.Minute) // the last count is not believed any more
				_, err := l.PutBlob(t.Context(), l.pusher, l.shop, bytes.NewReader(content), artifact.DigestOf(content))
				return err
			}
			require.ErrorContains(t, push(bytesOf(1<<20+1)), "of its quota of 1 MiB, and this push asks for 1048577 bytes more, of which 1048576 fit")
			require.NoError(t, push(content))
			require.Equal(t, artifact.Denied, artifact.KindOf(push([]byte("x"))), "it is full")
			require.NoError(t, l.db.QuarantineBlob(t.Context(), artifact.DigestOf(content)))
			require.NoError(t, push(content))
			_, err := l.StatBlob(t.Context(), l.pusher, l.shop, artifact.DigestOf(content))
			require.NoError(t, err)
			require.Equal(t, artifact.Denied, artifact.KindOf(push([]byte("x"))), "it is full again")
		})
	}
}

// bytesOf are bytes that no other call returns.
func bytesOf(n int) []byte {
	b := bytes.Repeat([]byte{'x'}, n)
	copy(b, fmt.Sprint(serial.Add(1)))
	return b
}

var serial atomic.Int64

// files returns everything in the store's folder but folders, with sizes.
func (w *world) stored() map[string]int64 {
	w.t.Helper()
	all := map[string]int64{}
	require.NoError(w.t, filepath.WalkDir(w.folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if os.IsNotExist(err) {
			return nil
		}
		all[path] = info.Size()
		return err
	}))
	return all
}

// declared is a body that says its length, and counts what is read of it.
type declared struct {
	io.Reader
	length int64
	read   int
}

func (d *declared) Announced() int64 { return d.length }

func (d *declared) Read(b []byte) (int, error) {
	n, err := d.Reader.Read(b)
	d.read += n
	return n, err
}

func push(ctx context.Context, l *limited, repository artifact.Repository, b []byte) error {
	_, err := l.PutBlob(ctx, l.pusher, repository, bytes.NewReader(b), artifact.DigestOf(b))
	return err
}

func full(t testing.TB, err error, figures ...string) {
	t.Helper()
	var refused *artifact.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, artifact.Denied, refused.Kind)
	require.Equal(t, "DENIED", refused.Code)
	for _, f := range figures {
		require.ErrorContains(t, err, f)
	}
}

func TestQuotaIsAskedBeforeBytesAreStored(t *testing.T) {
	t.Parallel()
	l := limit(t, 0, oneMebi)
	first, second := bytesOf(600<<10), bytesOf(600<<10)
	require.NoError(t, push(t.Context(), l, l.shop, first))
	before := l.stored()

	t.Run("whole", func(t *testing.T) {
		body := &declared{Reader: bytes.NewReader(second), length: int64(len(second))}
		_, err := l.PutBlob(t.Context(), l.pusher, l.shop, body, artifact.DigestOf(second))
		full(t, err, "shop/returns holds 600 KiB of its quota of 1 MiB", "asks for 600 KiB more", "raise quota in the document shop")
		require.Zero(t, body.read, "refused unread")
		full(t, push(t.Context(), l, l.shop, second), "holds 600 KiB of its quota of 1 MiB, and this push asks for")
		require.Equal(t, before, l.stored())
	})
	t.Run("while it is made", func(t *testing.T) {
		_, err := l.PutStream(t.Context(), l.pusher, l.shop, bytes.NewReader(second))
		full(t, err, "holds 600 KiB of its quota of 1 MiB, and this push asks for")
		require.Equal(t, before, l.stored())
	})
	t.Run("in chunks", func(t *testing.T) {
		for _, known := range []bool{true, false} {
			u, err := l.StartUpload(t.Context(), l.pusher, l.shop)
			require.NoError(t, err)
			u, err = l.Append(t.Context(), l.pusher, l.shop, u.ID, nil, bytes.NewReader(second[:300<<10]))
			require.NoError(t, err)
			var body io.Reader = bytes.NewReader(second[300<<10:])
			if known {
				body = &declared{Reader: body, length: 300 << 10}
			}
			_, err = l.Append(t.Context(), l.pusher, l.shop, u.ID, nil, body)
			full(t, err, "its quota of 1 MiB")
			_, err = l.Upload(t.Context(), l.pusher, l.shop, u.ID)
			require.Equal(t, artifact.NotFound, artifact.KindOf(err), "what does not fit is dropped")
			require.Equal(t, before, l.stored())
			l.wait(2 * time.Second)
		}
		u, err := l.StartUpload(t.Context(), l.pusher, l.shop)
		require.NoError(t, err)
		_, err = l.FinishUpload(t.Context(), l.pusher, l.shop, u.ID, &registry.Range{First: 0, Last: 600<<10 - 1}, bytes.NewReader(second), artifact.DigestOf(second))
		full(t, err, "asks for 600 KiB more")
		require.Equal(t, before, l.stored())
	})
	t.Run("mounted", func(t *testing.T) {
		base := parse(t, artifact.ParseRepository, "base/debian")
		require.NoError(t, push(t.Context(), l, base, second), "no document is for base")
		_, err := l.Mount(t.Context(), l.pusher, l.shop, base, artifact.DigestOf(second))
		full(t, err, "asks for 600 KiB more")
		mounted, err := l.Mount(t.Context(), l.pusher, l.shop, base, artifact.DigestOf(first))
		require.NoError(t, err)
		require.False(t, mounted, "base does not have it")
		third := bytesOf(400 << 10)
		require.NoError(t, push(t.Context(), l, base, third))
		for range 2 {
			mounted, err = l.Mount(t.Context(), l.pusher, l.shop, base, artifact.DigestOf(third))
			require.NoError(t, err)
			require.True(t, mounted, "what is there already asks for nothing")
		}
	})
	t.Run("the rest of it, and then nothing", func(t *testing.T) {
		require.NoError(t, push(t.Context(), l, l.shop, bytesOf(24<<10)))
		_, err := l.StartUpload(t.Context(), l.pusher, l.shop)
		full(t, err, "shop/returns holds 1 MiB of its quota of 1 MiB, and this push asks for more")
		full(t, push(t.Context(), l, l.shop, bytesOf(1)))
	})
	t.Run("what is deleted makes room", func(t *testing.T) {
		require.NoError(t, l.DeleteBlob(t.Context(), l.admin, l.shop, artifact.DigestOf(first)))
		l.wait(2 * time.Second)
		require.NoError(t, push(t.Context(), l, l.shop, second))
	})
	t.Run("what the service attaches is never refused", func(t *testing.T) {
		image, err := random.Image(900<<10, 1)
		require.NoError(t, err)
		_, err = l.PutImage(t.Context(), l.pusher, l.shop, nil, image)
		full(t, err)
		_, err = l.PutImage(t.Context(), artifact.System, l.shop, nil, image)
		require.NotContains(t, fmt.Sprint(err), "quota")
	})
	t.Run("a document that says otherwise holds from the next push on", func(t *testing.T) {
		l.apply(strings.Replace(oneMebi, "1Mi", "1Gi", 1))
		require.NoError(t, push(t.Context(), l, l.shop, bytesOf(900<<10)))
		made := bytesOf(1 << 10)
		d, err := l.PutStream(t.Context(), l.pusher, l.shop, bytes.NewReader(made))
		require.NoError(t, err)
		require.Equal(t, artifact.Descriptor{Digest: artifact.DigestOf(made), Size: 1 << 10}, d)
	})
}

func TestQuotaOfTheStore(t *testing.T) {
	t.Parallel()
	l := limit(t, 1<<20, "metadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, quota: 3Mi}\n")
	base := parse(t, artifact.ParseRepository, "base/debian")
	b := bytesOf(700 << 10)
	require.NoError(t, push(t.Context(), l, base, b))
	mounted, err := l.Mount(t.Context(), l.pusher, l.shop, base, artifact.DigestOf(b))
	require.NoError(t, err)
	require.True(t, mounted, "the same bytes count once")
	full(t, push(t.Context(), l, l.shop, bytesOf(400<<10)), "this registry holds 700 KiB of its quota of 1 MiB", "raise registry.quota")
	require.NoError(t, push(t.Context(), l, l.shop, bytesOf(300<<10)))
	full(t, push(t.Context(), l, base, bytesOf(100<<10)))
	n, err := l.db.StoreBytes(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1000<<10, n)
	// What was refused for the one took nothing of the other.
	n, err = l.db.RepositoryBytes(t.Context(), l.shop)
	require.NoError(t, err)
	require.EqualValues(t, 1000<<10, n)
}

// TestQuotaHoldsForAllAtOnce: however many push at once, no more is stored than the quota allows, and all that it allows.
func TestQuotaHoldsForAllAtOnce(t *testing.T) {
	t.Parallel()
	l := limit(t, 0, oneMebi)
	var stored, refused atomic.Int64
	var work sync.WaitGroup
	for i := range 12 {
		work.Go(func() {
			b := bytesOf(300 << 10)
			var err error
			switch i % 3 {
			case 0:
				err = push(t.Context(), l, l.shop, b)
			case 1:
				_, err = l.PutBlob(t.Context(), l.pusher, l.shop, &declared{Reader: bytes.NewReader(b), length: int64(len(b))}, artifact.DigestOf(b))
			case 2:
				err = chunks(t, l, b)
			}
			if err != nil {
				full(t, err)
				refused.Add(1)
				return
			}
			stored.Add(1)
		})
	}
	work.Wait()
	n, err := l.db.RepositoryBytes(t.Context(), l.shop)
	require.NoError(t, err)
	require.Equal(t, stored.Load()*300<<10, n)
	require.LessOrEqual(t, n, int64(1<<20))
	require.EqualValues(t, 12, stored.Load()+refused.Load())
	require.Len(t, l.stored(), int(stored.Load()), "of what was refused nothing is left")

	// Streams took each other's room while none was done; now there is what is left of it, and no more.
	l.wait(2 * time.Second)
	for push(t.Context(), l, l.shop, bytesOf(300<<10)) == nil {
		stored.Add(1)
	}
	require.EqualValues(t, 3, stored.Load())
}

func chunks(t *testing.T, l *limited, b []byte) error {
	u, err := l.StartUpload(t.Context(), l.pusher, l.shop)
	if err != nil {
		return err
	}
	for part := range 3 {
		if _, err := l.Append(t.Context(), l.pusher, l.shop, u.ID, nil, bytes.NewReader(b[part*(100<<10):(part+1)*(100<<10)])); err != nil {
			return err
		}
	}
	_, err = l.FinishUpload(t.Context(), l.pusher, l.shop, u.ID, nil, bytes.NewReader(nil), artifact.DigestOf(b))
	return err
}

// silent fails the test when somebody counts.
type silent struct{ t *testing.T }

func (s silent) RepositoryBytes(context.Context, artifact.Repository) (int64, error) {
	s.t.Error("counted, and there is no quota")
	return 0, nil
}

func (s silent) StoreBytes(ctx context.Context) (int64, error) {
	return s.RepositoryBytes(ctx, artifact.Repository{})
}

func TestNoQuotaCostsNoCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply("metadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, mutableTags: [edge]}\n")
	rules := storage.NewRules(storage.RulesConfig{Documents: w.db, Usage: silent{t}})
	take, settle, err := rules.Room(t.Context(), w.shop, false)
	require.NoError(t, err)
	require.Nil(t, take)
	require.Nil(t, settle)
}

func TestMutableTagsOfARepository(t *testing.T) {
	t.Parallel()
	l := limit(t, 0, "metadata: {name: shop}\nspec: {match: {repositories: [\"shop/**\"]}, mutableTags: [edge, \"*-dev\"]}\n")
	one, two := l.manifest(good), l.manifest(image{user: "1000", files: map[string]string{"app": "other"}})
	for tag, moves := range map[string]bool{"edge": true, "1-dev": true, "latest": false, "v1": false} {
		l.mustPut(tag, one)
		_, err := l.put(tag, two)
		require.Equal(t, moves, err == nil, "%s: %v", tag, err)
		if !moves {
			require.ErrorContains(t, err, "mutableTags, in the configuration or in the document")
		}
	}
	l.apply("metadata: {name: returns}\nspec: {match: {repositories: [shop/returns]}, mutableTags: []}\n")
	_, err := l.put("edge", one)
	require.ErrorContains(t, err, "stays so", "the longer pattern decides")
	l.apply("metadata: {name: returns}\nspec: {match: {repositories: [shop/returns]}, quota: 1Gi}\n")
	_, err = l.put("latest", two)
	require.NoError(t, err, "a document that is silent leaves it to the configuration")

	latest := parse(t, artifact.ParseTag, "latest")
	require.NoError(t, l.DeleteManifest(t.Context(), l.admin, artifact.Reference{Repository: l.shop, Tag: latest}))
	changes, err := l.db.TagHistory(t.Context(), l.shop, latest)
	require.NoError(t, err)
	require.Len(t, changes, 3)
	require.Equal(t, []artifact.Digest{artifact.DigestOf(one), artifact.DigestOf(two), {}}, []artifact.Digest{changes[0].Digest, changes[1].Digest, changes[2].Digest})
	require.Equal(t, "user:ada", changes[2].Actor)
}

// anybody is who asks, without asking.
type anybody struct{ artifact.Principal }

func (a anybody) FromRequest(context.Context, string) (auth.Identity, error) {
	return auth.Identity{Principal: a.Principal}, nil
}

func (anybody) Service() string { return "test" }

func (anybody) Issue(auth.Identity, []auth.Scope, time.Time) (string, time.Duration, error) {
	return "", 0, nil
}

func (anybody) IssuePublic([]auth.Scope, func(artifact.Repository) bool, time.Time) (string, time.Duration, error) {
	return "", 0, nil
}

// TestQuotaOverHTTP: what a client is told, with a length and without one; and that GET is a pull and HEAD is none.
func TestQuotaOverHTTP(t *testing.T) {
	t.Parallel()
	l := limit(t, 0, oneMebi)
	pulls := make(chan artifact.Digest, 10)
	s := httptest.NewServer(server.New(server.Config{Registry: l.Registry, Authenticator: anybody{l.pusher}, AccessTokens: anybody{}, Metrics: prometheus.NewRegistry(),
		Pulled: func(_ string, _ artifact.Repository, d artifact.Digest) { pulls <- d }, Logger: slog.New(slog.DiscardHandler), Now: time.Now}).Handler())
	defer s.Close()
	do := func(method, path string, body io.Reader) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
		require.NoError(t, err)
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	pushed := l.mustPut("v1", l.manifest(good))
	before := l.stored()
	big := bytesOf(8 << 20)
	for name, body := range map[string]func() io.Reader{
		"with a length": func() io.Reader { return bytes.NewReader(big) },
		"without":       func() io.Reader { return io.MultiReader(bytes.NewReader(big)) },
	} {
		start := do("POST", "/v2/shop/returns/blobs/uploads/", nil)
		require.Equal(t, http.StatusAccepted, start.StatusCode)
		res := do("PATCH", start.Header.Get("Location"), body())
		require.Equal(t, http.StatusForbidden, res.StatusCode, name)
		var told struct {
			Errors []struct{ Code, Message string }
		}
		require.NoError(t, json.NewDecoder(res.Body).Decode(&told))
		require.Len(t, told.Errors, 1)
		require.Equal(t, "DENIED", told.Errors[0].Code)
		require.Regexp(t, `^shop/returns holds [0-9.]+ (B|KiB) of its quota of 1 MiB, and this push asks for [0-9.]+ [KM]iB more; `, told.Errors[0].Message, name)
		require.Equal(t, before, l.stored(), name)
		require.Equal(t, http.StatusNotFound, do("GET", start.Header.Get("Location"), nil).StatusCode, "the upload is dropped")
	}
	require.Equal(t, http.StatusForbidden, do("POST", "/v2/shop/returns/blobs/uploads/?digest="+artifact.DigestOf(big).String(), bytes.NewReader(big)).StatusCode)
	require.Equal(t, before, l.stored())

	require.Equal(t, http.StatusOK, do("HEAD", "/v2/shop/returns/manifests/v1", nil).StatusCode)
	require.Equal(t, http.StatusNotFound, do("GET", "/v2/shop/returns/manifests/v2", nil).StatusCode)
	require.Empty(t, pulls)
	require.Equal(t, http.StatusOK, do("GET", "/v2/shop/returns/manifests/v1", nil).StatusCode)
	require.Equal(t, pushed.Digest, <-pulls)
}
