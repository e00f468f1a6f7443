//go:build goexperiment.jsonv2

package trivy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy/pkg/clock"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/sbom/cyclonedx"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/local"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	guuid "github.com/google/uuid"

	ours "waybill/artifact"
	"waybill/scanner"
)

// Match stacks what Analyse learned of each layer and matches the packages with the advisory database, if the request
// names one.
func (s *Scanner) Match(ctx context.Context, m scanner.MatchRequest) (scanner.MatchResult, error) {
	stored, err := newStored(m)
	if err != nil {
		return scanner.MatchResult{}, err
	}
	options := types.ScanOptions{PkgTypes: types.PkgTypes, PkgRelationships: ftypes.Relationships,
		Scanners: types.Scanners{types.SBOMScanner, types.SecretScanner}, VulnSeveritySources: nil}
	if m.Database != "" {
		if err := s.open(); err != nil {
			return scanner.MatchResult{}, err
		}
		options.Scanners = append(options.Scanners, types.VulnerabilityScanner)
		options.VulnSeveritySources = append(options.VulnSeveritySources, "auto")
	}
	service := local.NewService(applier.NewApplier(stored), ospkg.NewScanner(), langpkg.NewScanner(), vulnerability.NewClient(trivydb.Config{}))
	response, err := service.Scan(ctx, m.Name, stored.id, stored.keys, options)
	if err != nil {
		return scanner.MatchResult{}, err
	}
	result := scanner.MatchResult{OS: strings.TrimSpace(string(response.OS.Family) + " " + response.OS.Name), Packages: packages(response.Results), Findings: findings(response.Results)}
	if m.SBOM {
		result.CycloneDX, err = s.sbom(ctx, m, stored, response)
	}
	return result, err
}

func packages(results types.Results) []ours.Package {
	all := []ours.Package{}
	for _, r := range results {
		for _, p := range r.Packages {
			one := ours.Package{Name: p.Name, Version: version(p), Type: string(r.Type), File: p.FilePath, Licenses: p.Licenses, Layer: diffID(p.Layer)}
			if one.File == "" && r.Class == types.ClassLangPkg {
				one.File = r.Target
			}
			if p.Identifier.PURL != nil {
				one.PURL = p.Identifier.PURL.String()
			}
			all = append(all, one)
		}
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		return a.Type+"\x00"+a.Name+"\x00"+a.Version+"\x00"+a.File < b.Type+"\x00"+b.Name+"\x00"+b.Version+"\x00"+b.File
	})
	return all
}

func findings(results types.Results) []ours.Finding {
	all := []ours.Finding{}
	for _, r := range results {
		for _, v := range r.Vulnerabilities {
			f := ours.Finding{Class: "vulnerability", ID: v.VulnerabilityID, Severity: severity(v.Severity), Package: v.PkgName, Installed: v.InstalledVersion,
				Fixed: v.FixedVersion, Title: v.Title, URL: v.PrimaryURL, Path: v.PkgPath, Layer: diffID(v.Layer)}
			if f.Path == "" && r.Class == types.ClassLangPkg {
				f.Path = r.Target
			}
			if v.PublishedDate != nil {
				f.PublishedAt = v.PublishedDate.UTC()
			}
			all = append(all, f)
		}
		for _, secret := range r.Secrets {
			// What was found is not repeated: the finding must not be another place where the secret is.
			all = append(all, ours.Finding{Class: "secret", ID: secret.RuleID, Severity: severity(secret.Severity), Title: secret.Title, Path: r.Target, Layer: diffID(secret.Layer)})
		}
	}
	sort.SliceStable(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if a.Severity.Rank() != b.Severity.Rank() {
			return a.Severity.Rank() > b.Severity.Rank()
		}
		return a.ID+"\x00"+a.Package+"\x00"+a.Path < b.ID+"\x00"+b.Package+"\x00"+b.Path
	})
	return all
}

func severity(s string) ours.Severity {
	if known := ours.Severity(strings.ToLower(s)); known.Rank() >= 0 {
		return known
	}
	return ours.Unknown
}

func diffID(l ftypes.Layer) ours.Digest {
	d, _ := ours.ParseDigest(l.DiffID) // a package that no layer has has none
	return d
}

// sbom writes CycloneDX. Its ids and its time follow from the image, so that one image has one SBOM.
func (s *Scanner) sbom(ctx context.Context, m scanner.MatchRequest, stored *stored, response types.ScanResponse) ([]byte, error) {
	var config v1.ConfigFile
	if err := json.Unmarshal(m.Config, &config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	ctx = clock.With(ctx, m.Created)
	var seed [32]byte
	copy(seed[:], m.Digest.Hex())
	guuid.SetRand(rand.NewChaCha8(seed))
	defer guuid.SetRand(nil)
	found := response.OS
	report := types.Report{SchemaVersion: 2, CreatedAt: m.Created, ArtifactName: m.Name + "@" + m.Digest.String(), ArtifactType: ftypes.TypeContainerImage, Results: response.Results,
		Metadata: types.Metadata{OS: &found, DiffIDs: stored.diffIDs, RepoDigests: []string{m.Name + "@" + m.Digest.String()}, ImageConfig: config}}
	marshaler := cyclonedx.NewMarshaler(s.version)
	bom, err := marshaler.MarshalReport(ctx, report)
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	bom.SerialNumber = "urn:uuid:" + guuid.NewSHA1(guuid.NameSpaceURL, []byte(m.Digest.String())).String()
	var b bytes.Buffer
	encoder := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON)
	if err := encoder.Encode(bom); err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	return b.Bytes(), nil
}

// stored is a cache.LocalArtifactCache of one image: what the request brought.
type stored struct {
	id      string
	keys    []string
	diffIDs []string
	blobs   map[string][]byte
	info    ftypes.ArtifactInfo
}

func newStored(m scanner.MatchRequest) (*stored, error) {
	var config struct {
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Created      time.Time `json:"created"`
	}
	if err := json.Unmarshal(m.Config, &config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	s := &stored{id: m.Digest.String(), blobs: map[string][]byte{}, info: ftypes.ArtifactInfo{SchemaVersion: ftypes.ArtifactJSONSchemaVersion,
		Architecture: config.Architecture, OS: config.OS, Created: config.Created}}
	for i, b := range m.Layers {
		var info struct{ DiffID string }
		if err := json.Unmarshal(b, &info); err != nil {
			return nil, fmt.Errorf("analysis of layer %d: %w", i, err)
		}
		key := fmt.Sprintf("layer-%d", i)
		s.keys, s.diffIDs = append(s.keys, key), append(s.diffIDs, info.DiffID)
		s.blobs[key] = b
	}
	return s, nil
}

// GetArtifact returns the image's own information.
func (s *stored) GetArtifact(context.Context, string) (ftypes.ArtifactInfo, error) {
	return s.info, nil
}

// GetBlob returns a fresh copy each time: Trivy sorts and filters in place.
func (s *stored) GetBlob(_ context.Context, key string) (info ftypes.BlobInfo, err error) {
	b, ok := s.blobs[key]
	if !ok {
		return info, errors.New("no such layer")
	}
	return info, json.Unmarshal(b, &info)
}

// Close has nothing to close.
func (s *stored) Close() error { return nil }

// Clear has nothing to clear.
func (s *stored) Clear(context.Context) error { return nil }
