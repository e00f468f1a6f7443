//go:build goexperiment.jsonv2

package trivy

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

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
	hashes := hashesOf(found)
	packed := packHashes(hashes)
	if bytes.Equal(packed, image.Vulnerabilities) {
		return scanner.Rematched{}, nil
	}
	answer := scanner.Rematched{Changed: true, Vulnerabilities: packed, Counts: ours.CountFindings(found)}
	before := map[int64]bool{}
	for packed := image.Vulnerabilities; len(packed) >= 8; packed = packed[8:] {
		before[int64(binary.BigEndian.Uint64(packed))] = true
	}
	for i, hash := range hashes {
		if !before[hash] {
			answer.Added = append(answer.Added, found[i])
		}
		delete(before, hash)
	}
	for hash := range before {
		answer.Gone = append(answer.Gone, hash)
	}
	return answer, nil
}

func hashesOf(all []ours.Finding) []int64 {
	hashes := make([]int64, len(all))
	for i, f := range all {
		hashes[i] = f.Hash()
	}
	return hashes
}

func packHashes(hashes []int64) []byte {
	sorted := slices.Sorted(slices.Values(hashes))
	packed := make([]byte, 0, 8*len(sorted))
	for _, h := range sorted {
		packed = binary.BigEndian.AppendUint64(packed, uint64(h))
	}
	return packed
}

// vulnerabilities are those among findings.
func vulnerabilities(all []ours.Finding) []ours.Finding {
	return slices.DeleteFunc(slices.Clone(all), func(f ours.Finding) bool { return f.Class != ours.ClassVulnerability })
}
