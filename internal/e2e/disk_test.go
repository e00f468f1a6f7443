package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// onDisk starts a server whose folder sub, below its data, is a small disk of its own. The disk is in a mount namespace, so
// it goes with the server, however that ends.
func onDisk(t *testing.T, sub, size string, args ...string) *disk {
	t.Helper()
	via := []string{"unshare", "--mount", "--propagation", "private"}
	if os.Getuid() != 0 {
		via = []string{"unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--propagation", "private"}
	}
	if out, err := exec.Command(via[0], append(via[1:], "true")...).CombinedOutput(); err != nil {
		t.Fatalf("this test needs a mount namespace, as root or in a user namespace: %v: %s", err, out)
	}
	via = append(via, "sh", "-ec", `mkdir -p -m 711 "$0" && mkdir -p -m 700 "$0/`+sub+`" && mount -t tmpfs -o mode=700,size=`+size+` waybill-test "$0/`+sub+`" && exec "$@"`)
	s := serveVia(t, via, args...)
	return &disk{waybillServer: s, folder: filepath.Join(s.data, sub)}
}

// disk is a server, and the small disk that one of its folders is.
type disk struct {
	*waybillServer
	folder string
}

// outside is how a path of the server's is called from here.
func (d *disk) outside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", d.cmd.Process.Pid, path)
}

// fill takes all room there is but so many bytes, and returns how to give it back.
func (d *disk) fill(but int64) (free func()) {
	d.t.Helper()
	path := d.outside(filepath.Join(d.folder, "filler"))
	f, err := os.Create(path)
	require.NoError(d.t, err)
	block := make([]byte, 1<<16)
	var size int64
	for err == nil {
		var n int
		n, err = f.Write(block)
		size += int64(n)
	}
	require.ErrorContains(d.t, err, "no space left")
	require.NoError(d.t, f.Truncate(max(0, size-but)))
	require.NoError(d.t, f.Close())
	return func() { require.NoError(d.t, os.Remove(path)) }
}

// remount makes the disk read-only (ro), or writable (rw).
func (d *disk) remount(how string) {
	d.t.Helper()
	enter := []string{"--target", strconv.Itoa(d.cmd.Process.Pid), "--mount"}
	if os.Getuid() != 0 {
		enter = append(enter, "--user", "--preserve-credentials")
	}
	must(d.t, "nsenter", append(enter, "mount", "-o", "remount,"+how, d.folder)...)
}

func (d *disk) ready() (int, string) { d.t.Helper(); return d.get("", "/readyz") }

// put sends a body and returns what is answered.
func (s *waybillServer) put(method, token, path, contentType, body string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	req.SetBasicAuth("x", token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp, string(b)
}

// uploads lists what is under way on the disk.
func (d *disk) uploads() []os.DirEntry {
	d.t.Helper()
	entries, err := os.ReadDir(d.outside(filepath.Join(d.folder, "uploads")))
	require.NoError(d.t, err)
	return entries
}

// whole pulls an image, every byte.
func (s *waybillServer) whole(token, ref, digest string) {
	s.t.Helper()
	parsed, err := name.ParseReference(s.host + "/" + ref)
	require.NoError(s.t, err)
	img, err := remote.Image(parsed, s.auth(token))
	require.NoError(s.t, err)
	require.NoError(s.t, validate.Image(img))
	got, err := img.Digest()
	require.NoError(s.t, err)
	require.Equal(s.t, digest, got.String())
}

// TestDiskFull: the blobs' disk is full. What does not fit is refused, whichever way it comes, and leaves nothing; what
// is there is pulled; and when there is room again, all goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := onDisk(t, "blobs", "24m")
	pusher := s.token("--role", "pusher")
	digest := s.pushed(pusher, "shop/a:v1", configured(t, "1000", files(t, map[string]string{"a": noise(1 << 20)})))
	s.signed(pusher, "shop/a@"+digest)
	status, body := s.ready()
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ready\n", body)

	free := s.fill(4 << 20)
	content := noise(6 << 20)
	blob := artifact.DigestOf([]byte(content)).String()
	start := func() string {
		resp, _ := s.put(http.MethodPost, pusher, "/v2/shop/a/blobs/uploads/", "", "")
		require.Equal(t, http.StatusAccepted, resp.StatusCode)
		return resp.Header.Get("Location")
	}
	for _, way := range []struct {
		name, method string
		path         func() string
	}{
		{"in one request", http.MethodPost, func() string { return "/v2/shop/a/blobs/uploads/?digest=" + blob }},
		{"in a chunk", http.MethodPatch, start},
		{"with the end", http.MethodPut, func() string { return start() + "?digest=" + blob }},
	} {
		path := way.path()
		resp, body := s.put(way.method, pusher, path, "application/octet-stream", content)
		require.Equal(t, http.StatusInsufficientStorage, resp.StatusCode, "%s: %s", way.name, body)
		require.JSONEq(t, `{"errors": [{"code": "DENIED", "message": "the registry's disk is full; when its operator has made room, push again"}]}`, body, way.name)
		require.Empty(t, s.uploads(), way.name)
		if way.method != http.MethodPost {
			upload, _, _ := strings.Cut(path, "?")
			status, body := s.get(pusher, upload)
			require.Equal(t, http.StatusNotFound, status, "%s: %s", way.name, body)
		}
	}
	require.ErrorContains(t, s.push(pusher, "shop/a:v2", configured(t, "1000", files(t, map[string]string{"a": noise(6 << 20)}))), "disk is full")
	s.whole(pusher, "shop/a:v1", digest)
	s.pushed(pusher, "shop/a:small", configured(t, "1000", files(t, map[string]string{"small": "fits"})))

	free()
	free = s.fill(0)
	status, body = s.ready()
	require.Equal(t, http.StatusOK, status, "pulls go on")
	require.Contains(t, body, "pushes are refused: the registry's disk is full")
	require.ErrorContains(t, s.push(pusher, "shop/a:v2", configured(t, "1000", files(t, map[string]string{"a": noise(6 << 20)}))), "disk is full")
	s.whole(pusher, "shop/a:v1", digest)
	require.Equal(t, digest, s.promotedTo("dev", "a", "v1"), "what needs no room goes on")

	free()
	after := s.pushed(pusher, "shop/a:v2", configured(t, "1000", files(t, map[string]string{"a": content})))
	s.signed(pusher, "shop/a@"+after)
	s.whole(pusher, "shop/a:v2", after)
	_, body = s.ready()
	require.Equal(t, "ready\n", body)
	s.ok(s.admin(), "fsck")
}

// promotedTo promotes and returns what then stands there.
func (s *waybillServer) promotedTo(environment, service, version string) string {
	s.t.Helper()
	var result struct{ Digest string }
	s.json(s.admin(), &result, "promote", service, version, environment)
	return result.Digest
}

// TestDiskReadOnly: the blobs' disk turns read-only under way, as disks with errors do, and is writable again.
func TestDiskReadOnly(t *testing.T) {
	t.Parallel()
	s := onDisk(t, "blobs", "24m")
	pusher := s.token("--role", "pusher")
	digest := s.pushed(pusher, "shop/a:v1", configured(t, "1000", files(t, map[string]string{"a": noise(1 << 20)})))
	s.remount("ro")
	content := noise(10 << 10)
	blob := artifact.DigestOf([]byte(content)).String()
	resp, body := s.put(http.MethodPost, pusher, "/v2/shop/a/blobs/uploads/?digest="+blob, "application/octet-stream", content)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.JSONEq(t, `{"errors": [{"code": "UNAVAILABLE", "message": "the registry's disk is read-only; when its operator has seen to it, push again"}]}`, body)
	resp, _ = s.put(http.MethodPost, pusher, "/v2/shop/a/blobs/uploads/", "", "")
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	upload := resp.Header.Get("Location")
	resp, body = s.put(http.MethodPatch, pusher, upload, "application/octet-stream", content)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Contains(t, body, "read-only")
	status, body := s.ready()
	require.Equal(t, http.StatusOK, status, "pulls go on")
	require.Contains(t, body, "pushes are refused: the registry's disk is read-only")
	s.whole(pusher, "shop/a:v1", digest)

	s.remount("rw")
	_, body = s.ready()
	require.Equal(t, "ready\n", body)
	resp, body = s.put(http.MethodPut, pusher, upload+"?digest="+blob, "application/octet-stream", content)
	require.Equal(t, http.StatusCreated, resp.StatusCode, "an upload goes on where it was: %s", body)
	s.signed(pusher, "shop/a@"+s.pushed(pusher, "shop/a:v2", configured(t, "1000", files(t, map[string]string{"a": "b"}))))
	s.ok(s.admin(), "fsck")
}

// TestDatabaseDiskFull: the disk of the private PostgreSQL is full, until it cannot even write its log and ends. Pulls go
// on while it runs; when there is room it comes back by itself, with all that was acknowledged.
func TestDatabaseDiskFull(t *testing.T) {
	t.Parallel()
	s := onDisk(t, "postgres", "256m")
	pusher := s.token("--role", "pusher")
	small := func(i int) (ref, digest string, err error) {
		img := configured(t, "1000", files(t, map[string]string{"a": strconv.Itoa(i), "noise": noise(1 << 10)}))
		d, err := img.Digest()
		require.NoError(t, err)
		ref = fmt.Sprintf("shop/a:v%d", i)
		return ref, d.String(), s.push(pusher, ref, img)
	}
	acknowledged := map[string]string{}
	free := s.fill(0)
	var refusal error
	for i := 0; i < 300 && refusal == nil; i++ {
		ref, digest, err := small(i)
		if refusal = err; err == nil {
			acknowledged[ref] = digest
		}
	}
	require.ErrorContains(t, refusal, "the database's disk is full; when its operator has made room, try again")
	for ref, digest := range acknowledged {
		s.whole(pusher, ref, digest)
	}

	// Its log is filled too. That it cannot go without, so it ends, and does not start either.
	password, err := os.ReadFile(s.outside(filepath.Join(s.folder, "password")))
	require.NoError(t, err)
	socket := s.outside(filepath.Join(s.folder, "run"))
	write := exec.Command(postgresTool(t, "psql"), "-X", "-h", socket, "-U", "waybill", "-d", "waybill", "-c",
		"select pg_logical_emit_message(false, 'test', repeat(md5(n::text), 100000)) from generate_series(1, 200) n")
	write.Env = append(clean(), "PGPASSWORD="+string(password))
	out, err := write.CombinedOutput()
	require.Error(t, err, "%s", out)
	s.await("PostgreSQL's end to be noticed", func() bool { return strings.Contains(s.log.String(), "PostgreSQL does not start, and is tried again") })
	status, body := s.ready()
	require.Equal(t, http.StatusServiceUnavailable, status, body)
	_, stderr, code := s.waybill(s.admin(), "status")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the database does not answer; try again")

	free()
	s.await("/readyz to be green again", func() bool { status, _ := s.ready(); return status == http.StatusOK })
	for i := range 5 {
		ref, digest, err := small(1000 + i)
		require.NoError(t, err)
		acknowledged[ref] = digest
	}
	for ref, digest := range acknowledged {
		s.whole(pusher, ref, digest)
	}
	s.ok(s.admin(), "fsck")
	require.Contains(t, s.ok(s.admin(), "audit"), "ok")
}
