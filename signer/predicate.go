package signer

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"waybill/artifact"
)

// The predicate types of what is attested. Cosign's `--type` has names for all but the last: cyclonedx, spdxjson, vuln,
// slsaprovenance1.
const (
	CycloneDXPredicate    = "https://cyclonedx.org/bom"
	SPDXPredicate         = "https://spdx.dev/Document"
	ScanPredicate         = "https://cosign.sigstore.dev/attestation/vuln/v1"
	ProvenancePredicate   = "https://slsa.dev/provenance/v1"
	VerificationPredicate = "https://slsa.dev/verification_summary/v1"
)

// Product is who says what the predicates say.
type Product struct {
	Version string
	Host    string // of the registry, as clients name it; empty when it is not known
}

// purl names a manifest as package-url's type oci does (purl-spec, types/oci).
func (p Product) purl(r artifact.Repository, d artifact.Digest) string {
	path := r.String()
	from := path
	if p.Host != "" {
		from = p.Host + "/" + path
	}
	return "pkg:oci/" + path[strings.LastIndexByte(path, '/')+1:] + "@" + url.QueryEscape(d.String()) + "?repository_url=" + url.QueryEscape(from)
}

// Scanned is the scan of one image of what is attested: of itself, or of each image of an index.
type Scanned struct {
	Platform string
	Scan     artifact.Scan
}

type (
	vulnerabilities struct {
		Invocation struct {
			Parameters []string `json:"parameters"`
			URI        string   `json:"uri"`
			EventID    string   `json:"event_id"`
			BuilderID  string   `json:"builder.id"`
		} `json:"invocation"`
		Scanner  scannedBy `json:"scanner"`
		Metadata struct {
			Started  string `json:"scanStartedOn"`
			Finished string `json:"scanFinishedOn"`
		} `json:"metadata"`
	}
	scannedBy struct {
		URI     string `json:"uri"`
		Version string `json:"version"`
		DB      struct {
			URI        string `json:"uri"`
			Version    string `json:"version"`
			LastUpdate string `json:"lastUpdate,omitempty"`
		} `json:"db"`
		Result report `json:"result"`
	}
	// report has the names of Trivy's JSON report, which policies of others read.
	report struct {
		SchemaVersion int                       `json:"SchemaVersion"`
		ArtifactName  string                    `json:"ArtifactName"`
		ArtifactType  string                    `json:"ArtifactType"`
		Counts        map[artifact.Severity]int `json:"Counts"`
		Results       []result                  `json:"Results"`
	}
	result struct {
		Target          string          `json:"Target"`
		Platform        string          `json:"Platform,omitempty"`
		Vulnerabilities []vulnerability `json:"Vulnerabilities"`
	}
	vulnerability struct {
		ID         string             `json:"VulnerabilityID"`
		Package    string             `json:"PkgName"`
		Path       string             `json:"PkgPath,omitempty"`
		Identifier *packageIdentifier `json:"PkgIdentifier,omitempty"`
		Installed  string             `json:"InstalledVersion,omitempty"`
		Fixed      string             `json:"FixedVersion,omitempty"`
		Severity   string             `json:"Severity"`
		Title      string             `json:"Title,omitempty"`
		URL        string             `json:"PrimaryURL,omitempty"`
	}
	packageIdentifier struct {
		PURL string `json:"PURL"`
	}
)

// Vulnerabilities is what scans found in a digest, as cosign's vuln predicate (cosign: specs/COSIGN_VULN_ATTESTATION_SPEC.md).
// It is the scanner's answer: what VEX documents and waivers say of it is not in it.
func (p Product) Vulnerabilities(r artifact.Repository, d artifact.Digest, scans []Scanned) (json.RawMessage, error) {
	var v vulnerabilities
	v.Invocation.Parameters = []string{}
	v.Scanner.URI, v.Scanner.Version = "https://waybill.dev/scanner/trivy", p.Version
	v.Scanner.Result = report{SchemaVersion: 2, ArtifactName: r.String() + "@" + d.String(), ArtifactType: "container_image", Counts: map[artifact.Severity]int{}, Results: []result{}}
	var oldest, first, last artifact.Scan
	for _, s := range scans {
		if oldest.DatabaseUpdatedAt.IsZero() || s.Scan.DatabaseUpdatedAt.Before(oldest.DatabaseUpdatedAt) {
			oldest = s.Scan
		}
		if first.ScannedAt.IsZero() || s.Scan.ScannedAt.Before(first.ScannedAt) {
			first = s.Scan
		}
		if s.Scan.ScannedAt.After(last.ScannedAt) {
			last = s.Scan
		}
		found := result{Target: r.String() + "@" + s.Scan.Digest.String(), Platform: s.Platform, Vulnerabilities: []vulnerability{}}
		for _, f := range s.Scan.Findings {
			if f.Class == artifact.ClassVulnerability {
				found.Vulnerabilities = append(found.Vulnerabilities, vulnerabilityOf(f))
				v.Scanner.Result.Counts[f.Severity]++
			}
		}
		v.Scanner.Result.Results = append(v.Scanner.Result.Results, found)
	}
	if !oldest.DatabaseDigest.IsZero() {
		v.Scanner.DB.URI, v.Scanner.DB.Version = "https://github.com/aquasecurity/trivy-db", oldest.DatabaseDigest.String()
		v.Scanner.DB.LastUpdate = instant(oldest.DatabaseUpdatedAt)
	}
	v.Metadata.Started, v.Metadata.Finished = instant(first.ScannedAt), instant(last.ScannedAt)
	return json.Marshal(v)
}

func vulnerabilityOf(f artifact.Finding) vulnerability {
	v := vulnerability{ID: f.ID, Package: f.Package, Path: f.Path, Installed: f.Installed, Fixed: f.Fixed, Severity: strings.ToUpper(string(f.Severity)), Title: f.Title, URL: f.URL}
	if f.PURL != "" {
		v.Identifier = &packageIdentifier{f.PURL}
	}
	return v
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Input is an attestation that a verification looked at.
type Input struct {
	PredicateType string // empty: the image's signature
	Manifest      artifact.Digest
}

// Verified is one promotion: what was verified, by which policy, and what for.
type Verified struct {
	Promotion artifact.Promotion
	Policies  []string // name@version; empty when others are in force by now
	Inputs    []Input
	Built     bool // by this service, with provenance that it signed
}

// VerificationField is the field that tells summaries apart: a digest has one for each environment.
const VerificationField = "environment"

// Verification says that a digest was promoted (slsa.dev/spec/v1.1/verification_summary), for which environment, by
// whose decision, under which policy and on what evidence. Fields beyond the specification are environment, promotion,
// actor and overridden; who reads summaries ignores what they do not know.
func (p Product) Verification(v Verified) (json.RawMessage, error) {
	type resource struct {
		Name   string            `json:"name,omitempty"`
		URI    string            `json:"uri,omitempty"`
		Digest map[string]string `json:"digest"`
	}
	hash := func(d artifact.Digest) map[string]string { return map[string]string{d.Algorithm(): d.Hex()} }
	m := v.Promotion
	inputs := []resource{}
	for _, in := range v.Inputs {
		name := in.PredicateType
		if name == "" {
			name = "signature"
		}
		inputs = append(inputs, resource{name, p.purl(m.Repository, in.Manifest), hash(in.Manifest)})
	}
	// Of what was built elsewhere the service has not looked at how.
	level := "SLSA_BUILD_LEVEL_UNEVALUATED"
	if v.Built {
		level = "SLSA_BUILD_LEVEL_2" // its own build service made the image and signed the provenance
	}
	return json.Marshal(struct {
		Verifier    map[string]any `json:"verifier"`
		At          string         `json:"timeVerified"`
		Resource    string         `json:"resourceUri"`
		Policy      resource       `json:"policy"`
		Inputs      []resource     `json:"inputAttestations"`
		Result      string         `json:"verificationResult"`
		Levels      []string       `json:"verifiedLevels"`
		Version     string         `json:"slsaVersion"`
		Environment string         `json:"environment"`
		Promotion   map[string]any `json:"promotion"`
		Overridden  []string       `json:"overridden,omitempty"`
	}{
		map[string]any{"id": "https://waybill.dev/verifier", "version": map[string]string{"waybill": p.Version}}, instant(m.At), p.purl(m.Repository, m.Digest),
		resource{URI: policyURI(v.Policies), Digest: hash(m.PolicyHash)}, inputs, "PASSED", []string{level}, "1.1", m.Environment.String(),
		map[string]any{"id": m.ID, "action": m.Action, "version": m.Version, "actor": m.Actor, "ledgerIndex": m.LedgerIndex}, m.Overridden,
	})
}

func policyURI(policies []string) string {
	escaped := make([]string, len(policies))
	for i, name := range policies {
		escaped[i] = url.PathEscape(name)
	}
	return "urn:waybill:policies:" + strings.Join(escaped, "+")
}

// Member is an image of an index.
type Member struct {
	Digest   artifact.Digest
	Platform string
	Size     int64
}

// IndexCycloneDX says which images an index holds; what is in each of them is in its own SBOM. The same index gives the same
// document.
func (p Product) IndexCycloneDX(r artifact.Repository, d artifact.Digest, members []Member) (json.RawMessage, error) {
	type component struct {
		Type    string              `json:"type"`
		Ref     string              `json:"bom-ref"`
		Name    string              `json:"name"`
		Version string              `json:"version"`
		Hashes  []map[string]string `json:"hashes,omitempty"`
		PURL    string              `json:"purl"`
		Details []map[string]string `json:"properties,omitempty"`
	}
	one := func(d artifact.Digest, platform string) component {
		c := component{Type: "container", Ref: p.purl(r, d), Name: r.String(), Version: d.String(), PURL: p.purl(r, d)}
		if d.Algorithm() == "sha256" {
			c.Hashes = []map[string]string{{"alg": "SHA-256", "content": d.Hex()}}
		}
		if platform != "" {
			c.Details = []map[string]string{{"name": "waybill:platform", "value": platform}}
		}
		return c
	}
	components, held := []component{}, []string{}
	for _, m := range members {
		components, held = append(components, one(m.Digest, m.Platform)), append(held, p.purl(r, m.Digest))
	}
	root := one(d, "")
	return json.Marshal(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "serialNumber": serial(d),
		"metadata":     map[string]any{"component": root, "tools": map[string]any{"components": []map[string]string{{"type": "application", "name": "waybill", "version": p.Version}}}},
		"components":   components,
		"dependencies": []any{map[string]any{"ref": root.Ref, "dependsOn": held}},
	})
}

// serial is a UUID (RFC 9562, version 8) of a digest's bytes.
func serial(d artifact.Digest) string {
	h := []byte(d.Hex()[:32])
	h[12], h[16] = '8', "89ab"[h[16]%4]
	return fmt.Sprintf("urn:uuid:%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}

// IndexSPDX is IndexCycloneDX as SPDX 2.3; at is when the index was pushed.
func (p Product) IndexSPDX(r artifact.Repository, d artifact.Digest, members []Member, at time.Time) (json.RawMessage, error) {
	id := func(d artifact.Digest) string { return "SPDXRef-" + d.Algorithm() + "-" + d.Hex() }
	one := func(d artifact.Digest, platform string) map[string]any {
		pkg := map[string]any{"SPDXID": id(d), "name": r.String(), "versionInfo": d.String(), "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "primaryPackagePurpose": "CONTAINER",
			"externalRefs": []map[string]string{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": p.purl(r, d)}},
			"checksums":    []map[string]string{{"algorithm": strings.ToUpper(d.Algorithm()), "checksumValue": d.Hex()}}}
		if platform != "" {
			pkg["comment"] = "image for " + platform
		}
		return pkg
	}
	packages := []any{one(d, "")}
	relationships := []map[string]string{{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id(d)}}
	for _, m := range members {
		packages = append(packages, one(m.Digest, m.Platform))
		relationships = append(relationships, map[string]string{"spdxElementId": id(m.Digest), "relationshipType": "VARIANT_OF", "relatedSpdxElement": id(d)})
	}
	return json.Marshal(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": r.String() + "@" + d.String(),
		"documentNamespace": "https://waybill.dev/spdx/" + d.Algorithm() + "-" + d.Hex(),
		"creationInfo":      map[string]any{"created": instant(at), "creators": []string{"Tool: waybill-" + p.Version}},
		"packages":          packages, "relationships": relationships,
	})
}
