//go:build goexperiment.jsonv2

// Package trivy is what runs in the scanner process: Trivy's analysers on the tar that package layer reads, and Trivy's
// matching of the packages that they found. It is the only importer of Trivy. Trivy keeps its database and its secret
// rules in globals, so a process has one Scanner, and one request at a time.
package trivy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
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
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/local"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/semaphore"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	_ "github.com/aquasecurity/trivy/pkg/fanal/analyzer/all" // analysers register themselves
	_ "github.com/aquasecurity/trivy/pkg/fanal/handler/all"  // so do handlers

	ours "waybill/artifact"
	"waybill/layer"
	"waybill/scanner"
)

// parallel is how many files are analysed at once: each may be held in memory.
const parallel = 2

// searched is the largest file, in bytes, that is searched for secrets. That goes at some 13 MB a second, so that a
// layer of large texts would not be done in time.
const searched = 64 << 20

// Scanner analyses and matches.
type Scanner struct {
	version  string // of Waybill, for the SBOM
	group    analyzer.AnalyzerGroup
	handlers handler.Manager
	configs  *configs
	service  local.Service
	analyser string
	database string // the folder of the one database that this process sees; empty: none
	opened   bool   // whether it is
	java     string // the folder of the one Java database, likewise

	javaOpened *javaDatabase // nil until it is asked for
}

// New makes the analysers, once. database is the folder of an advisory database, and java that of a Java database, each
// opened when it is first asked for; empty: none.
func New(version, database, java string) (*Scanner, error) {
	registerJars()
	opt := artifact.Option{
		Type: types.TypeContainerImage, Offline: true, NoProgress: true, Parallel: parallel,
		// As `trivy image --scanners vuln,secret,license` does, and lock files too, as `trivy fs` does. Off are what wants the
		// network (executables, in Rekor), what no other installed (packages that a build's commands name, RPM archives that
		// lie about), files of infrastructure as code, and the classifier of every file's licence text; jars have another.
		DisabledAnalyzers: append([]analyzer.Type{analyzer.TypeApkCommand, analyzer.TypeLicenseFile, analyzer.TypeExecutable, analyzer.TypeRpmArchive, analyzer.TypeJar},
			analyzer.TypeConfigFiles...),
		LicenseScannerOption: analyzer.LicenseScannerOption{ClassifierConfidenceLevel: 0.9}, // the command's default
	}
	useSecrets()
	group, err := analyzer.NewAnalyzerGroup(opt.AnalyzerOptions())
	if err != nil {
		return nil, fmt.Errorf("make analysers: %w", err)
	}
	handlers, err := handler.NewManager(opt)
	if err != nil {
		return nil, fmt.Errorf("make handlers: %w", err)
	}
	service := local.NewService(nil, ospkg.NewScanner(), &languages{Scanner: langpkg.NewScanner()}, vulnerability.NewClient(&details{}))
	versions, err := json.Marshal(group.AnalyzerVersions())
	return &Scanner{version: version, database: database, java: java, group: group, handlers: handlers, configs: newConfigs(), service: service, analyser: fmt.Sprintf("%x", sha256.Sum256(versions))[:16]}, err
}

// Analyse reads a layer once: the bytes that layer.Read decompresses, bounds and lists go on to Trivy's analysers, which
// are its Tee.
func (s *Scanner) Analyse(ctx context.Context, blob io.Reader, opt layer.Options) (scanner.Analysis, error) {
	r, w := io.Pipe()
	type outcome struct {
		facts ours.LayerFacts
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		// One hand-over for many of the archive's small pieces: the two sides take turns.
		tee := bufio.NewWriterSize(w, 256<<10)
		opt.Tee = tee
		facts, err := layer.Read(blob, opt)
		if err == nil {
			_ = tee.Flush() // that the analysers stopped reading is theirs to say
		}
		// The analysers must not take a refused layer's beginning for all of it.
		_ = w.CloseWithError(err)
		done <- outcome{facts, err}
	}()
	// The analysers lag behind where files are many, and catch up where they are large.
	ahead, err := layer.Ahead(r, 8)
	if err != nil {
		return scanner.Analysis{}, err
	}
	info, analyseErr := s.walk(ctx, ahead)
	r.Close() // analysers that failed must not hold up the facts
	ahead.Close()
	read := <-done
	if read.err != nil {
		return scanner.Analysis{}, read.err
	}
	if analyseErr != nil {
		return scanner.Analysis{}, fmt.Errorf("its packages cannot be read: %w", analyseErr)
	}
	if path := unread(read.facts, info); path != "" {
		return scanner.Analysis{}, fmt.Errorf("the package database %s cannot be read", path)
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
		var without []analyzer.Type
		if info.Size() > searched {
			without = append(without, analyzer.TypeSecret)
		}
		if err := s.group.AnalyzeFile(analyseCtx, analysing, limit, result, "", path, info, open, without, options); err != nil {
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

// packageDatabases are the files whose packages Trivy reads (pkg/fanal/analyzer/pkg).
var packageDatabases = map[string]bool{
	"var/lib/dpkg/status": true, "lib/apk/db/installed": true, "usr/lib/apk/db/installed": true,
	"var/lib/rpm/Packages": true, "var/lib/rpm/Packages.db": true, "var/lib/rpm/rpmdb.sqlite": true, "usr/share/rpm/rpmdb.sqlite": true,
	"usr/lib/sysimage/rpm/Packages": true, "usr/lib/sysimage/rpm/Packages.db": true, "usr/lib/sysimage/rpm/rpmdb.sqlite": true,
}

// unread returns a package database of the layer that Trivy made nothing of, if there is one. Trivy passes over what it
// cannot parse; an image must not be clean because its packages cannot be told.
func unread(facts ours.LayerFacts, info types.BlobInfo) string {
	read := map[string]bool{}
	for _, file := range info.PackageInfos {
		read[file.FilePath] = true
	}
	for _, f := range facts.Files {
		if packageDatabases[f.Path] && f.Type == ours.Regular && f.Size > 0 && !read[f.Path] {
			return f.Path
		}
	}
	return ""
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

// Check opens the database and reads from it.
func (s *Scanner) Check() (scanner.DatabaseInfo, error) {
	m, err := metadata.NewClient(s.database).Get()
	if err != nil {
		return scanner.DatabaseInfo{}, fmt.Errorf("metadata.json: %w", err)
	}
	if m.Version != trivydb.SchemaVersion {
		return scanner.DatabaseInfo{}, fmt.Errorf("it is of schema %d; this program reads %d", m.Version, trivydb.SchemaVersion)
	}
	if m.UpdatedAt.IsZero() {
		return scanner.DatabaseInfo{}, errors.New("metadata.json does not say when it was built")
	}
	if err := s.open(); err != nil {
		return scanner.DatabaseInfo{}, err
	}
	return scanner.DatabaseInfo{Schema: m.Version, UpdatedAt: m.UpdatedAt.UTC().Truncate(time.Microsecond)}, nil
}

// open makes the folder's database the one that matching reads. One that names no advisory's source is refused: every
// image would be clean by it.
func (s *Scanner) open() (err error) {
	if s.opened {
		return nil
	}
	if s.database == "" {
		return errors.New("this process was given no advisory database")
	}
	// bbolt panics on pages that are not its own.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the database is damaged: %v", v)
		}
	}()
	if err := db.Init(s.database); err != nil {
		return fmt.Errorf("open advisory database: %w", err)
	}
	err = trivydb.Config{}.Connection().View(func(tx *bbolt.Tx) error {
		for _, name := range []string{"data-source", "vulnerability"} {
			bucket := tx.Bucket([]byte(name))
			if bucket == nil {
				return fmt.Errorf("the database has no %q: it is none of trivy-db's", name)
			}
			if key, _ := bucket.Cursor().First(); key == nil {
				return fmt.Errorf("the database's %q is empty: it holds no advisories", name)
			}
		}
		return nil
	})
	s.opened = err == nil
	return err
}
