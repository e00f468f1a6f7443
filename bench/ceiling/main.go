// Command ceiling answers as a registry does, and does nothing else: it keeps what it is sent in memory, and of each blob
// computes the digest, which the specification has a registry do. Pushes to it say how fast any registry could be, on the same
// machine, for the same clients, if nothing was inspected, recorded or written to a disk.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	address := flag.String("listen", "127.0.0.1:5000", "host:port")
	flag.Parse()
	if err := http.ListenAndServe(*address, &registry{}); err != nil { //nolint:gosec // for loopback alone
		fmt.Fprintln(os.Stderr, "ceiling:", err)
		os.Exit(1)
	}
}

type registry struct {
	kept sync.Map // by path, []byte
	next atomic.Int64
}

// ServeHTTP implements http.Handler.
func (s *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case r.Method == http.MethodPost:
		w.Header().Set("Location", path+strconv.FormatInt(s.next.Add(1), 10))
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPatch:
		s.keep(path, r)
		w.Header().Set("Location", path)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut && strings.Contains(path, "/uploads/"):
		sent, _ := s.kept.LoadAndDelete(path)
		b, _ := sent.([]byte)
		digest := r.URL.Query().Get("digest")
		if digest != fmt.Sprintf("sha256:%x", sha256.Sum256(b)) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.kept.Store(path[:strings.Index(path, "uploads/")]+digest, b)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut:
		s.keep(path, r)
		w.WriteHeader(http.StatusCreated)
	default:
		sent, ok := s.kept.Load(path)
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(sent.([]byte))))
		_, _ = w.Write(sent.([]byte))
	}
}

func (s *registry) keep(path string, r *http.Request) {
	b := make([]byte, max(0, r.ContentLength))
	if _, err := io.ReadFull(r.Body, b); err == nil {
		s.kept.Store(path, b)
	}
}
