package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestKilled: kill -9 again and again while images are pushed, signed and promoted. What was acknowledged is there
// afterwards, whole; what was not is not half there; and the ledger holds.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, promoter := s.token("--role", "pusher"), s.token("--role", "promoter")
	type result struct{ tag, digest string }
	var acknowledged, promoted []result
	for round := range 4 {
		var mu sync.Mutex
		var work sync.WaitGroup
		begun := make(chan struct{}, 100)
		for worker := range 3 {
			work.Go(func() {
				for i := range 20 {
					tag := fmt.Sprintf("r%d-%d-%d", round, worker, i)
					img := configured(t, "1000", files(t, map[string]string{"app": tag, "noise": noise(200 << 10)}))
					d, _ := img.Digest()
					if s.push(pusher, "shop/killed:"+tag, img) != nil {
						return
					}
					mu.Lock()
					acknowledged = append(acknowledged, result{tag, d.String()})
					mu.Unlock()
					begun <- struct{}{}
					if _, _, code := s.waybill(promoter, "promote", "killed", tag, "dev"); code == 0 {
						mu.Lock()
						promoted = append(promoted, result{tag, d.String()})
						mu.Unlock()
					}
				}
			})
		}
		for range 3 + 2*round { // each round is killed at another moment
			<-begun
		}
		s.stop(syscall.SIGKILL)
		work.Wait()
		s.start(s.host)
	}
	require.Greater(t, len(acknowledged), 12)
	for _, r := range acknowledged {
		require.Equal(t, r.digest, s.current(pusher, "shop/killed:"+r.tag))
		s.signed(pusher, "shop/killed@"+r.digest)
	}
	var history struct{ Promotions []artifact.Promotion }
	s.json(promoter, &history, "history", "killed")
	digests := map[string]bool{}
	for _, p := range history.Promotions {
		digests[p.Digest.String()] = true
	}
	for _, r := range promoted {
		require.True(t, digests[r.digest], "promotion of %s was acknowledged", r.tag)
	}
	require.Contains(t, s.ok(s.admin(), "audit"), "ok")
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return string(b)
}

// TestRestart: a second start goes on where the first stopped, within two seconds.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	digest := s.pushed(pusher, "shop/a:v1", configured(t, "1", files(t, map[string]string{"a": "b"})))
	key := s.ok(pusher, "key", "public")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		s.stop(sig)
		begun := time.Now()
		s.start(s.host)
		t.Logf("ready %v after %v", time.Since(begun).Round(time.Millisecond), sig)
		require.Equal(t, digest, s.current(pusher, "shop/a:v1"))
		require.Equal(t, key, s.ok(pusher, "key", "public"))
		require.Equal(t, admin, s.admin())
		status, body := s.get("", "/readyz")
		require.Equal(t, 200, status, body)
	}
	_, stderr, code := command(t, "", nil, "waybill", "serve", "--data", s.data, "--listen", "127.0.0.1:0")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "another waybill serve")
}

// TestMemory: a layer of two gigabytes passes through in constant memory, and at rest there is no scanner.
func TestMemory(t *testing.T) {
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	s.onlyNoRoot(admin)

	layer := bigLayer(t, 2<<30)
	started := memoryOf(t, s.cmd.Process.Pid)
	stop, peak := make(chan struct{}), make(chan int, 1)
	go watchScanners(s.cmd.Process.Pid, stop, peak)
	img := configured(t, "1000", layer)
	digest := s.pushed(pusher, "shop/big:v1", img)
	close(stop)
	scannerPeak := <-peak

	diff, err := layer.Digest()
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+"/v2/shop/big/blobs/"+diff.String(), nil)
	require.NoError(t, err)
	req.SetBasicAuth("x", pusher)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Greater(t, n, int64(2<<30))
	require.Equal(t, digest, s.current(pusher, "shop/big:v1"))

	served := memoryOf(t, s.cmd.Process.Pid)
	t.Logf("server at rest: %s\nafter it all: %s\nscanner: %d MiB at its peak", started, served, scannerPeak)
	program, err := os.Stat(filepath.Join(root, "bin", "waybill"))
	require.NoError(t, err)
	require.Less(t, program.Size(), int64(60e6), "what is linked is in memory too; see TestServerStaysSmall of internal/archtest")
	require.Less(t, started.resident, 80, "at rest: %s", started)
	require.Less(t, started.peak, 150, "at the start: %s", started)
	require.Less(t, served.peak, 200, "%s", served)
	require.Positive(t, scannerPeak)
	require.Less(t, scannerPeak, 600)
	require.Empty(t, named(s.cmd.Process.Pid, "waybill-kms"), "the key is in a file")
	s.await("the scanners' end", func() bool { return len(scanners(s.cmd.Process.Pid)) == 0 })
}

// bigLayer writes a tar of one file that does not compress.
func bigLayer(t *testing.T, size int64) v1.Layer {
	t.Helper()
	dir, err := os.MkdirTemp(fixtures, "big")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, "sh", "-c", fmt.Sprintf("cd %s && head -c %d /dev/urandom > blob && tar --owner=0 --group=0 -cf - blob | gzip -1 > layer.tar.gz && rm blob", dir, size))
	layer, err := tarball.LayerFromFile(filepath.Join(dir, "layer.tar.gz"))
	require.NoError(t, err)
	return layer
}

// watchScanners sends the highest resident set of any scanner process.
func watchScanners(server int, stop <-chan struct{}, peak chan<- int) {
	highest := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, pid := range scanners(server) {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for _, line := range strings.Split(string(b), "\n") {
				var kb int
				if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
					highest = max(highest, kb>>10)
				}
			}
		}
		select {
		case <-stop:
			peak <- highest
			return
		case <-tick.C:
		}
	}
}

// scanners lists the scanner processes of a server.
func scanners(server int) []int { return named(server, "waybill-scanner") }

// named lists the processes of a program that a server started.
func named(server int, program string) []int {
	var pids []int
	for _, pid := range children(server) {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == program+"\n" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children lists the processes that a process started and that still run.
func children(of int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
		if err != nil || open < 0 || end < open {
			continue // it ended meanwhile
		}
		parent, _ := strconv.Atoi(strings.Fields(string(b[end+1:]))[1])
		if pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:open]))); parent == of {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestManyPushes: a hundred uploads that are all half done at one moment take little memory.
func TestManyPushes(t *testing.T) {
	t.Parallel()
	const uploads, size = 100, 10 << 20
	s := serve(t)
	pusher := s.token("--role", "pusher")
	content := noise(size)
	digest := artifact.DigestOf([]byte(content))
	rest := memoryOf(t, s.cmd.Process.Pid).resident
	half, whole := make(chan struct{}, uploads), make(chan struct{})
	failed := make(chan error, uploads)
	for i := range uploads {
		go func() { failed <- s.slowly(pusher, fmt.Sprintf("shop/many%d", i), digest, content, half, whole) }()
	}
	for range uploads {
		<-half
	}
	now := memoryOf(t, s.cmd.Process.Pid).resident
	close(whole)
	for range uploads {
		require.NoError(t, <-failed)
	}
	t.Logf("%d MiB at rest, %d MiB with %d uploads half done", rest, now, uploads)
	require.Less(t, now-rest, 64, "MiB")
}

// slowly pushes a blob, and waits in the middle of its body.
func (s *waybillServer) slowly(token, repository string, digest artifact.Digest, content string, half chan<- struct{}, whole <-chan struct{}) error {
	body, in := io.Pipe()
	go func() {
		_, _ = io.WriteString(in, content[:len(content)/2])
		half <- struct{}{}
		<-whole
		_, err := io.WriteString(in, content[len(content)/2:])
		_ = in.CloseWithError(err)
	}()
	r, err := http.NewRequest(http.MethodPost, s.url+"/v2/"+repository+"/blobs/uploads/?digest="+digest.String(), body)
	if err != nil {
		return err
	}
	r.SetBasicAuth("ci", token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}
