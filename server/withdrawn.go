package server

import (
	"io"
	"math"
	"net/http"
	"time"

	"waybill/artifact"
	"waybill/registry"
)

// serve begins an answer with bytes of a repository; whoever calls it calls its End.
func (s *Server) serve(r *request) *registry.Serving {
	if r.Request.Method == http.MethodHead {
		return nil
	}
	control := http.NewResponseController(r.Writer)
	return s.cfg.Registry.Serve(r.principal(), r.repository, func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })
}

// followed is a writer whose every piece is asked for, and is the client's before the next is.
type followed struct {
	http.ResponseWriter // an io.ReaderFrom, but for tests
	request             *request
	serving             *registry.Serving
	digest              artifact.Digest
}

// following returns w for an answer that is followed, and w itself for one that is not: its bytes go straight from disk to socket.
func following(w http.ResponseWriter, r *request, s *registry.Serving, d artifact.Digest) http.ResponseWriter {
	if s == nil {
		return w
	}
	return &followed{w, r, s, d}
}

// Unwrap is for http.ResponseController.
func (f *followed) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f *followed) piece(write func() (int64, error)) (n int64, err error) {
	err = f.serving.Piece(f.request.Request.Context(), f.digest, func() (err error) {
		if n, err = write(); err == nil {
			err = http.NewResponseController(f.ResponseWriter).Flush()
		}
		return err
	})
	return n, err
}

func (f *followed) Write(b []byte) (int, error) {
	n, err := f.piece(func() (int64, error) { n, err := f.ResponseWriter.Write(b); return int64(n), err })
	return int(n), err
}

// ReadFrom sends pieces of a file. They keep the shape that net's sendfile knows.
func (f *followed) ReadFrom(r io.Reader) (total int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	for whole.N > 0 {
		asked := min(whole.N, piece)
		n, err := f.piece(func() (int64, error) {
			return io.Copy(f.ResponseWriter, &io.LimitedReader{R: whole.R, N: asked})
		})
		total += n
		whole.N -= n
		if err != nil || n < asked {
			return total, err
		}
	}
	return total, nil
}
