//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"maps"
	"sync"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy/pkg/detector/library"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/types"
)

// A process sees one database in its life, and images have most of their packages in common: what the database says of
// a package, or of a vulnerability, is remembered. Both memories are emptied when they are full.
const (
	maxDetected = 50_000 // vulnerabilities of packages, some 30 MB
	maxDetails  = 20_000 // vulnerabilities, some 40 MB
)

// languages is Trivy's scanner of language packages (pkg/scan/langpkg), whose answer about a package follows from its type,
// name and version alone.
type languages struct {
	langpkg.Scanner // lists packages

	mu       sync.Mutex
	detected map[languagePackage][]types.DetectedVulnerability
	size     int
}

type languagePackage struct {
	language          ftypes.LangType
	id, name, version string
}

// Scan lists the packages of a target and finds their vulnerabilities.
func (l *languages) Scan(ctx context.Context, target types.ScanTarget, options types.ScanOptions) (types.Results, error) {
	listing := options
	listing.Scanners = nil
	results, err := l.Scanner.Scan(ctx, target, listing)
	if err != nil || !options.Scanners.Enabled(types.VulnerabilityScanner) {
		return results, err
	}
	for i, r := range results {
		for _, p := range r.Packages {
			found, err := l.detect(ctx, r.Type, p)
			if err != nil {
				return nil, err
			}
			for _, v := range found {
				v.Layer, v.PkgPath, v.PkgIdentifier = p.Layer, p.FilePath, p.Identifier
				results[i].Vulnerabilities = append(results[i].Vulnerabilities, v)
			}
		}
	}
	return results, nil
}

func (l *languages) detect(ctx context.Context, language ftypes.LangType, p ftypes.Package) ([]types.DetectedVulnerability, error) {
	key := languagePackage{language, p.ID, p.Name, p.Version}
	l.mu.Lock()
	found, known := l.detected[key]
	l.mu.Unlock()
	if known {
		return found, nil
	}
	found, err := library.Detect(ctx, language, []ftypes.Package{{ID: p.ID, Name: p.Name, Version: p.Version}})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size += len(found) + 1; l.detected == nil || l.size > maxDetected {
		l.detected, l.size = map[languagePackage][]types.DetectedVulnerability{}, len(found)+1
	}
	l.detected[key] = found
	return found, nil
}

// details is the database as it is asked about vulnerabilities.
type details struct {
	trivydb.Config

	mu    sync.Mutex
	known map[string]dbtypes.Vulnerability
}

// GetVulnerability returns what findings need of a vulnerability: no description. The map is the caller's to change.
func (d *details) GetVulnerability(id string) (dbtypes.Vulnerability, error) {
	d.mu.Lock()
	v, known := d.known[id]
	d.mu.Unlock()
	if !known {
		var err error
		if v, err = d.Config.GetVulnerability(id); err != nil {
			return v, err
		}
		v.Description, v.CVSS, v.CweIDs = "", nil, nil
		d.mu.Lock()
		if d.known == nil || len(d.known) >= maxDetails {
			d.known = map[string]dbtypes.Vulnerability{}
		}
		d.known[id] = v
		d.mu.Unlock()
	}
	v.VendorSeverity = maps.Clone(v.VendorSeverity)
	return v, nil
}
