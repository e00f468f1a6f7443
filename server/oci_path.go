package server

import (
	"strings"

	"waybill/artifact"
)

// ociPath is what a path under /v2/ names. Repository names hold slashes, so it is read from its end.
type ociPath struct {
	resource   resource
	repository artifact.Repository
	last       string // digest, tag, upload id or subject; checked by the handler
}

type resource string

const (
	resourceBase      resource = "base"
	resourceCatalog   resource = "catalog"
	resourceManifest  resource = "manifests"
	resourceBlob      resource = "blobs"
	resourceUploads   resource = "uploads" // the collection: POST
	resourceUpload    resource = "upload"  // one of them
	resourceTags      resource = "tags"
	resourceReferrers resource = "referrers"
)

// parseOCIPath parses what follows /v2 (distribution-spec 1.1, "Endpoints").
func parseOCIPath(path string) (ociPath, error) {
	path = strings.TrimPrefix(path, "/")
	switch path {
	case "":
		return ociPath{resource: resourceBase}, nil
	case "_catalog":
		return ociPath{resource: resourceCatalog}, nil
	}
	parts := strings.Split(path, "/")
	n := len(parts)
	named := func(r resource, tail int, last string) (ociPath, error) {
		repository, err := artifact.ParseRepository(strings.Join(parts[:n-tail], "/"))
		return ociPath{r, repository, last}, err
	}
	switch {
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads" && parts[n-1] == "":
		return named(resourceUploads, 3, "")
	case n >= 3 && parts[n-2] == "blobs" && parts[n-1] == "uploads":
		return named(resourceUploads, 2, "")
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		return named(resourceUpload, 3, parts[n-1])
	case n >= 3 && parts[n-2] == "tags" && parts[n-1] == "list":
		return named(resourceTags, 2, "")
	case n >= 3 && parts[n-2] == "manifests":
		return named(resourceManifest, 2, parts[n-1])
	case n >= 3 && parts[n-2] == "blobs":
		return named(resourceBlob, 2, parts[n-1])
	case n >= 3 && parts[n-2] == "referrers":
		return named(resourceReferrers, 2, parts[n-1])
	}
	return ociPath{}, artifact.Coded(artifact.NotFound, "NAME_UNKNOWN", "/v2/%.200s is no endpoint of the distribution specification", path)
}
