package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestSystemCalls watches what the kernel is asked for: a blob's file is durable, and so is its name, before the database
// hears of it and before the client does; and a pull goes from disk to socket without passing through the program.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	content := noise(17 << 20) // smaller ones are not left to sendfile
	digest := artifact.DigestOf([]byte(content))
	request := func(method, path, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.host+path, strings.NewReader(body))
		require.NoError(t, err)
		r.SetBasicAuth("ci", pusher)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		got, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Less(t, answer.StatusCode, 300, "%s", got)
		if method == http.MethodGet {
			require.Equal(t, content, string(got))
		}
	}
	// The first push makes folders, and statements known to the database.
	request(http.MethodPost, "/v2/shop/calls/blobs/uploads/?digest="+artifact.DigestOf([]byte("first")).String(), "first")
	calls := s.trace(func() {
		request(http.MethodPost, "/v2/shop/calls/blobs/uploads/?digest="+digest.String(), content)
		request(http.MethodGet, "/v2/shop/calls/blobs/"+digest.String(), "")
	})
	at := 0
	next := func(what string, is func(string) bool) {
		t.Helper()
		for ; at < len(calls); at++ {
			if is(calls[at]) {
				at++
				return
			}
		}
		t.Fatalf("no %s after what came before it, in\n%s", what, strings.Join(calls, "\n"))
	}
	folder := "/blobs/sha256/" + digest.Hex()[:2]
	first := func(is func(string) bool) int {
		for i, c := range calls {
			if is(c) {
				return i
			}
		}
		return -1
	}
	told := func(c string) bool {
		return strings.Contains(c, "write(") && strings.Contains(c, "UNIX") && strings.Contains(c, digest.Hex())
	}
	next("fsync of the file", func(c string) bool { return strings.Contains(c, "fsync(") && strings.Contains(c, "/uploads/") })
	next("rename to its digest", func(c string) bool { return strings.Contains(c, "rename") && strings.Contains(c, digest.Hex()) })
	next("fsync of the folder", func(c string) bool { return strings.Contains(c, "fsync(") && strings.Contains(c, folder+">") })
	require.GreaterOrEqual(t, first(told), at, "the database was told before the bytes were durable")
	next("row", told)
	next("answer", func(c string) bool { return strings.Contains(c, "TCP") && strings.Contains(c, "HTTP/1.1 201") })
	next("sendfile", func(c string) bool { return strings.Contains(c, "sendfile(") && strings.Contains(c, digest.Hex()) })
}

// trace returns the system calls that the server makes while do runs, in order.
func (s *waybillServer) trace(do func()) []string {
	s.t.Helper()
	out := filepath.Join(s.t.TempDir(), "calls")
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "strace", "-f", "-yy", "-s", "4096", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto,sendfile",
		"-o", out, "-p", strconv.Itoa(s.cmd.Process.Pid))
	stderr, err := cmd.StderrPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	require.True(s.t, lines.Scan(), "strace says nothing")
	require.Contains(s.t, lines.Text(), "attached")
	go func() {
		for lines.Scan() {
		}
	}()
	do()
	require.NoError(s.t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait() // it ends with the signal that it was sent
	text, err := os.ReadFile(out)
	require.NoError(s.t, err)
	return joinCalls(string(text))
}

// joinCalls puts together what strace breaks in two when another thread calls in between: a call counts where it ends.
func joinCalls(text string) []string {
	begun := map[string]string{}
	var calls []string
	for line := range strings.Lines(text) {
		thread, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		if part, unfinished := strings.CutSuffix(call, "<unfinished ...>"); unfinished {
			begun[thread] = part
			continue
		}
		if _, rest, resumed := strings.Cut(call, " resumed>"); resumed && strings.HasPrefix(call, "<... ") {
			call = begun[thread] + rest
		}
		calls = append(calls, fmt.Sprint(call))
	}
	return calls
}
