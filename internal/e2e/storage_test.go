package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

// TestCollectionKilled: collections run without a pause, images of shared layers are pushed and deleted, and the server is
// killed again and again. Every image that was acknowledged is there, whole; nothing else is, in the end.
func TestCollectionKilled(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("registry: {gcGrace: 1s}\n"), 0o600))
	s := serve(t, "--config", config)
	admin := s.admin()
	layers := make([]v1.Layer, 6)
	for i := range layers {
		layers[i] = files(t, map[string]string{"layer": fmt.Sprint(i), "noise": noise(100 << 10)})
	}
	var mu sync.Mutex
	kept := map[string]string{} // reference: digest
	for round := range 4 {
		var work sync.WaitGroup
		var stop atomic.Bool
		begun := make(chan struct{}, 1000)
		for worker := range 3 {
			work.Go(func() {
				for i := 0; !stop.Load(); i++ {
					ref := fmt.Sprintf("shop/w%d:r%d-%d", worker%2, round, i*3+worker)
					img := configured(t, "1000", layers[(i+worker)%6], layers[(i+2*worker+1)%6], files(t, map[string]string{"app": ref}))
					d, err := img.Digest()
					require.NoError(t, err)
					if s.push(admin, ref, img) != nil {
						continue
					}
					begun <- struct{}{}
					if i%4 > 0 {
						s.delete(admin, ref, d.String())
						continue
					}
					mu.Lock()
					kept[ref] = d.String()
					mu.Unlock()
				}
			})
		}
		work.Go(func() {
			for !stop.Load() {
				s.waybill(admin, "gc")
			}
		})
		for range 6 + 3*round {
			<-begun
		}
		s.stop(syscall.SIGKILL)
		stop.Store(true)
		work.Wait()
		s.start(s.host)
	}
	require.NotEmpty(t, kept)
	for ref, digest := range kept {
		require.Equal(t, digest, s.current(admin, ref))
		parsed, err := name.ParseReference(s.host + "/" + ref)
		require.NoError(t, err)
		img, err := remote.Image(parsed, s.auth(admin))
		require.NoError(t, err)
		require.NoError(t, validate.Image(img), ref)
	}
	s.await("a collection of all that was left", func() bool {
		s.ok(admin, "gc")
		out, _, code := s.waybill(admin, "fsck")
		return code == 0 && strings.Contains(out, "read ")
	})
	t.Logf("%d images kept\n%s%s", len(kept), s.ok(admin, "gc", "--dry-run"), s.ok(admin, "fsck"))
}

// delete deletes a manifest; a server that was killed just now does not answer.
func (s *waybillServer) delete(token, ref, digest string) {
	repository, _, _ := strings.Cut(ref, ":")
	req, err := http.NewRequest(http.MethodDelete, s.url+"/v2/"+repository+"/manifests/"+digest, nil)
	require.NoError(s.t, err)
	req.SetBasicAuth("x", token)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
}

// TestRotAndRepair: a bit rots on disk. fsck finds it, nobody is served it, and a push repairs it.
func TestRotAndRepair(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	layer := files(t, map[string]string{"app": noise(10 << 10)})
	img := configured(t, "1000", layer)
	s.pushed(pusher, "shop/rot:v1", img)
	require.Contains(t, s.ok(admin, "fsck"), "read ")
	_, stderr, code := s.waybill(pusher, "fsck")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "may not manage")

	d, err := layer.Digest()
	require.NoError(t, err)
	path := filepath.Join(s.data, "blobs", "sha256", d.Hex[:2], d.Hex)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	content[len(content)/2] ^= 1
	require.NoError(t, os.WriteFile(path, content, 0o600))

	out, stderr, code := s.waybill(admin, "fsck", "--quarantine")
	require.Equal(t, 1, code)
	require.Contains(t, out, d.String())
	require.Contains(t, out, "shop/rot")
	require.Contains(t, stderr, "something is wrong with 1 blob")
	require.FileExists(t, filepath.Join(s.data, "blobs", "quarantine", "sha256-"+d.Hex))
	s.await("the news", func() bool { status, _ := s.get(pusher, "/v2/shop/rot/blobs/"+d.String()); return status == 404 })
	_, body := s.get(pusher, "/v2/shop/rot/blobs/"+d.String())
	require.Contains(t, body, "push it again to repair it")

	s.pushed(pusher, "shop/rot:again", img) // this client leaves out an image whose tag stands where it should
	status, body := s.get(pusher, "/v2/shop/rot/blobs/"+d.String())
	require.Equal(t, 200, status)
	compressed, err := layer.Compressed()
	require.NoError(t, err)
	want, err := io.ReadAll(compressed)
	require.NoError(t, err)
	require.Equal(t, string(want), body)
	s.ok(admin, "fsck")
}
