package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
	"waybill/registry"
)

// request is one under /v2: what it names, and who asks.
type request struct {
	*gin.Context
	ociPath
	identity auth.Identity
}

func (r *request) principal() artifact.Principal { return r.identity.Principal }

// at is a key of the table of endpoints.
type at struct {
	resource resource
	method   string
}

// endpoint is who answers, and what of a scope it takes.
type endpoint struct {
	handle func(*Server, *request) error
	action string
}

// endpoints is the table of the OCI API.
var endpoints = map[at]endpoint{
	{resourceBase, http.MethodGet}:        {(*Server).base, ""},
	{resourceCatalog, http.MethodGet}:     {(*Server).catalog, ""},
	{resourceTags, http.MethodGet}:        {(*Server).tags, "pull"},
	{resourceReferrers, http.MethodGet}:   {(*Server).referrers, "pull"},
	{resourceManifest, http.MethodGet}:    {(*Server).getManifest, "pull"},
	{resourceManifest, http.MethodPut}:    {(*Server).putManifest, "push"},
	{resourceManifest, http.MethodDelete}: {(*Server).deleteManifest, "delete"},
	{resourceBlob, http.MethodGet}:        {(*Server).getBlob, "pull"},
	{resourceBlob, http.MethodDelete}:     {(*Server).deleteBlob, "delete"},
	{resourceUploads, http.MethodPost}:    {(*Server).startUpload, "push"},
	{resourceUpload, http.MethodGet}:      {(*Server).uploadStatus, "push"},
	{resourceUpload, http.MethodPatch}:    {(*Server).appendUpload, "push"},
	{resourceUpload, http.MethodPut}:      {(*Server).finishUpload, "push"},
	{resourceUpload, http.MethodDelete}:   {(*Server).cancelUpload, "push"},
}

// v2 authenticates, checks the access token's scopes, and hands over.
func (s *Server) v2(c *gin.Context) error {
	c.Header("Docker-Distribution-Api-Version", "registry/2.0")
	path, pathErr := parseOCIPath(strings.TrimPrefix(c.Request.URL.Path, "/v2"))
	identity, err := s.cfg.Authenticator.FromRequest(c.Request.Context(), c.GetHeader("Authorization"))
	method := c.Request.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http sends no body
	}
	end := endpoints[at{path.resource, method}]
	if err == nil && identity.Principal.Anonymous() {
		if p, ok := s.anybody(path, end, identity); ok {
			identity.Principal = p
		} else {
			err = artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "sign in first: `docker login` with any user name and a Waybill token as the password")
		}
	}
	if artifact.KindOf(err) == artifact.Unauthentic {
		s.challenge(c, path.repository, end.action)
	}
	switch {
	case err != nil:
		return err
	case pathErr != nil:
		return pathErr
	case end.handle == nil:
		return artifact.Coded(artifact.Unsupported, notOffered, "%s is not offered here", known(c.Request.Method))
	}
	if end.action != "" && !identity.Allows(path.repository, end.action) {
		// No other access token would let it: say who may, rather than send the client for one again.
		if p := identity.Principal; !p.Anonymous() && !p.Can(artifact.Action(end.action), path.repository) && (end.action != "pull" || len(p.Deploys(path.repository)) == 0) {
			return p.Refusal(artifact.Action(end.action), path.repository)
		}
		// The access token is for something else: the client asks for another by this challenge.
		s.challenge(c, path.repository, end.action)
		return artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "the access token is not for %s in %s", end.action, path.repository)
	}
	return end.handle(s, &request{c, path, identity})
}

// isPublic reports whether anybody may pull from a repository.
func (s *Server) isPublic(r artifact.Repository) bool { return auth.Public(s.cfg.Public, r) }

// anybody returns who somebody without credentials is: a reader of the one public repository that is asked for. With an
// access token for one they may also ask whether this is a registry, as clients do first.
func (s *Server) anybody(path ociPath, end endpoint, identity auth.Identity) (artifact.Principal, bool) {
	switch {
	case end.action == "pull" && s.isPublic(path.repository):
		return artifact.Principal{Name: "anonymous", Role: artifact.Reader, Repositories: []string{path.repository.String()}}, true
	case path.resource == resourceBase && identity.Scopes != nil:
		return artifact.Principal{Name: "anonymous"}, true
	}
	return artifact.Principal{}, false
}

// challenge tells a client where to get an access token (distribution "Token Authentication Specification"): one that
// may also pull from others, where a mount needs it.
func (s *Server) challenge(c *gin.Context, repository artifact.Repository, action string, others ...artifact.Repository) {
	value := fmt.Sprintf(`Bearer realm="%s/token",service="%s"`, s.externalURL(c), s.cfg.AccessTokens.Service())
	if !repository.IsZero() && action != "" {
		actions := map[string]string{"pull": "pull", "push": "pull,push", "delete": "delete,pull"}[action]
		scope := fmt.Sprintf("repository:%s:%s", repository, actions)
		for _, other := range others {
			scope += fmt.Sprintf(" repository:%s:pull", other)
		}
		value += `,scope="` + scope + `"`
	}
	c.Header("WWW-Authenticate", value)
}

func (s *Server) externalURL(c *gin.Context) string {
	if s.cfg.ExternalURL != "" {
		return strings.TrimSuffix(s.cfg.ExternalURL, "/")
	}
	scheme := "http"
	if c.Request.TLS != nil {
		scheme = "https"
	}
	// The host goes into a quoted string of a header; what could end it does not belong into a host.
	host := strings.Map(func(r rune) rune {
		if strings.ContainsRune("\"\\ \r\n", r) {
			return -1
		}
		return r
	}, c.Request.Host)
	return scheme + "://" + host
}

func (s *Server) base(r *request) error {
	r.JSON(http.StatusOK, gin.H{})
	return nil
}

// paging reads n and last (distribution-spec 1.1, "Listing Tags").
func (r *request) paging() (last string, n int, err error) {
	n = 1000
	if text := r.Query("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 0 {
			return "", 0, artifact.Coded(artifact.Invalid, "PAGINATION_NUMBER_INVALID", "n is %.20q; want a number of at least 0", text)
		}
	}
	return r.Query("last"), min(n, 10_000), nil
}

// next links to the page after the one that ends with last (RFC 8288).
func (r *request) next(last string, n int) {
	q := url.Values{"n": {strconv.Itoa(n)}, "last": {last}}
	r.Header("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.Request.URL.Path, q.Encode()))
}

func (s *Server) tags(r *request) error {
	last, n, err := r.paging()
	if err != nil {
		return err
	}
	tags, more, err := s.cfg.Registry.Tags(r.Request.Context(), r.principal(), r.repository, last, n)
	if err != nil {
		return err
	}
	if more && len(tags) > 0 {
		r.next(tags[len(tags)-1].String(), n)
	}
	r.JSON(http.StatusOK, gin.H{"name": r.repository, "tags": orEmpty(tags)})
	return nil
}

func (s *Server) catalog(r *request) error {
	last, n, err := r.paging()
	if err != nil {
		return err
	}
	repositories, more, err := s.cfg.Registry.Catalog(r.Request.Context(), r.principal(), last, n)
	if err != nil {
		return err
	}
	if more && len(repositories) > 0 {
		r.next(repositories[len(repositories)-1].String(), n)
	}
	r.JSON(http.StatusOK, gin.H{"repositories": orEmpty(repositories)})
	return nil
}

const referrersList = "referrers"

func (s *Server) referrers(r *request) error {
	subject, err := artifact.ParseDigest(r.last)
	if err != nil {
		return err
	}
	var last string
	if err := s.cursors.open(referrersList, r.Query("last"), &last); err != nil {
		return err
	}
	artifactTypes := slices.DeleteFunc(r.QueryArray("artifactType"), func(s string) bool { return s == "" })
	found, next, err := s.cfg.Registry.Referrers(r.Request.Context(), r.principal(), r.repository, subject, artifactTypes, last)
	if err != nil {
		return err
	}
	if next != "" {
		q := url.Values{"last": {s.cursors.seal(referrersList, next)}, "artifactType": artifactTypes}
		r.Header("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.Request.URL.Path, q.Encode()))
	}
	if len(artifactTypes) > 0 {
		r.Header("OCI-Filters-Applied", "artifactType")
	}
	r.Header("Content-Type", artifact.MediaTypeIndex)
	r.JSON(http.StatusOK, gin.H{"schemaVersion": 2, "mediaType": artifact.MediaTypeIndex, "manifests": orEmpty(found)})
	return nil
}

// parseContentRange parses the Content-Range of a chunk: first-last, without a unit (distribution-spec 1.1, "Pushing a
// blob in chunks"); RFC 9110's form is taken too. An empty header is nil.
func parseContentRange(header string) (*registry.Range, error) {
	if header == "" {
		return nil, nil
	}
	text := strings.TrimPrefix(header, "bytes ")
	text, _, _ = strings.Cut(text, "/")
	low, high, ok := strings.Cut(text, "-")
	first, err1 := strconv.ParseUint(low, 10, 62)
	last, err2 := strconv.ParseUint(high, 10, 62)
	if !ok || err1 != nil || err2 != nil || last < first {
		return nil, artifact.Coded(artifact.Invalid, "RANGE_INVALID", "Content-Range is %.60q; want FIRST-LAST in bytes", header)
	}
	return &registry.Range{First: int64(first), Last: int64(last)}, nil
}
