package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"waybill/jobs"
	"waybill/ledger"
)

// shownLog is a log in memory, and what was kept of its witnesses.
type shownLog struct {
	t      *testing.T
	signer *ledger.Signer
	hashes []ledger.Hash
	size   int64
	lines  map[int64]string
}

func newShownLog(t *testing.T, signer *ledger.Signer, entries ...string) *shownLog {
	t.Helper()
	l := &shownLog{t: t, signer: signer, lines: map[int64]string{}}
	l.add(entries...)
	return l
}

func (l *shownLog) read(indexes []int64) (all []ledger.Hash, _ error) {
	for _, i := range indexes {
		all = append(all, l.hashes[i])
	}
	return all, nil
}

func (l *shownLog) add(entries ...string) {
	l.t.Helper()
	for _, e := range entries {
		more, err := tlog.StoredHashes(l.size, []byte(e), tlog.HashReaderFunc(l.read))
		require.NoError(l.t, err)
		l.hashes, l.size = append(l.hashes, more...), l.size+1
	}
}

func (l *shownLog) Checkpoint(context.Context) (ledger.Checkpoint, string, error) {
	root, err := ledger.Root(l.size, l.read)
	if err != nil {
		return ledger.Checkpoint{}, "", err
	}
	note, err := l.signer.Sign(l.size, root)
	return ledger.Checkpoint{Origin: l.signer.Origin(), Size: l.size, Root: root}, note, err
}

func (l *shownLog) ProveConsistency(_ context.Context, newer, older int64) ([]ledger.Hash, error) {
	return ledger.ProveConsistency(newer, older, l.read)
}

func (l *shownLog) CosignedSize(context.Context, string) (size int64, _ error) {
	for at := range l.lines {
		size = max(size, at)
	}
	return size, nil
}

func (l *shownLog) SaveCosignature(_ context.Context, size int64, _, line string) error {
	l.lines[size] = line
	return nil
}

// watched is a witness that serves, and can be started again.
type watched struct {
	t      *testing.T
	folder string
	log    string // file of the log's key
	said   lockedBuffer
	server *httptest.Server
	key    string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func newWatched(t *testing.T, signer *ledger.Signer) *watched {
	t.Helper()
	w := &watched{t: t, folder: t.TempDir()}
	w.log = filepath.Join(t.TempDir(), "ledger.pub")
	require.NoError(t, os.WriteFile(w.log, []byte(signer.PublicKey()+"\n"), 0o600))
	w.start()
	return w
}

func (w *watched) start() {
	w.t.Helper()
	handler, err := openWitness(w.folder, "witness.example/1", []string{w.log}, slog.New(slog.NewTextHandler(&w.said, nil)))
	require.NoError(w.t, err)
	w.key, w.server = handler.key.PublicKey(), httptest.NewServer(handler)
	w.t.Cleanup(w.server.Close)
}

// follow has the witness cosign what a log shows, and returns what the server's log says.
func (w *watched) follow(l *shownLog) string {
	w.t.Helper()
	var said bytes.Buffer
	asks := &jobs.Witnesser{Store: l, Witnesses: []jobs.Witness{{Name: "witness.example/1", URL: w.server.URL, Key: w.key}}, Logger: slog.New(slog.NewTextHandler(&said, nil))}
	require.NoError(w.t, asks.Work(w.t.Context(), nil))
	return said.String()
}

// TestWitness: a server's checkpoints are cosigned as it grows, also by a witness that was started again or whose answer was
// lost; a server that shows another tree, or was restored from an older copy, gets no cosignature, and both say so.
func TestWitness(t *testing.T) {
	t.Parallel()
	_, err := ledger.OpenSigner(filepath.Join(t.TempDir(), "ledger.key"))
	require.NoError(t, err)
	signer, err := ledger.OpenSigner(filepath.Join(t.TempDir(), "ledger.key"))
	require.NoError(t, err)
	w, honest := newWatched(t, signer), newShownLog(t, signer, "a", "b", "c")
	require.Empty(t, w.follow(honest))
	require.Len(t, honest.lines, 1)
	require.Empty(t, w.follow(honest), "there is nothing new")
	forked := newShownLog(t, signer, "a", "x", "c")
	forked.lines[3] = "as if"
	honest.add("d", "e")
	w.server.Close()
	require.Contains(t, w.follow(honest), "not cosigned")
	key := w.key
	w.start()
	require.Equal(t, key, w.key, "it is the same after a restart")
	require.Empty(t, w.follow(honest))
	_, note, err := honest.Checkpoint(t.Context())
	require.NoError(t, err)
	found, _, ok := ledger.CosignedBy(ledger.WithCosignatures(note, honest.lines[5]), w.key)
	require.True(t, ok)
	require.Equal(t, "witness.example/1", found.Witness)

	// The answer was lost: what the witness has is more than what is known here.
	delete(honest.lines, 5)
	honest.add("f")
	require.Empty(t, w.follow(honest))
	require.Len(t, honest.lines, 2)

	forked.add("d", "e", "f", "g")
	require.Contains(t, w.follow(forked), "does not extend")
	require.Len(t, forked.lines, 1)
	require.Contains(t, w.said.b.String(), "not proven to extend", "the two notes are kept")
	require.Contains(t, w.said.b.String(), "shown=")
	require.Contains(t, w.follow(newShownLog(t, signer, "a", "b")), "restored from an older copy")
	same := newShownLog(t, signer, "a", "x", "c", "d", "e", "f")
	require.Contains(t, w.follow(same), "not cosigned", "of the same size")
	require.Empty(t, same.lines)
	honest.add("g")
	require.Empty(t, w.follow(honest), "the honest one goes on")
}

// TestWitnessAnswers: as C2SP tlog-witness says, each refusal by its status.
func TestWitnessAnswers(t *testing.T) {
	t.Parallel()
	signer, err := ledger.OpenSigner(filepath.Join(t.TempDir(), "ledger.key"))
	require.NoError(t, err)
	stranger, err := ledger.OpenSigner(filepath.Join(t.TempDir(), "ledger.key"))
	require.NoError(t, err)
	w := newWatched(t, signer)
	note := func(s *ledger.Signer, entries ...string) string {
		_, signed, err := newShownLog(t, s, entries...).Checkpoint(t.Context())
		require.NoError(t, err)
		return signed
	}
	post := func(path, body string) (int, string, string) {
		r, err := http.Post(w.server.URL+path, "", strings.NewReader(body)) //nolint:noctx // a test's
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return r.StatusCode, string(b), r.Header.Get("Content-Type")
	}
	good := note(signer, "a", "b")
	status, said, _ := post("/add-checkpoint", "old 0\n\n"+good)
	require.Equal(t, 200, status, said)
	require.True(t, strings.HasPrefix(said, "— witness.example/1 "), said)
	for name, c := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"malformed":        {"/add-checkpoint", "hello", 400, "empty line"},
		"long":             {"/add-checkpoint", strings.Repeat("x", ledger.MaxAddCheckpoint+1), 400, ""},
		"unknown log":      {"/add-checkpoint", "old 0\n\n" + note(stranger, "a"), 404, "does not follow"},
		"forged":           {"/add-checkpoint", "old 2\n\n" + strings.Replace(note(stranger, "a", "b"), stranger.Origin(), signer.Origin(), 2), 403, ""},
		"another size":     {"/add-checkpoint", "old 1\n\n" + note(signer, "a", "b", "c"), 409, "2\n"},
		"no proof":         {"/add-checkpoint", "old 2\n\n" + note(signer, "a", "b", "c"), 422, "not proven"},
		"smaller than old": {"/add-checkpoint", "old 2\n\n" + note(signer, "a"), 400, "more than"},
		"another path":     {"/", "old 0\n\n" + good, 404, ""},
	} {
		status, said, contentType := post(c.path, c.body)
		require.Equal(t, c.status, status, "%s: %s", name, said)
		require.Contains(t, said, c.says, name)
		if status == 409 {
			require.Equal(t, c.says, said)
			require.Equal(t, "text/x.tlog.size", contentType)
		}
	}
	// What is kept was damaged: nothing is cosigned.
	files, err := filepath.Glob(filepath.Join(w.folder, "log-*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte("{}"), 0o600))
	status, said, _ = post("/add-checkpoint", "old 0\n\n"+good)
	require.Equal(t, 500, status, said)
}
