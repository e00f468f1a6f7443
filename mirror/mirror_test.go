package mirror_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/mirror"
)

// mirrored starts another registry and a registry of ours that mirrors it as hub.
func mirrored(t testing.TB) (*elsewhere, *world) {
	up := newElsewhere(t)
	return up, newWorld(t, mirror.Source{Remote: mirror.Remote{Name: "hub", URL: up.URL, Insecure: true}, TTL: 5 * time.Minute})
}

func TestPullsThrough(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	digest := up.push("library/debian:12", image(t))
	got := w.pulled("mirror/hub/library/debian:12")
	require.Equal(t, digest, got.Digest.String())
	require.False(t, got.Stale)
	require.Equal(t, "system", got.PushedBy)

	up.forget()
	w.pulled("mirror/hub/library/debian:12")
	w.pulled("mirror/hub/library/debian@" + digest)
	require.Zero(t, up.count(""), "what is here is not asked for again within the TTL")

	_, err := w.get("mirror/hub/library/debian:13")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), err)
	_, err = w.get("mirror/hub/library/debian@" + artifact.DigestOf([]byte("x")).String())
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), err)
	_, err = w.get("mirror/other/library/debian:12")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), err)
}

// TestFiftyAtOnce: one fetch of the manifest and of each blob, however many ask for a tag, and for its digest.
func TestFiftyAtOnce(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	img := image(t)
	digest := up.push("library/debian:12", img)
	var first sync.Once
	gate := make(chan struct{})
	up.answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead { // nobody is answered before all have asked
			<-gate
		}
		return false
	})
	up.forget()
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if i == 49 {
				first.Do(func() { close(gate) })
			}
			got, err := w.get("mirror/hub/library/debian:12")
			require.NoError(t, err)
			require.Equal(t, digest, got.Digest.String())
			if i%2 == 0 {
				_, err = w.get("mirror/hub/library/debian@" + digest)
				require.NoError(t, err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, up.count("HEAD /v2/library/debian/manifests/12"))
	require.Equal(t, 1, up.count("GET /v2/library/debian/manifests/"))
	m, err := img.Manifest()
	require.NoError(t, err)
	for _, d := range append(m.Layers, m.Config) {
		require.Equal(t, 1, up.count("GET /v2/library/debian/blobs/"+d.Digest.String()))
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	index, amd, arm := platforms(t)
	up.push("library/debian:12", index)
	got := w.pulled("mirror/hub/library/debian:12")
	require.Len(t, got.Manifest.Manifests, 2)
	require.Equal(t, 3, up.count("GET /v2/library/debian/manifests/"))

	t.Run("one image denied is the index denied, with its platform", func(t *testing.T) {
		w.deny(digestOf(t, arm))
		up.push("library/other:12", index)
		_, err := w.get("mirror/hub/library/other:12")
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
		require.ErrorContains(t, err, "linux/arm64: no-root-user")
		require.ErrorContains(t, err, "linux/arm64: no-sshd")
		w.pulled("mirror/hub/library/other@" + digestOf(t, amd))
	})
}

func platforms(t testing.TB) (index v1.ImageIndex, amd, arm v1.Image) {
	amd, arm = image(t), image(t)
	return mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}}), amd, arm
}

func digestOf(t testing.TB, what interface{ Digest() (v1.Hash, error) }) string {
	d, err := what.Digest()
	require.NoError(t, err)
	return d.String()
}

func TestUpstreamMovesItsTag(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	first := up.push("library/debian:12", image(t))
	require.Equal(t, first, w.pulled("mirror/hub/library/debian:12").Digest.String())
	second := up.push("library/debian:12", image(t))
	require.Equal(t, first, w.pulled("mirror/hub/library/debian:12").Digest.String(), "within the TTL")
	w.pass(6 * time.Minute)
	require.Equal(t, second, w.pulled("mirror/hub/library/debian:12").Digest.String())
	w.pulled("mirror/hub/library/debian@" + first)

	// Back to what is here already: nothing but the tag is asked for.
	w.pass(6 * time.Minute)
	old, err := remote.Get(up.ref("library/debian@" + first))
	require.NoError(t, err)
	require.NoError(t, remote.Tag(up.ref("library/debian:12").Context().Tag("12"), old))
	up.forget()
	require.Equal(t, first, w.pulled("mirror/hub/library/debian:12").Digest.String())
	require.Zero(t, up.count("GET /v2/library"))

	t.Run("gone", func(t *testing.T) {
		w.pass(6 * time.Minute)
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(http.StatusNotFound)
			return true
		})
		_, err := w.get("mirror/hub/library/debian:12")
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
		require.ErrorContains(t, err, "any more")
		require.ErrorContains(t, err, "@"+first)
	})
}

func TestUpstreamFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*elsewhere){
		"closed":       func(up *elsewhere) { up.Close() },
		"500":          func(up *elsewhere) { up.down(http.StatusInternalServerError) },
		"rate limit":   func(up *elsewhere) { up.down(http.StatusTooManyRequests) },
		"unauthorized": func(up *elsewhere) { up.down(http.StatusUnauthorized) },
		"slow": func(up *elsewhere) {
			up.answer(func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
		},
		"hangs up": func(up *elsewhere) {
			up.answer(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
		},
		"blobs break off": func(up *elsewhere) {
			up.push("library/debian:12", image(t))
			up.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				w.Header().Set("Content-Length", "4096")
				_, _ = w.Write([]byte("half"))
				return true
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up, w := mirrored(t)
			digest := up.push("library/debian:12", image(t))
			up.push("library/unseen:1", image(t))
			w.pulled("mirror/hub/library/debian:12")
			w.pass(time.Hour)
			fail(up)

			got := w.pulled("mirror/hub/library/debian:12")
			require.Equal(t, digest, got.Digest.String())
			require.True(t, got.Stale)
			require.False(t, w.pulled("mirror/hub/library/debian@"+digest).Stale, "a digest is never stale")

			_, err := w.get("mirror/hub/library/unseen:1")
			require.ErrorContains(t, err, "hub ("+up.URL+")", "it says who")
			require.Contains(t, []artifact.Kind{artifact.Unavailable, artifact.Denied}, artifact.KindOf(err))

			up.answer(nil)
			if name != "closed" {
				w.pass(time.Minute)
				require.False(t, w.pulled("mirror/hub/library/debian:12").Stale)
				w.pulled("mirror/hub/library/unseen:1")
			}
		})
	}
}

// TestDown: who does not answer is left alone for a moment, so that nobody waits for it again and again.
func TestDown(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	up.push("library/debian:12", image(t))
	w.pulled("mirror/hub/library/debian:12")
	w.pass(time.Hour)
	up.down(http.StatusServiceUnavailable)
	require.True(t, w.pulled("mirror/hub/library/debian:12").Stale)
	up.forget()
	for range 10 {
		require.True(t, w.pulled("mirror/hub/library/debian:12").Stale)
	}
	require.Zero(t, up.count(""))
}

func TestDenied(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	img := image(t)
	digest := up.push("library/bad:1", img)
	w.deny(digest)
	for range 3 {
		_, err := w.get("mirror/hub/library/bad:1")
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
		require.ErrorContains(t, err, "no-root-user: it runs as root")
		require.ErrorContains(t, err, "no-sshd: it has an sshd", "every reason")
		_, err = w.get("mirror/hub/library/bad@" + digest)
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
	}
	require.Equal(t, 1, up.count("GET /v2/library/bad/manifests/"), "a denial holds for a moment")

	// Nothing of it is served, nor taken over by way of a mount.
	ctx := t.Context()
	m, err := img.Manifest()
	require.NoError(t, err)
	repository := reference(t, "mirror/hub/library/bad:1").Repository
	for _, d := range append(m.Layers, m.Config) {
		blob := artifact.MustDigest(d.Digest.String())
		_, err := w.images.StatBlob(ctx, reader, repository, blob)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
		mounted, err := w.images.Mount(ctx, admin, reference(t, "shop/x:1").Repository, repository, blob)
		require.NoError(t, err)
		require.False(t, mounted)
	}
	tags, err := w.db.Tags(ctx, repository)
	require.NoError(t, err)
	require.Empty(t, tags)

	// A policy that allows it is asked when the moment has passed, and what came already is not fetched again.
	w.mu.Lock()
	clear(w.denied)
	w.mu.Unlock()
	w.pass(time.Minute)
	up.forget()
	w.pulled("mirror/hub/library/bad:1")
	require.Zero(t, up.count("GET /v2/library/bad/blobs/"))
}

// TestWrongBytes: what is not of its digest is refused, and nothing of it kept.
func TestWrongBytes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ path, with string }{
		"manifest":    {"/manifests/sha256:", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`},
		"blob":        {"/blobs/", strings.Repeat("x", 4<<10)},
		"longer blob": {"/blobs/", strings.Repeat("x", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up, w := mirrored(t)
			digest := up.push("library/debian:12", image(t, layer(4<<10)))
			up.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, c.path) {
					return false
				}
				w.Header().Set("Content-Type", artifact.MediaTypeManifest)
				_, _ = w.Write([]byte(c.with))
				return true
			})
			for _, ref := range []string{"mirror/hub/library/debian:12", "mirror/hub/library/debian@" + digest} {
				_, err := w.get(ref)
				require.Equal(t, artifact.Unavailable, artifact.KindOf(err), err)
				require.ErrorContains(t, err, "hub (")
			}
			_, err := w.db.Manifest(t.Context(), reference(t, "mirror/hub/library/debian:12").Repository, artifact.MustDigest(digest))
			require.Equal(t, artifact.NotFound, artifact.KindOf(err))
			up.answer(nil)
			// A fetch of the other blob, begun before, may still be under way, and whoever comes meanwhile joins it.
			require.Eventually(t, func() bool { _, err := w.get("mirror/hub/library/debian:12"); return err == nil }, time.Minute, 20*time.Millisecond)
			w.pulled("mirror/hub/library/debian:12")
		})
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	up.push("library/debian:12", image(t))
	up.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", artifact.MediaTypeManifest)
		for range 1000 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return true
			}
		}
		return true
	})
	_, err := w.get("mirror/hub/library/debian:12")
	require.ErrorContains(t, err, "more than 4194304 bytes")
}

// TestReadOnly: nobody but Waybill itself writes below mirror/.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	digest := up.push("library/debian:12", image(t))
	got := w.pulled("mirror/hub/library/debian:12")
	ctx, ref := t.Context(), reference(t, "mirror/hub/library/debian@"+digest)
	_, start := w.images.StartUpload(ctx, admin, ref.Repository)
	_, put := w.images.PutBlob(ctx, admin, ref.Repository, strings.NewReader(""), artifact.DigestOf(nil))
	_, manifest := w.images.PutManifest(ctx, admin, ref, got.Manifest.MediaType, got.Body, nil)
	_, mount := w.images.Mount(ctx, admin, reference(t, "mirror/gone/x:1").Repository, ref.Repository, got.Manifest.Layers[0].Digest)
	for _, err := range []error{start, put, manifest, mount, w.images.DeleteManifest(ctx, admin, ref), w.images.DeleteBlob(ctx, admin, ref.Repository, got.Manifest.Layers[0].Digest)} {
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
		require.ErrorContains(t, err, "read-only")
	}
	// A stranger and a deployer set off nothing.
	up.push("library/debian:13", image(t))
	up.forget()
	production, err := artifact.ParseEnvironment("production")
	require.NoError(t, err)
	for _, p := range []artifact.Principal{{Name: "token:x", Role: artifact.Reader, Repositories: []string{"shop/**"}}, {Name: "token:d", Role: artifact.Deployer, Environments: []artifact.Environment{production}}} {
		_, err := w.images.GetManifest(ctx, p, reference(t, "mirror/hub/library/debian:13"))
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
	}
	// Names that mean something here are not asked for there.
	for _, tag := range []string{"production", "sha256-" + strings.Repeat("a", 64) + ".sig"} {
		_, err := w.get("mirror/hub/library/debian:" + tag)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
	require.Zero(t, up.count(""))
}

// TestSharedLayers: a blob that another repository of the mirror has is not fetched again, if this one has it upstream.
func TestSharedLayers(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	base := layer(64 << 10)
	up.push("library/debian:12", image(t, base))
	up.push("library/python:3", image(t, base, layer(4<<10)))
	w.pulled("mirror/hub/library/debian:12")
	up.forget()
	w.pulled("mirror/hub/library/python:3")
	require.Zero(t, up.count("GET /v2/library/python/blobs/"+digestOf(t, base)))
	require.Equal(t, 1, up.count("HEAD /v2/library/python/blobs/"+digestOf(t, base)))
}

// TestSignsIn: the password is sent where the configuration says and is in no error.
func TestSignsIn(t *testing.T) {
	t.Parallel()
	up := newElsewhere(t)
	up.push("library/debian:12", image(t))
	up.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, password, ok := r.BasicAuth(); ok && password == "s3cret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	path := filepath.Join(t.TempDir(), "password")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	w := newWorld(t, mirror.Source{Remote: mirror.Remote{Name: "hub", URL: up.URL, Insecure: true, Username: "u",
		Password: func() (string, error) { b, err := os.ReadFile(path); return string(b), err }}, TTL: time.Minute})
	write("wr0ng")
	_, err := w.get("mirror/hub/library/debian:12")
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
	require.NotContains(t, err.Error(), "wr0ng")
	write("s3cret") // taken up without a restart
	w.pulled("mirror/hub/library/debian:12")
}

// TestNotInTheClear: an address that says https:// is never spoken to without, whatever network it is in.
func TestNotInTheClear(t *testing.T) {
	t.Parallel()
	var asked bool
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()
	w := newWorld(t, mirror.Source{Remote: mirror.Remote{Name: "hub", URL: strings.Replace(plain.URL, "http://", "https://", 1)}, TTL: time.Minute})
	_, err := w.get("mirror/hub/library/debian:12")
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
	require.False(t, asked)
}

// TestGoneAway: a client that gives up does not end the fetch, which the next one finds done.
func TestGoneAway(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	digest := up.push("library/debian:12", image(t))
	asked, release := make(chan struct{}, 10), make(chan struct{})
	up.answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			<-release
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := w.images.GetManifest(ctx, reader, reference(t, "mirror/hub/library/debian:12"))
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	require.Equal(t, digest, w.pulled("mirror/hub/library/debian:12").Digest.String())
	require.Equal(t, 1, up.count("GET /v2/library/debian/manifests/"))
}

// TestArtifacts: what is no image is mirrored too.
func TestArtifacts(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	img, err := random.Image(1024, 1)
	require.NoError(t, err)
	chart := mutate.ConfigMediaType(mutate.MediaType(img, artifact.MediaTypeManifest), "application/vnd.cncf.helm.config.v1+json")
	up.push("charts/redis:1.0.0", chart)
	w.pulled("mirror/hub/charts/redis:1.0.0")
}

// TestRepairs: what was found damaged of a mirror is fetched again by whoever pulls it next, once, since nobody may push it there;
// and only what a manifest here names.
func TestRepairs(t *testing.T) {
	t.Parallel()
	up, w := mirrored(t)
	base := layer(64 << 10)
	up.push("library/debian:12", image(t, base))
	w.pulled("mirror/hub/library/debian:12")
	repository := reference(t, "mirror/hub/library/debian:12").Repository
	digest, err := artifact.ParseDigest(digestOf(t, base))
	require.NoError(t, err)
	require.NoError(t, w.db.QuarantineBlob(t.Context(), digest))
	require.NoError(t, w.bytes.SetAside(digest))
	require.NoError(t, w.bytes.Quarantine(digest))

	up.forget()
	up.down(http.StatusBadGateway)
	_, _, err = w.images.OpenBlob(t.Context(), reader, repository, digest)
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err), "%v", err)
	up.answer(nil)
	w.pass(time.Minute)
	up.forget()
	var pulling sync.WaitGroup
	for range 20 {
		pulling.Go(func() {
			file, size, err := w.images.OpenBlob(t.Context(), reader, repository, digest)
			if assert.NoError(t, err) {
				assert.Equal(t, int64(64<<10), size)
				assert.NoError(t, file.Close())
			}
		})
	}
	pulling.Wait()
	require.Equal(t, 1, up.count("GET /v2/library/debian/blobs/"+digest.String()))

	up.forget()
	_, _, err = w.images.OpenBlob(t.Context(), reader, repository, artifact.DigestOf([]byte("that no manifest names")))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	require.Zero(t, up.count(""))
}
