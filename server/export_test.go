package server

// OCIEndpoints are those of the OCI API, as METHOD RESOURCE.
func OCIEndpoints() (all []string) {
	for at := range endpoints {
		all = append(all, at.method+" "+ociResources[at.resource])
	}
	return all
}

var ociResources = map[resource]string{resourceBase: "base", resourceCatalog: "catalog", resourceTags: "tags", resourceReferrers: "referrers", resourceManifest: "manifest",
	resourceBlob: "blob", resourceUploads: "uploads", resourceUpload: "upload"}

// Routes are the server's own, as METHOD PATH: those beside what is mounted.
func (s *Server) Routes() (all []string) {
	for _, r := range s.engine.Routes() {
		all = append(all, r.Method+" "+r.Path)
	}
	return all
}
