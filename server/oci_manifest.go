package server

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"waybill/artifact"
	"waybill/registry"
)

func (s *Server) getManifest(r *request) error {
	ref, err := artifact.ParseTarget(r.repository, r.last)
	if err != nil {
		return err
	}
	serving := s.serve(r)
	defer serving.End()
	m, err := s.cfg.Registry.GetManifest(r.Request.Context(), r.principal(), ref)
	if err != nil {
		return err
	}
	if m.Stale {
		r.Header("Warning", `110 - "Response is Stale"`) // RFC 7234, section 5.5.1
	}
	// A client that only looks, with HEAD, needs nothing kept.
	if s.cfg.Pulled != nil && r.Request.Method == http.MethodGet {
		s.cfg.Pulled(r.principal().Name, r.repository, m.Digest)
	}
	r.Header("Docker-Content-Digest", m.Digest.String())
	r.Header("ETag", `"`+m.Digest.String()+`"`)
	if matches(r.GetHeader("If-None-Match"), `"`+m.Digest.String()+`"`) {
		r.Status(http.StatusNotModified)
		return nil
	}
	return s.sendManifest(r, serving, m)
}

// sendManifest sends a manifest, all or nothing of it.
func (s *Server) sendManifest(r *request, serving *registry.Serving, m registry.Pulled) error {
	send := func() error {
		r.Header("Content-Length", strconv.Itoa(len(m.Body)))
		r.Data(http.StatusOK, m.Manifest.MediaType, m.Body)
		if serving != nil {
			_ = http.NewResponseController(r.Writer).Flush() // who has gone needs nothing
		}
		return nil
	}
	if err := serving.Piece(r.Request.Context(), m.Digest, send); err != nil {
		return err
	}
	if serving.Cut() {
		panic(http.ErrAbortHandler) // in the middle: the connection ends, with what is left in buffers
	}
	return nil
}

// putManifest stores a manifest; its body is bounded, and the policy's every reason is in the answer to one that is
// denied.
func (s *Server) putManifest(r *request) error {
	ref, err := artifact.ParseTarget(r.repository, r.last)
	if err != nil {
		return err
	}
	more, err := r.moreTags(ref)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(r.Writer, io.NopCloser(patiently(r.Context)), artifact.MaxManifest))
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return artifact.Coded(artifact.TooLarge, "SIZE_INVALID", "the manifest is larger than the %d bytes that are accepted", artifact.MaxManifest)
	} else if artifact.KindOf(err) != "" {
		return err
	} else if err != nil {
		return artifact.Coded(artifact.Invalid, "MANIFEST_INVALID", "the body broke off; push the manifest again")
	}
	contentType, _, err := mime.ParseMediaType(r.GetHeader("Content-Type"))
	if err != nil && r.GetHeader("Content-Type") != "" {
		return artifact.Coded(artifact.Invalid, "MANIFEST_INVALID", "Content-Type %.100q is no media type", r.GetHeader("Content-Type"))
	}
	pushed, err := s.cfg.Registry.PutManifest(r.Request.Context(), r.principal(), ref, contentType, body, more)
	if err != nil {
		return err
	}
	if !pushed.Subject.IsZero() {
		r.Header("OCI-Subject", pushed.Subject.String())
	}
	if !ref.Digest.IsZero() {
		for _, tag := range pushed.Tags {
			r.Writer.Header().Add("OCI-Tag", tag.String())
		}
	}
	for _, w := range pushed.Warnings[:min(20, len(pushed.Warnings))] {
		r.Writer.Header().Add("Warning", `299 - "`+quotable(w.String())+`"`)
	}
	s.created(r, "manifests", pushed.Digest)
	return nil
}

// maxTags is how many tag parameters a push by digest may have.
const maxTags = 20

// moreTags reads the tag parameters of a push by digest.
func (r *request) moreTags(ref artifact.Reference) ([]artifact.Tag, error) {
	texts := r.QueryArray("tag")
	if len(texts) > 0 && ref.Digest.IsZero() || len(texts) > maxTags {
		return nil, artifact.Coded(artifact.Invalid, "TAG_INVALID", "tag parameters go with a push by digest, at most %d of them", maxTags)
	}
	var tags []artifact.Tag
	for _, text := range texts {
		tag, err := artifact.ParseTag(text)
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// quotable makes text fit for a quoted string in a header (RFC 9110, section 5.6.4): visible ASCII.
func quotable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text[:min(len(text), 1000)])
}

func (s *Server) deleteManifest(r *request) error {
	ref, err := artifact.ParseTarget(r.repository, r.last)
	if err != nil {
		return err
	}
	if err := s.cfg.Registry.DeleteManifest(r.Request.Context(), r.principal(), ref); err != nil {
		return err
	}
	r.Status(http.StatusAccepted)
	return nil
}
