// Command ceiling answers as a registry does, and does nothing else: it keeps what it is sent in memory, without a look
// at it. Measured beside registries it says how fast any of them could be, on the same machine, for the same clients.
package main

import (
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
		if sent, ok := s.kept.LoadAndDelete(path); ok {
			s.kept.Store(path[:strings.Index(path, "uploads/")]+r.URL.Query().Get("digest"), sent)
		}
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
