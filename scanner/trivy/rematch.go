//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	ours "waybill/artifact"
	"waybill/scanner"
)

// contents is what matching asks of an image: the stacked packages of all layers.
type contents struct {
	Format       int
	OS           ftypes.OS           `json:",omitzero"`
	Repository   *ftypes.Repository  `json:",omitempty"`
	Packages     ftypes.Packages     `json:",omitempty"`
	Applications ftypes.Applications `json:",omitempty"`
}

// contentsFormat is the version of contents' meaning; another is matched from the layers' analyses anew.
const contentsFormat = 1

// maxContents bounds what one image's contents decompress to, in bytes.
const maxContents = 256 << 20

var (
	compressor, _   = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	decompressor, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxContents))
)

// pack keeps of a target what matching asks for, and leaves out what is long: files, maintainers, dependencies, licences.
func pack(target types.ScanTarget) ([]byte, error) {
	slim := func(all ftypes.Packages) ftypes.Packages {
		kept := make(ftypes.Packages, len(all))
		for i, p := range all {
			p.InstalledFiles, p.DependsOn, p.Licenses, p.Maintainer, p.Digest, p.Locations = nil, nil, nil, "", "", nil
			kept[i] = p
		}
		return kept
	}
	c := contents{Format: contentsFormat, OS: target.OS, Repository: target.Repository, Packages: slim(target.Packages)}
	for _, app := range target.Applications {
		c.Applications = append(c.Applications, ftypes.Application{Type: app.Type, FilePath: app.FilePath, Packages: slim(app.Packages)})
	}
	b, err := json.Marshal(c)
	return compressor.EncodeAll(b, nil), err
}

// unpack is pack's opposite.
func unpack(packed []byte) (target types.ScanTarget, err error) {
	b, err := decompressor.DecodeAll(packed, nil)
	if err != nil {
		return target, fmt.Errorf("stored contents: %w", err)
	}
	var c contents
	if err := json.Unmarshal(b, &c); err != nil {
		return target, fmt.Errorf("stored contents: %w", err)
	}
	if c.Format != contentsFormat {
		return target, fmt.Errorf("stored contents are of format %d; this program reads %d", c.Format, contentsFormat)
	}
	return types.ScanTarget{OS: c.OS, Repository: c.Repository, Packages: c.Packages, Applications: c.Applications}, nil
}

// Rematch finds the vulnerabilities of many images, on all cores.
func (s *Scanner) Rematch(ctx context.Context, m scanner.RematchRequest) (scanner.RematchResult, error) {
	if m.Database == "" {
		return scanner.RematchResult{}, errors.New("no database to match with")
	}
	if err := s.open(); err != nil {
		return scanner.RematchResult{}, err
	}
	result := scanner.RematchResult{Images: make([]scanner.Rematched, len(m.Images))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, image := range m.Images {
		group.Go(func() error {
			answer, err := s.rematch(ctx, image)
			if err != nil {
				answer = scanner.Rematched{Failed: err.Error()}
			}
			result.Images[i] = answer
			return nil
		})
	}
	return result, group.Wait()
}

func (s *Scanner) rematch(ctx context.Context, image scanner.RematchImage) (scanner.Rematched, error) {
	target, err := unpack(image.Contents)
	if err != nil {
		return scanner.Rematched{}, err
	}
	options := scanOptions()
	options.Scanners = types.Scanners{types.VulnerabilityScanner}
	results, _, err := s.scan(ctx, target, options)
	if err != nil {
		return scanner.Rematched{}, err
	}
	found := findings(results)
	digest, err := digestOf(found)
	if err != nil || digest == image.Vulnerabilities {
		return scanner.Rematched{}, err
	}
	return scanner.Rematched{Changed: true, Findings: found, Vulnerabilities: digest}, nil
}

// digestOf identifies the vulnerabilities among sorted findings.
func digestOf(all []ours.Finding) (ours.Digest, error) {
	only := make([]ours.Finding, 0, len(all))
	for _, f := range all {
		if f.Class == ours.ClassVulnerability {
			only = append(only, f)
		}
	}
	b, err := json.Marshal(only)
	return ours.DigestOf(b), err
}
