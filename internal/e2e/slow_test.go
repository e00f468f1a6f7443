package e2e

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// slowConfig has the server wait for a second, where it would wait for a minute.
const slowConfig = "http: {headerTimeout: 1s, idleTimeout: 1s, stallTimeout: 1s, minimumRate: 512Ki}\nregistry: {gcGrace: 1s}\n"

// bounded is how long a slow client may be held: the timeouts above, and the slowness of a busy machine.
const bounded = 20 * time.Second

// slowServer is a server, and what a slow client of it needs.
type slowServer struct {
	*waybillServer
	pusher string
	big    artifact.Digest // a blob that no socket buffer holds
}

func newSlowServer(t *testing.T) *slowServer {
	t.Helper()
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte(slowConfig), 0o600))
	s := &slowServer{waybillServer: serve(t, "--config", config)}
	s.pusher = s.token("--role", "pusher")
	content := noise(64 << 20)
	s.big = artifact.DigestOf([]byte(content))
	resp, body := s.put(http.MethodPost, s.pusher, "/v2/shop/slow/blobs/uploads/?digest="+s.big.String(), "", content)
	require.Equal(t, http.StatusCreated, resp.StatusCode, body)
	return s
}

// upload begins an upload and returns its path.
func (s *slowServer) upload() string {
	s.t.Helper()
	resp, body := s.put(http.MethodPost, s.pusher, "/v2/shop/slow/blobs/uploads/", "", "")
	require.Equal(s.t, http.StatusAccepted, resp.StatusCode, body)
	return resp.Header.Get("Location")
}

// offset asks how far an upload is; -1 when there is none.
func (s *slowServer) offset(path string) int64 {
	s.t.Helper()
	resp, _ := s.put(http.MethodGet, s.pusher, path, "", "")
	if resp.StatusCode == http.StatusNotFound {
		return -1
	}
	require.Equal(s.t, http.StatusNoContent, resp.StatusCode)
	_, last, _ := strings.Cut(resp.Header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	require.NoError(s.t, err)
	if n > 0 {
		n++ // "0-0" says nothing yet, or one byte; nobody here sends one
	}
	return n
}

// dial connects and sends a request's header, and so much of a body.
func (s *slowServer) dial(method, path, header, body string) *net.TCPConn {
	s.t.Helper()
	return s.dialAs(s.pusher, method, path, header, body)
}

func (s *slowServer) dialAs(token, method, path, header, body string) *net.TCPConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.host)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	auth := base64.StdEncoding.EncodeToString([]byte("x:" + token))
	_, err = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\n%s\r\n%s", method, path, s.host, auth, header, body)
	require.NoError(s.t, err)
	return c.(*net.TCPConn)
}

// answer reads what comes until the server closes: the first answer's status, 0 for none.
func answer(c net.Conn) (status int, err error) {
	_ = c.SetReadDeadline(time.Now().Add(bounded))
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err == nil {
		status = resp.StatusCode
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return status, fmt.Errorf("the connection is open after %v", bounded)
	}
	return status, nil
}

// drip sends a byte a second until it is told to stop, or nobody takes it.
func drip(c net.Conn) (stop func()) {
	tick, done := time.NewTicker(time.Second/4), make(chan struct{})
	go func() {
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

const (
	partSize  = 300_000
	wholeSize = 900_000
)

var (
	part  = strings.Repeat("a", partSize)
	whole = strings.Repeat("a", wholeSize)
)

// slowClient is one way to be slow or broken.
type slowClient struct {
	name string
	// run does it on a connection of its own, to an upload of its own, and reports the status that came, 0 for none.
	run func(s *slowServer, upload string) (int, error)
	// status is what must come; offset is where the upload is then, -1 where it is gone.
	status int
	offset int64
}

// of makes a request with a body that does not end as announced, and waits for the end.
func of(method, header, body string) func(*slowServer, string) (int, error) {
	return func(s *slowServer, upload string) (int, error) { return answer(s.dial(method, upload, header, body)) }
}

// vanishing makes a request, waits until it is being worked on, and cuts the line: by a reset, or half of it.
func vanishing(method, header, body string, cut func(*net.TCPConn) error) func(*slowServer, string) (int, error) {
	return func(s *slowServer, upload string) (int, error) {
		c := s.dial(method, upload, header, body)
		if err := cut(c); err != nil {
			return 0, err
		}
		return answer(c)
	}
}

func reset(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() }
func half(c *net.TCPConn) error  { return c.CloseWrite() }

// dripping sends a body slowly.
func dripping(method, header string) func(*slowServer, string) (int, error) {
	return func(s *slowServer, upload string) (int, error) {
		c := s.dial(method, upload, header, part)
		defer drip(c)()
		return answer(c)
	}
}

func length(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }

const chunked = "Transfer-Encoding: chunked\r\n"

var slowClients = []slowClient{
	{"a header that never ends", func(s *slowServer, _ string) (int, error) {
		c, err := net.Dial("tcp", s.host)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET /v2/ HTTP/1.1\r\nX-Slow: ")
		defer drip(c)()
		return answer(c)
	}, 0, 0},
	{"a connection that says nothing", func(s *slowServer, _ string) (int, error) {
		c, err := net.Dial("tcp", s.host)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		return answer(c)
	}, 0, 0},
	{"a PATCH that stalls", of(http.MethodPatch, length(wholeSize), part), http.StatusRequestTimeout, partSize},
	{"a PUT that stalls", func(s *slowServer, upload string) (int, error) {
		return answer(s.dial(http.MethodPut, upload+"?digest="+artifact.DigestOf([]byte(whole)).String(), length(wholeSize), part))
	}, http.StatusRequestTimeout, partSize},
	{"a POST of a whole blob that stalls", func(s *slowServer, _ string) (int, error) {
		return answer(s.dial(http.MethodPost, "/v2/shop/slow/blobs/uploads/?digest="+artifact.DigestOf([]byte(whole)).String(), length(wholeSize), part))
	}, http.StatusRequestTimeout, 0},
	{"a manifest that stalls", func(s *slowServer, _ string) (int, error) {
		return answer(s.dial(http.MethodPut, "/v2/shop/slow/manifests/v1", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n"+length(5000), "{"))
	}, http.StatusRequestTimeout, 0},
	{"an API request that is refused, and stalls", func(s *slowServer, _ string) (int, error) {
		return answer(s.dial(http.MethodPost, "/api/v1/promotions", "Content-Type: application/json\r\n"+length(5000), "{"))
	}, http.StatusForbidden, 0},
	{"an API request that stalls", func(s *slowServer, _ string) (int, error) {
		return answer(s.dialAs(s.admin(), http.MethodPost, "/api/v1/promotions", "Content-Type: application/json\r\n"+length(5000), "{"))
	}, http.StatusRequestTimeout, 0},
	{"a refused body that never comes", func(s *slowServer, _ string) (int, error) {
		return answer(s.dial(http.MethodPatch, "/v2/shop/slow/blobs/uploads/none", length(5000), ""))
	}, http.StatusNotFound, 0},
	{"a PATCH below the least rate", dripping(http.MethodPatch, length(wholeSize)), http.StatusRequestTimeout, -2},
	{"chunks that stall", of(http.MethodPatch, chunked, fmt.Sprintf("%x\r\n%s\r\n", partSize, part)), http.StatusRequestTimeout, partSize},
	{"chunks that are none", of(http.MethodPatch, chunked, fmt.Sprintf("%x\r\n%s\r\nzz\r\n", partSize, part)), http.StatusBadRequest, partSize},
	{"a body shorter than its length", vanishing(http.MethodPatch, length(wholeSize), part, half), http.StatusBadRequest, partSize},
	{"a body longer than its length", of(http.MethodPatch, length(partSize), whole), http.StatusAccepted, partSize},
	{"a body shorter than its range", of(http.MethodPatch, fmt.Sprintf("Content-Range: 0-%d\r\n", wholeSize-1)+length(partSize), part), http.StatusBadRequest, partSize},
	{"a body longer than its range", of(http.MethodPatch, fmt.Sprintf("Content-Range: 0-%d\r\n", partSize-1)+length(wholeSize), whole), http.StatusBadRequest, partSize},
	{"a range that begins elsewhere", of(http.MethodPatch, "Content-Range: 7-"+strconv.Itoa(6+partSize)+"\r\n"+length(partSize), part), http.StatusRequestedRangeNotSatisfiable, 0},
	{"a range that ends before it begins", of(http.MethodPatch, "Content-Range: 9-3\r\n"+length(partSize), part), http.StatusRequestedRangeNotSatisfiable, 0},
	{"a PATCH that is cut off", vanishing(http.MethodPatch, length(wholeSize), part, reset), 0, -2},
	{"a PUT that is cut off", vanishing(http.MethodPut, length(wholeSize), part, reset), 0, -2},
	{"a POST that is cut off", func(s *slowServer, _ string) (int, error) {
		c := s.dial(http.MethodPost, "/v2/shop/slow/blobs/uploads/?digest="+artifact.DigestOf([]byte(whole)).String(), length(wholeSize), part)
		return 0, reset(c)
	}, 0, 0},
	{"a manifest that is cut off", func(s *slowServer, _ string) (int, error) {
		return 0, reset(s.dial(http.MethodPut, "/v2/shop/slow/manifests/v1", length(5000), "{"))
	}, 0, 0},
	{"a big blob that nobody reads", func(s *slowServer, _ string) (int, error) {
		c := s.dial(http.MethodGet, "/v2/shop/slow/blobs/"+s.big.String(), "", "")
		_, err := io.ReadFull(c, make([]byte, 1000)) // it comes, and there is no more that the client wants
		return 0, err
	}, 0, 0},
}

// TestSlowClients: each way to be slow or broken, some at once. The server ends each in bounded time with the right
// answer, keeps what came where resuming finds it, and holds nothing afterwards: no lock, file, goroutine or connection.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const at = 25
	s := newSlowServer(t)
	before := s.held()
	for _, client := range slowClients {
		uploads := make([]string, at)
		for i := range uploads {
			uploads[i] = s.upload()
		}
		statuses, failed := make([]int, at), make([]error, at)
		var work sync.WaitGroup
		for i := range at {
			work.Go(func() { statuses[i], failed[i] = client.run(s, uploads[i]) })
		}
		work.Wait()
		for i, upload := range uploads {
			require.NoError(t, failed[i], client.name)
			require.Equal(t, client.status, statuses[i], client.name)
			s.resumes(client, upload)
		}
		var now holding
		require.Eventually(t, func() bool { now = s.held(); return now.within(before) }, time.Minute, 100*time.Millisecond,
			"after %s it holds %+v, before %+v", client.name, &now, before)
	}
	entries, err := os.ReadDir(filepath.Join(s.data, "blobs", "uploads"))
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left of what was cut off, resumed or cancelled")
}

// resumes: a second client goes on from where the bytes are, at once, and a third way is to give up.
func (s *slowServer) resumes(client slowClient, upload string) {
	s.t.Helper()
	at := s.offset(upload)
	if client.status == 0 { // nobody was told that it ended: what it holds is taken over
		s.await("the upload's offset to be known", func() bool {
			resp, _ := s.put(http.MethodPatch, s.pusher, upload, "", "")
			return resp.StatusCode == http.StatusAccepted
		})
		at = s.offset(upload)
	}
	if client.offset != -2 {
		require.Equal(s.t, client.offset, at, client.name)
	}
	require.LessOrEqual(s.t, at, int64(wholeSize), client.name)
	content := whole
	if strings.Contains(client.name, "least rate") {
		content = part + strings.Repeat("x", wholeSize-partSize)
	}
	digest := artifact.DigestOf([]byte(content)).String()
	resp, body := s.put(http.MethodPut, s.pusher, upload+"?digest="+digest, "application/octet-stream", content[at:])
	require.Equal(s.t, http.StatusCreated, resp.StatusCode, "%s, resumed at %d: %s", client.name, at, body)
}

// TestUploadTakenOver: a client vanishes without a word, and its upload is cancelled, or gone on with, while the server
// still waits for it.
func TestUploadTakenOver(t *testing.T) {
	t.Parallel()
	s := serve(t) // with the timeouts that it has by itself
	slow := &slowServer{waybillServer: s, pusher: s.token("--role", "pusher")}
	other := s.token("--role", "pusher")

	upload := slow.upload()
	c := slow.dial(http.MethodPatch, upload, length(wholeSize), part)
	slow.arrives(upload, partSize)
	resp, _ := s.put(http.MethodDelete, other, upload, "", "")
	require.Equal(t, http.StatusNotFound, resp.StatusCode, "an upload of somebody else's")
	resp, _ = s.put(http.MethodPatch, slow.pusher, upload, "", "more")
	require.Equal(t, http.StatusConflict, resp.StatusCode, "bytes came just now")
	begun := time.Now()
	resp, body := s.put(http.MethodDelete, slow.pusher, upload, "", "")
	require.Equal(t, http.StatusNoContent, resp.StatusCode, body)
	require.Less(t, time.Since(begun), 10*time.Second, "at once")
	status, err := answer(c)
	require.NoError(t, err)
	require.Equal(t, http.StatusConflict, status)
	require.EqualValues(t, -1, slow.offset(upload))

	upload = slow.upload()
	slow.dial(http.MethodPatch, upload, length(wholeSize), part)
	slow.arrives(upload, partSize)
	s.await("the upload to be given up to who goes on with it", func() bool {
		resp, _ := s.put(http.MethodPatch, slow.pusher, upload, "", "")
		return resp.StatusCode == http.StatusAccepted
	})
	require.EqualValues(t, partSize, slow.offset(upload))
	resp, body = s.put(http.MethodPut, slow.pusher, upload+"?digest="+artifact.DigestOf([]byte(whole)).String(), "", whole[partSize:])
	require.Equal(t, http.StatusCreated, resp.StatusCode, body)
}

// arrives waits until a whole buffer of an upload is on the disk.
func (s *slowServer) arrives(upload string, n int64) {
	s.t.Helper()
	file := filepath.Join(s.data, "blobs", "uploads", filepath.Base(upload))
	s.await("bytes of the upload", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() >= n/(128<<10)*(128<<10)
	})
}

// TestUploadsExpire: what nobody goes on with goes, row and file; what somebody goes on with stays.
func TestUploadsExpire(t *testing.T) {
	t.Parallel()
	s := newSlowServer(t)
	admin := s.admin()
	abandonedUpload := s.upload()
	resp, _ := s.put(http.MethodPatch, s.pusher, abandonedUpload, "", part)
	require.Equal(t, http.StatusAccepted, resp.StatusCode)
	empty := s.upload()
	file := filepath.Join(s.data, "blobs", "uploads", filepath.Base(abandonedUpload))
	require.FileExists(t, file)
	s.await("the uploads' end", func() bool {
		s.waybill(admin, "gc")
		return s.offset(abandonedUpload) == -1 && s.offset(empty) == -1
	})
	require.NoFileExists(t, file)
	resp, body := s.put(http.MethodPatch, s.pusher, abandonedUpload, "", part)
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	require.Contains(t, body, "BLOB_UPLOAD_UNKNOWN")
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Empty(t, entries)
}

// holding is what a server holds for clients.
type holding struct{ goroutines, connections, memory, sockets, blobs int }

// within: nothing for clients, and no more for itself than before, but for what jobs need: fewer goroutines than there were
// clients.
func (h holding) within(before holding) bool {
	return h.sockets == 0 && h.blobs == 0 && h.connections <= 1 && h.goroutines <= before.goroutines+20 && h.memory <= before.memory+64
}

var metricLine = regexp.MustCompile(`(?m)^(go_goroutines|waybill_database_connections_in_use) (\d+)`)

// held says what the server holds; nothing of it is for who asks.
func (s *slowServer) held() holding {
	s.t.Helper()
	status, text := s.get(s.admin(), "/metrics")
	http.DefaultClient.CloseIdleConnections()
	require.Equal(s.t, http.StatusOK, status)
	n := map[string]int{}
	for _, m := range metricLine.FindAllStringSubmatch(text, -1) {
		n[m[1]], _ = strconv.Atoi(m[2])
	}
	require.Len(s.t, n, 2, text)
	h := holding{goroutines: n["go_goroutines"], connections: n["waybill_database_connections_in_use"]}
	h.memory = memoryOf(s.t, s.cmd.Process.Pid).resident
	clients := s.clients()
	folder := fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid)
	open, err := os.ReadDir(folder)
	require.NoError(s.t, err)
	for _, fd := range open {
		to, _ := os.Readlink(filepath.Join(folder, fd.Name())) // it may be closed by now
		switch {
		case clients[to]:
			h.sockets++
		case strings.HasPrefix(to, filepath.Join(s.data, "blobs")):
			h.blobs++
		}
	}
	return h
}

// clients are the sockets of connections to the server, as links in /proc name them.
func (s *slowServer) clients() map[string]bool {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.host)
	number, err := strconv.Atoi(port)
	require.NoError(s.t, err)
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(s.t, err)
	const listening = "0A"
	all := map[string]bool{}
	for _, line := range strings.Split(string(table), "\n") {
		// proc(5): number, local address, remote address, state, queues, timer, retransmits, user, timeout, inode
		if f := strings.Fields(line); len(f) > 9 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) && f[3] != listening {
			all["socket:["+f[9]+"]"] = true
		}
	}
	return all
}
