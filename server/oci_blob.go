package server

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"waybill/artifact"
)

func (s *Server) getBlob(r *request) error {
	digest, err := artifact.ParseDigest(r.last)
	if err != nil {
		return err
	}
	serving := s.serve(r)
	defer serving.End()
	file, size, err := s.cfg.Registry.OpenBlob(r.Request.Context(), r.principal(), r.repository, digest)
	if err != nil {
		return err
	}
	defer file.Close()
	// What was withdrawn since the gate was asked is refused in words; later there is only the connection to end.
	if err := serving.Piece(r.Request.Context(), digest, func() error { return nil }); err != nil {
		return err
	}
	r.Header("Docker-Content-Digest", digest.String())
	r.Header("Content-Type", "application/octet-stream")
	r.Header("ETag", `"`+digest.String()+`"`)
	r.Header("Cache-Control", "private, max-age=31536000, immutable")
	asked := r.GetHeader("Range")
	r.Request.Header.Set("Range", ranges(asked, size))
	out := &ranged{ResponseWriter: following(sendfile(r.Writer), r, serving, digest), told: r.Status}
	http.ServeContent(out, r.Request, "", time.Time{}, file)
	if serving.Cut() {
		panic(http.ErrAbortHandler) // the connection ends, with what is left in buffers
	}
	if !out.refused {
		return nil
	}
	r.Writer.Header().Del("Content-Type")
	return artifact.Coded(artifact.Invalid, "RANGE_INVALID", "Range is %.100q; the blob has %d bytes", asked, size)
}

// ranged keeps back what http.ServeContent says of a range that there is not, in words that no client of a registry reads.
type ranged struct {
	http.ResponseWriter
	told    func(status int) // of what is counted and logged
	refused bool
}

func (w *ranged) WriteHeader(status int) {
	if w.refused = status == http.StatusRequestedRangeNotSatisfiable; !w.refused {
		w.told(status)
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *ranged) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom keeps the way from disk to socket open.
func (w *ranged) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// sendfile returns the writer that gin's hides: it is an io.ReaderFrom, so that bytes go from disk to socket without
// passing through this program.
func sendfile(w http.ResponseWriter) http.ResponseWriter {
	for {
		if _, ok := w.(io.ReaderFrom); ok {
			return w
		}
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = inner.Unwrap()
	}
}

func (s *Server) deleteBlob(r *request) error {
	digest, err := artifact.ParseDigest(r.last)
	if err != nil {
		return err
	}
	if err := s.cfg.Registry.DeleteBlob(r.Request.Context(), r.principal(), r.repository, digest); err != nil {
		return err
	}
	r.Status(http.StatusAccepted)
	return nil
}

// startUpload begins an upload, or ends it at once: by mounting a blob that is here, or with the whole blob as body.
func (s *Server) startUpload(r *request) error {
	ctx := r.Request.Context()
	if mount := r.Query("mount"); mount != "" {
		digest, err := artifact.ParseDigest(mount)
		if err != nil {
			return err
		}
		mounted, err := s.mount(r, digest)
		if err != nil {
			return err
		}
		if mounted {
			s.created(r, "blobs", digest)
			return nil
		}
	} else if text := r.Query("digest"); text != "" {
		digest, err := artifact.ParseDigest(text)
		if err != nil {
			return err
		}
		if _, err := s.cfg.Registry.PutBlob(ctx, r.principal(), r.repository, patiently(r.Context), digest); err != nil {
			return err
		}
		s.created(r, "blobs", digest)
		return nil
	}
	u, err := s.cfg.Registry.StartUpload(ctx, r.principal(), r.repository)
	if err != nil {
		return err
	}
	r.uploading(u, http.StatusAccepted)
	return nil
}

// mount gives the repository a blob that another has. An access token whose scopes do not reach where its principal may
// read is answered with what to ask for.
func (s *Server) mount(r *request, digest artifact.Digest) (bool, error) {
	var from artifact.Repository
	if name := r.Query("from"); name != "" {
		var err error
		if from, err = artifact.ParseRepository(name); err != nil {
			return false, err
		}
		if r.identity.Allows(from, "pull") {
			return s.cfg.Registry.Mount(r.Request.Context(), r.principal(), r.repository, from, digest)
		}
		return false, s.wider(r, from)
	}
	if r.identity.Scopes == nil {
		return s.cfg.Registry.Mount(r.Request.Context(), r.principal(), r.repository, from, digest)
	}
	for _, scope := range r.identity.Scopes {
		within, err := artifact.ParseRepository(scope.Name)
		if err != nil || !r.identity.Allows(within, "pull") {
			continue
		}
		if mounted, err := s.cfg.Registry.Mount(r.Request.Context(), r.principal(), r.repository, within, digest); err != nil || mounted {
			return mounted, err
		}
	}
	from, found, err := s.cfg.Registry.MountSource(r.Request.Context(), r.principal(), digest)
	if err != nil || !found {
		return false, err
	}
	return false, s.wider(r, from)
}

// wider asks the client for an access token that may pull from another repository too, if its principal may; if not, the
// client uploads.
func (s *Server) wider(r *request, from artifact.Repository) error {
	if !r.principal().Can(artifact.ActionPull, from) {
		return nil
	}
	s.challenge(r.Context, r.repository, "push", from)
	return artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "the access token is not for pull in %s, from where the blob would be mounted", from)
}

// created answers 201 with where the new thing is.
func (s *Server) created(r *request, kind string, digest artifact.Digest) {
	r.Header("Location", fmt.Sprintf("/v2/%s/%s/%s", r.repository, kind, digest))
	r.Header("Docker-Content-Digest", digest.String())
	r.Status(http.StatusCreated)
	r.Writer.WriteHeaderNow()
}

// uploading answers with where an upload is.
func (r *request) uploading(u artifact.Upload, status int) {
	r.Header("Location", fmt.Sprintf("/v2/%s/blobs/uploads/%s", r.repository, u.ID))
	r.Header("Docker-Upload-UUID", u.ID)
	r.Header("Range", "0-"+strconv.FormatInt(max(u.Offset-1, 0), 10))
	r.Status(status)
	r.Writer.WriteHeaderNow()
}

func (s *Server) uploadStatus(r *request) error {
	u, err := s.cfg.Registry.Upload(r.Request.Context(), r.principal(), r.repository, r.last)
	if err != nil {
		return err
	}
	r.uploading(u, http.StatusNoContent)
	return nil
}

func (s *Server) appendUpload(r *request) error {
	at, err := parseContentRange(r.GetHeader("Content-Range"))
	if err != nil {
		return err
	}
	u, err := s.cfg.Registry.Append(r.Request.Context(), r.principal(), r.repository, r.last, at, patiently(r.Context))
	if err != nil {
		if !u.Repository.IsZero() {
			r.Header("Range", "0-"+strconv.FormatInt(max(u.Offset-1, 0), 10))
			r.Header("Location", r.Request.URL.Path)
		}
		return err
	}
	r.uploading(u, http.StatusAccepted)
	return nil
}

func (s *Server) finishUpload(r *request) error {
	digest, err := artifact.ParseDigest(r.Query("digest"))
	if err != nil {
		return err
	}
	at, err := parseContentRange(r.GetHeader("Content-Range"))
	if err != nil {
		return err
	}
	if _, err := s.cfg.Registry.FinishUpload(r.Request.Context(), r.principal(), r.repository, r.last, at, patiently(r.Context), digest); err != nil {
		return err
	}
	s.created(r, "blobs", digest)
	return nil
}

func (s *Server) cancelUpload(r *request) error {
	if err := s.cfg.Registry.CancelUpload(r.Request.Context(), r.principal(), r.repository, r.last); err != nil {
		return err
	}
	r.Status(http.StatusNoContent)
	return nil
}
