// Command ceiling answers pushes as a registry does, and does nothing else but to compute each blob's digest, which the
// specification has a registry do. With -dir it writes each blob durably too: the file, then its name. Measured beside registries it says how
// fast any of them could be, on the same machine, for the same clients, if nothing was inspected or recorded.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	address := flag.String("listen", "127.0.0.1:5000", "host:port")
	dir := flag.String("dir", "", "a folder for blobs; empty: they are not kept")
	flag.Parse()
	if err := http.ListenAndServe(*address, &registry{dir: *dir}); err != nil { //nolint:gosec // for loopback alone
		fmt.Fprintln(os.Stderr, "ceiling:", err)
		os.Exit(1)
	}
}

type registry struct {
	dir  string
	sent sync.Map // digests by the path of the upload
	next atomic.Int64
}

// ServeHTTP implements http.Handler.
func (s *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := http.StatusNotFound
	switch upload := strings.Contains(r.URL.Path, "/uploads/"); {
	case r.Method == http.MethodPost:
		w.Header().Set("Location", r.URL.Path+strconv.FormatInt(s.next.Add(1), 10))
		status = http.StatusAccepted
	case r.Method == http.MethodPatch:
		is, err := s.take(r.Body)
		if err != nil {
			status = http.StatusInternalServerError
			break
		}
		s.sent.Store(r.URL.Path, is)
		w.Header().Set("Location", r.URL.Path)
		status = http.StatusAccepted
	case r.Method == http.MethodPut && upload:
		if is, _ := s.sent.LoadAndDelete(r.URL.Path); is != r.URL.Query().Get("digest") {
			status = http.StatusBadRequest
			break
		}
		status = http.StatusCreated
	case r.Method == http.MethodPut:
		if _, err := s.take(r.Body); err == nil {
			status = http.StatusCreated
		}
	}
	w.WriteHeader(status)
}

// take returns the digest of what it reads, once that is durable where it is kept.
func (s *registry) take(r io.Reader) (digest string, err error) {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	sum := sha256.New()
	if s.dir == "" {
		_, err = io.CopyBuffer(sum, r, buffer[:])
		return fmt.Sprintf("sha256:%x", sum.Sum(nil)), err
	}
	file, err := os.CreateTemp(s.dir, "")
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := io.CopyBuffer(io.MultiWriter(file, sum), r, buffer[:]); err != nil {
		return "", err
	}
	digest = fmt.Sprintf("sha256:%x", sum.Sum(nil))
	if err := file.Sync(); err != nil {
		return "", err
	}
	if err := os.Rename(file.Name(), filepath.Join(s.dir, digest)); err != nil {
		return "", err
	}
	folder, err := os.Open(s.dir)
	if err != nil {
		return "", err
	}
	defer folder.Close()
	return digest, folder.Sync()
}

var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}
