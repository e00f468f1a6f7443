//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/licensing/expression"
	"github.com/aquasecurity/trivy/pkg/result"
	"github.com/aquasecurity/trivy/pkg/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	ours "waybill/artifact"
	"waybill/scanner"
)

// scanOptions are those of `trivy image --scanners vuln,secret,license --image-config-scanners misconfig,secret`.
func scanOptions() types.ScanOptions {
	return types.ScanOptions{PkgTypes: types.PkgTypes, PkgRelationships: ftypes.Relationships, LicenseCategories: licenseCategories,
		VulnSeveritySources: []dbtypes.SourceID{"auto"}, ImageConfigScanners: types.Scanners{types.MisconfigScanner, types.SecretScanner},
		Scanners: types.Scanners{types.SBOMScanner, types.SecretScanner, types.LicenseScanner}}
}

// Match stacks what Analyse learned of each layer and matches the packages with the advisory database, if the request
// names one.
func (s *Scanner) Match(ctx context.Context, m scanner.MatchRequest) (scanner.MatchResult, error) {
	stored, err := s.newStored(ctx, m)
	if err != nil {
		return scanner.MatchResult{}, err
	}
	if m.Java != "" {
		if stored.java, err = s.openedJava(); err != nil {
			return scanner.MatchResult{}, err
		}
	}
	options := scanOptions()
	if m.Database != "" {
		if err := s.open(); err != nil {
			return scanner.MatchResult{}, err
		}
		options.Scanners = append(options.Scanners, types.VulnerabilityScanner)
	}
	target, err := stored.target(ctx, m.Name)
	if err != nil {
		return scanner.MatchResult{}, err
	}
	results, os, err := s.scan(ctx, target, options)
	if err != nil {
		return scanner.MatchResult{}, err
	}
	matched := scanner.MatchResult{OS: strings.TrimSpace(string(os.Family) + " " + os.Name), Packages: packages(results), Findings: findings(results)}
	matched.Jars = stored.jars
	matched.Vulnerabilities = packHashes(hashesOf(vulnerabilities(matched.Findings)))
	if matched.Contents, err = pack(target); err != nil {
		return scanner.MatchResult{}, err
	}
	if m.SBOM {
		matched.CycloneDX, matched.SPDX, err = s.sboms(ctx, m, stored, os, results)
	}
	return matched, err
}

// scan finds what Trivy's command would print: its service, and its filter, which drops what is said twice.
func (s *Scanner) scan(ctx context.Context, target types.ScanTarget, options types.ScanOptions) (types.Results, ftypes.OS, error) {
	results, os, err := s.service.ScanTarget(ctx, target, options)
	if err != nil {
		return nil, os, err
	}
	for i := range results {
		if err := result.FilterResult(ctx, &results[i], result.IgnoreConfig{}, result.FilterOptions{Severities: severities}); err != nil {
			return nil, os, err
		}
	}
	return results, os, nil
}

var severities = []dbtypes.Severity{dbtypes.SeverityUnknown, dbtypes.SeverityLow, dbtypes.SeverityMedium, dbtypes.SeverityHigh, dbtypes.SeverityCritical}

func packages(results types.Results) []ours.Package {
	all := []ours.Package{}
	for _, r := range results {
		for _, p := range r.Packages {
			one := ours.Package{Name: p.Name, Version: version(p), Type: string(r.Type), File: p.FilePath, Licenses: p.Licenses, Layer: diffID(p.Layer)}
			if one.File == "" && r.Class == types.ClassLangPkg {
				one.File = r.Target
			}
			one.PURL = packageURL(p.Identifier)
			all = append(all, one)
		}
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		return a.Type+"\x00"+a.Name+"\x00"+a.Version+"\x00"+a.File < b.Type+"\x00"+b.Name+"\x00"+b.Version+"\x00"+b.File
	})
	return all
}

// licenseCategories are Trivy's own (pkg/flag/license_flags.go), after Google's classification: what is forbidden is
// critical, what is restricted high, what is reciprocal medium.
var licenseCategories = map[ftypes.LicenseCategory][]string{
	ftypes.CategoryForbidden: expression.ForbiddenLicenses, ftypes.CategoryRestricted: expression.RestrictedLicenses,
	ftypes.CategoryReciprocal: expression.ReciprocalLicenses, ftypes.CategoryNotice: expression.NoticeLicenses,
	ftypes.CategoryPermissive: expression.PermissiveLicenses, ftypes.CategoryUnencumbered: expression.UnencumberedLicenses,
}

// lockFiles are the kinds of files that name packages which may be installed elsewhere, or nowhere.
var lockFiles = func() map[ftypes.LangType]bool {
	all := map[ftypes.LangType]bool{}
	for _, t := range analyzer.TypeLockfiles {
		all[ftypes.LangType(t)] = true
	}
	// Which `trivy image` reads too, and those whose packages are called otherwise than their analysers.
	for _, t := range []ftypes.LangType{ftypes.Cargo, ftypes.GoModule, ftypes.Gradle, ftypes.Sbt, ftypes.Conan, ftypes.CondaEnv, ftypes.Pub, ftypes.Hex, ftypes.Cocoapods} {
		all[t] = true
	}
	return all
}()

func findings(results types.Results) []ours.Finding {
	all := []ours.Finding{}
	for _, r := range results {
		for _, v := range r.Vulnerabilities {
			f := ours.Finding{Class: ours.ClassVulnerability, ID: v.VulnerabilityID, Severity: severity(v.Severity), Package: v.PkgName, Installed: v.InstalledVersion,
				Fixed: v.FixedVersion, Title: v.Title, URL: v.PrimaryURL, PURL: packageURL(v.PkgIdentifier), Path: v.PkgPath, Layer: diffID(v.Layer), LockFile: lockFiles[r.Type]}
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
			all = append(all, ours.Finding{Class: ours.ClassSecret, ID: secret.RuleID, Severity: severity(secret.Severity), Title: secret.Title, Path: r.Target, Layer: diffID(secret.Layer)})
		}
		for _, m := range r.Misconfigurations {
			all = append(all, ours.Finding{Class: ours.ClassMisconfiguration, ID: m.ID, Severity: severity(m.Severity), Title: m.Title + ": " + m.Message, URL: m.PrimaryURL, Path: r.Target})
		}
		for _, l := range r.Licenses {
			all = append(all, ours.Finding{Class: ours.ClassLicense, ID: l.Name, Severity: severity(l.Severity), Package: l.PkgName, Title: string(l.Category), Path: l.FilePath})
		}
	}
	ours.SortFindings(all)
	return slices.Compact(all)
}

func packageURL(id ftypes.PkgIdentifier) string {
	if id.PURL == nil {
		return ""
	}
	return id.PURL.String()
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

// stored is a cache.LocalArtifactCache of one image: what the request brought.
type stored struct {
	id      string
	keys    []string
	diffIDs []string
	blobs   map[string][]byte
	info    ftypes.ArtifactInfo
	java    *javaDatabase // nil: none
	jars    bool          // whether there are some that only the Java database tells
}

func (s *Scanner) newStored(ctx context.Context, m scanner.MatchRequest) (*stored, error) {
	var config v1.ConfigFile
	if err := json.Unmarshal(m.Config, &config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	image := &stored{id: m.Digest.String(), blobs: map[string][]byte{}, info: ftypes.ArtifactInfo{SchemaVersion: ftypes.ArtifactJSONSchemaVersion,
		Architecture: config.Architecture, OS: config.OS, Created: config.Created.Time}}
	if err := s.configs.analyse(ctx, &config, &image.info); err != nil {
		return nil, err
	}
	for i, b := range m.Layers {
		var info struct{ DiffID string }
		if err := json.Unmarshal(b, &info); err != nil {
			return nil, fmt.Errorf("analysis of layer %d: %w", i, err)
		}
		key := fmt.Sprintf("layer-%d", i)
		image.keys, image.diffIDs = append(image.keys, key), append(image.diffIDs, info.DiffID)
		image.blobs[key] = b
	}
	return image, nil
}

// target stacks the layers, as the first half of Trivy's local.Service.Scan does (pkg/scan/local/service.go): what is
// scanned is kept for Rematch too, and that service would not give it.
func (s *stored) target(ctx context.Context, name string) (types.ScanTarget, error) {
	detail, err := applier.NewApplier(s).ApplyLayers(ctx, s.id, s.keys)
	switch {
	case errors.Is(err, analyzer.ErrUnknownOS):
		if len(detail.Packages) != 0 {
			detail.OS = ftypes.OS{Family: "none"}
		}
		if detail.Repository != nil {
			detail.OS = ftypes.OS{Family: detail.Repository.Family, Name: detail.Repository.Release}
		}
	case errors.Is(err, analyzer.ErrNoPkgsDetected):
	case err != nil:
		return types.ScanTarget{}, fmt.Errorf("stack layers: %w", err)
	}
	target := types.ScanTarget{Name: name, OS: detail.OS, Repository: detail.Repository, Packages: detail.Packages, Applications: detail.Applications,
		Misconfigurations: detail.Misconfigurations, Secrets: detail.Secrets, Licenses: detail.Licenses, CustomResources: detail.CustomResources}
	// The config is no file, and named so that nobody looks for one.
	if found := detail.ImageConfig.Misconfiguration; found != nil {
		found.FilePath = configName
		target.Misconfigurations = append(target.Misconfigurations, *found)
	}
	if found := detail.ImageConfig.Secret; found != nil {
		found.FilePath = configName
		target.Secrets = append(target.Secrets, *found)
	}
	return target, nil
}

// configName stands for the path where the image config has a finding.
const configName = "image config"

// GetArtifact returns the image's own information.
func (s *stored) GetArtifact(context.Context, string) (ftypes.ArtifactInfo, error) {
	return s.info, nil
}

// GetBlob returns a fresh copy each time: Trivy sorts and filters in place.
func (s *stored) GetBlob(ctx context.Context, key string) (info ftypes.BlobInfo, err error) {
	b, ok := s.blobs[key]
	if !ok {
		return info, errors.New("no such layer")
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, err
	}
	var jars bool
	info.Applications, jars, err = s.java.named(ctx, info.Applications)
	s.jars = s.jars || jars
	return info, err
}

// Close has nothing to close.
func (s *stored) Close() error { return nil }

// Clear has nothing to clear.
func (s *stored) Clear(context.Context) error { return nil }
