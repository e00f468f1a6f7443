//go:build goexperiment.jsonv2

// Package trivy is what runs in the scanner process: Trivy's analysers on the tar that package layer reads, and Trivy's
// matching of the packages that they found. It is the only importer of Trivy. Trivy keeps its database and its secret
// rules in globals, so a process has one Scanner, and one request at a time.
package trivy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/aquasecurity/trivy/pkg/db"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/artifact"
	"github.com/aquasecurity/trivy/pkg/fanal/handler"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/fanal/walker"
	"github.com/aquasecurity/trivy/pkg/semaphore"
	"golang.org/x/sync/errgroup"

	_ "github.com/aquasecurity/trivy/pkg/fanal/analyzer/all" // analysers register themselves
	_ "github.com/aquasecurity/trivy/pkg/fanal/handler/all"  // so do handlers

	ours "waybill/artifact"
	"waybill/layer"
	"waybill/scanner"
)

// parallel is how many files are analysed at once: each may be held in memory.
const parallel = 2

// Scanner analyses and matches.
type Scanner struct {
	version  string // of Waybill, for the SBOM
	group    analyzer.AnalyzerGroup
	handlers handler.Manager
	analyser string
	database string   // name of the folder that is open; empty: none
	folder   *os.File // it, kept so that its path stays good
}

// New makes the analysers, once.
func New(version string) (*Scanner, error) {
	opt := artifact.Option{
		Type: types.TypeContainerImage, Offline: true, NoProgress: true, Parallel: parallel,
		// As `trivy image` does, for the scanners vuln and secret. Jars want a database of their own.
		DisabledAnalyzers: append([]analyzer.Type{analyzer.TypeApkCommand, analyzer.TypeLicenseFile, analyzer.TypeHistoryDockerfile,
			analyzer.TypeExecutable, analyzer.TypeRpmArchive, analyzer.TypeJar}, append(analyzer.TypeLockfiles, analyzer.TypeConfigFiles...)...),
	}
	group, err := analyzer.NewAnalyzerGroup(opt.AnalyzerOptions())
	if err != nil {
		return nil, fmt.Errorf("make analysers: %w", err)
	}
	handlers, err := handler.NewManager(opt)
	if err != nil {
		return nil, fmt.Errorf("make handlers: %w", err)
	}
	versions, err := json.Marshal(group.AnalyzerVersions())
	return &Scanner{version: version, group: group, handlers: handlers, analyser: fmt.Sprintf("%x", sha256.Sum256(versions))[:16]}, err
}

// Analyse reads a layer once: the bytes that layer.Read decompresses, bounds and lists go on to Trivy's analysers.
func (s *Scanner) Analyse(ctx context.Context, blob io.Reader) (scanner.Analysis, error) {
	r, w := io.Pipe()
	type outcome struct {
		facts ours.LayerFacts
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		facts, err := layer.Read(blob, layer.Options{Tee: w})
		// The analysers must not take a refused layer's beginning for all of it.
		_ = w.CloseWithError(err)
		done <- outcome{facts, err}
	}()
	info, analyseErr := s.walk(ctx, r)
	r.Close() // analysers that failed must not hold up the facts
	read := <-done
	if read.err != nil {
		return scanner.Analysis{}, read.err
	}
	if analyseErr != nil {
		return scanner.Analysis{}, fmt.Errorf("its packages cannot be read: %w", analyseErr)
	}
	info.Digest, info.DiffID, info.Size = read.facts.Digest.String(), read.facts.DiffID.String(), read.facts.Uncompressed
	read.facts.Packages = systemPackages(info)
	encoded, err := json.Marshal(info)
	return scanner.Analysis{Facts: read.facts, Analyser: s.analyser, Blob: encoded}, err
}

// walk is Trivy's own inspection of one layer (pkg/fanal/artifact/image, inspectLayer), on a tar that is given.
func (s *Scanner) walk(ctx context.Context, tar io.Reader) (types.BlobInfo, error) {
	analysing, analyseCtx := errgroup.WithContext(ctx)
	options := analyzer.AnalysisOptions{Offline: true}
	result, limit := analyzer.NewAnalysisResult(), semaphore.New(parallel)
	composite, err := s.group.PostAnalyzerFS()
	if err != nil {
		return types.BlobInfo{}, err
	}
	defer func() { _ = composite.Cleanup() }()
	opaque, whiteouts, walkErr := walker.NewLayerTar(walker.Option{}).Walk(tar, func(path string, info os.FileInfo, open analyzer.Opener) error {
		if err := s.group.AnalyzeFile(analyseCtx, analysing, limit, result, "", path, info, open, nil, options); err != nil {
			return err
		}
		after := s.group.RequiredPostAnalyzers(path, info)
		if len(after) == 0 {
			return nil
		}
		copied, err := composite.CopyFileToTemp(open, info)
		if err != nil {
			return err
		}
		return composite.CreateLink(after, "", path, copied)
	})
	if err := analysing.Wait(); err != nil {
		return types.BlobInfo{}, err
	}
	if walkErr != nil {
		return types.BlobInfo{}, walkErr
	}
	if err := s.group.PostAnalyze(ctx, composite, result, options); err != nil {
		return types.BlobInfo{}, err
	}
	// What the archive is padded with is hashed too.
	if _, err := io.Copy(io.Discard, tar); err != nil {
		return types.BlobInfo{}, err
	}
	result.Sort()
	info := types.BlobInfo{SchemaVersion: types.BlobJSONSchemaVersion, OpaqueDirs: opaque, WhiteoutFiles: whiteouts, OS: result.OS, Repository: result.Repository,
		PackageInfos: result.PackageInfos, Applications: result.Applications, Misconfigurations: result.Misconfigurations, Secrets: result.Secrets,
		Licenses: result.Licenses, CustomResources: result.CustomResources, BuildInfo: result.BuildInfo}
	return info, s.handlers.PostHandle(ctx, result, &info)
}

// systemPackages lists what the operating system's package databases of a layer name.
func systemPackages(info types.BlobInfo) []ours.Package {
	var all []ours.Package
	for _, file := range info.PackageInfos {
		for _, p := range file.Packages {
			all = append(all, ours.Package{Name: p.Name, Version: version(p), Type: databaseType(file.FilePath), File: file.FilePath})
		}
	}
	return all
}

// databaseType says what package manager a database file is of.
func databaseType(path string) string {
	switch first := filepath.ToSlash(path); {
	case len(first) >= 12 && first[:12] == "var/lib/dpkg":
		return "deb"
	case len(first) >= 10 && (first[:10] == "lib/apk/db" || filepath.Base(first) == "installed"):
		return "apk"
	}
	return "rpm"
}

func version(p types.Package) string {
	v := p.Version
	if p.Release != "" {
		v += "-" + p.Release
	}
	if p.Epoch != 0 {
		v = fmt.Sprintf("%d:%s", p.Epoch, v)
	}
	return v
}

// Check opens a database and reads from it. folder is open; its name is a path to it.
func (s *Scanner) Check(name string, folder *os.File) (scanner.DatabaseInfo, error) {
	m, err := metadata.NewClient(folder.Name()).Get()
	if err != nil {
		return scanner.DatabaseInfo{}, fmt.Errorf("metadata.json: %w", err)
	}
	if m.Version != trivydb.SchemaVersion {
		return scanner.DatabaseInfo{}, fmt.Errorf("it is of schema %d; this program reads %d", m.Version, trivydb.SchemaVersion)
	}
	if err := s.open(name, folder); err != nil {
		return scanner.DatabaseInfo{}, err
	}
	return scanner.DatabaseInfo{Schema: m.Version, UpdatedAt: m.UpdatedAt.UTC().Truncate(time.Microsecond)}, nil
}

// open makes the database of a folder the one that matching reads, and keeps the folder; one that is open already is
// not opened again.
func (s *Scanner) open(name string, folder *os.File) (err error) {
	if s.database == name {
		return folder.Close()
	}
	if s.database != "" {
		if err := trivydb.Close(); err != nil {
			return err
		}
		s.folder.Close()
		s.database, s.folder = "", nil
	}
	// bbolt panics on pages that are not its own.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the database is damaged: %v", v)
		}
	}()
	if err := db.Init(folder.Name()); err != nil {
		return fmt.Errorf("open advisory database: %w", err)
	}
	s.database, s.folder = name, folder
	return nil
}
