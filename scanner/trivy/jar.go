//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/aquasecurity/trivy/pkg/dependency/parser/java/jar"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer/language"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	walking "github.com/aquasecurity/trivy/pkg/parallel"
	xio "github.com/aquasecurity/trivy/pkg/x/io"
)

// typeJar is the analyser of jars that takes the place of Trivy's (pkg/fanal/analyzer/language/java/jar): that one asks
// the Java database while it reads a layer, and what it was told would stand for ever.
const typeJar analyzer.Type = "waybill-jar"

var registerJars = sync.OnceFunc(func() {
	analyzer.RegisterPostAnalyzer(typeJar, func(o analyzer.AnalyzerOptions) (analyzer.PostAnalyzer, error) {
		return &jars{o.Parallel, o.LicenseScannerOption.ClassifierConfidenceLevel}, nil
	})
})

// jars reads jars by Trivy's parser. One that does not say itself what it is stays unnamed, with its checksum and what its
// manifest claims, until an image that has it is matched.
type jars struct {
	parallel   int
	confidence float64
}

func (j *jars) PostAnalyze(ctx context.Context, input analyzer.PostAnalysisInput) (*analyzer.AnalysisResult, error) {
	result := &analyzer.AnalysisResult{}
	err := walking.WalkDir(ctx, input.FS, ".", j.parallel, func(path string, info fs.FileInfo, r xio.ReadSeekerAt) (*types.Application, error) {
		return j.parse(ctx, path, info.Size(), r)
	}, func(app *types.Application) error {
		if app != nil {
			result.Applications = append(result.Applications, *app)
		}
		return nil
	})
	return result, err
}

func (j *jars) parse(ctx context.Context, path string, size int64, r xio.ReadSeekerAt) (*types.Application, error) {
	parse := func(asked jar.Client) (*types.Application, error) {
		parser := jar.NewParser(asked, jar.WithSize(size), jar.WithFilePath(path), jar.WithLicenseClassifierConfidenceLevel(j.confidence))
		return language.ParsePackage(ctx, types.Jar, path, r, parser, false)
	}
	asked := &askedOf{manifests: map[string]string{}}
	app, err := parse(asked)
	if err != nil || app == nil || !slices.ContainsFunc(app.Packages, unnamed) {
		return app, err
	}
	if len(app.Packages) > 1 {
		nothing, err := parse(unaware{})
		if err != nil {
			return nil, err
		}
		license(app, nothing)
	}
	if len(asked.manifests) == 0 {
		return app, nil
	}
	// The parser tells of what version a manifest is only if it is told that there is such an artifact.
	trusting, err := parse(&askedOf{exists: true, manifests: map[string]string{}})
	if err != nil || trusting == nil {
		return app, err
	}
	for i, p := range app.Packages {
		claimed := asked.manifests[strings.TrimPrefix(p.Name, unnamedPrefix)]
		if !unnamed(p) || claimed == "" {
			continue
		}
		if at := slices.IndexFunc(trusting.Packages, func(t types.Package) bool { return t.FilePath == p.FilePath && t.Name == claimed }); at >= 0 {
			app.Packages[i].SrcName, app.Packages[i].SrcVersion = claimed, trusting.Packages[at].Version
		}
	}
	return app, nil
}

// license gives packages the licences that they have as long as the unnamed stay so, and the unnamed, in DependsOn, the
// names of those whose licences fall away when they get a name: the parser attaches what a manifest says to the only one
// that it could be about.
func license(app, nothing *types.Application) {
	if nothing == nil {
		return
	}
	for i, p := range app.Packages {
		at := slices.IndexFunc(nothing.Packages, func(n types.Package) bool {
			return n.FilePath == p.FilePath && n.Name == p.Name && n.Version == p.Version
		})
		if at < 0 || slices.Equal(nothing.Packages[at].Licenses, p.Licenses) {
			continue
		}
		app.Packages[i].Licenses = nothing.Packages[at].Licenses
		for k, u := range app.Packages {
			if unnamed(u) && u.FilePath == p.FilePath {
				app.Packages[k].DependsOn = append(app.Packages[k].DependsOn, p.Name)
			}
		}
	}
}

// unaware is a jar.Client that knows nothing.
type unaware struct{}

func (unaware) Exists(string, string) (bool, error) { return false, nil }
func (unaware) SearchBySHA1(string) (jar.Properties, error) {
	return jar.Properties{}, jar.ArtifactNotFoundErr
}
func (unaware) SearchByArtifactID(string, string) (string, error) { return "", jar.ArtifactNotFoundErr }

// Required says whether a file is an archive of Java's.
func (j *jars) Required(file string, _ os.FileInfo) bool {
	return slices.Contains([]string{".jar", ".war", ".ear", ".par"}, strings.ToLower(path.Ext(file)))
}

// Type and Version identify the analyser.
func (j *jars) Type() analyzer.Type { return typeJar }
func (j *jars) Version() int        { return 1 }

// askedOf is a jar.Client of one file that answers with the question: each jar that the database is asked about gets a
// name made of its checksum. The parser asks of a jar's manifest first, and of its checksum right after.
type askedOf struct {
	exists    bool
	claimed   string
	manifests map[string]string // what the manifest claims to be, GROUP:ARTIFACT, by checksum
}

func (a *askedOf) Exists(group, artifact string) (bool, error) {
	a.claimed = group + ":" + artifact
	return a.exists, nil
}

func (a *askedOf) SearchBySHA1(sum string) (jar.Properties, error) {
	if a.claimed != "" {
		a.manifests[sum] = a.claimed
		a.claimed = ""
	}
	return jar.Properties{GroupID: strings.TrimSuffix(unnamedPrefix, ":"), ArtifactID: sum, Version: "0"}, nil
}

func (a *askedOf) SearchByArtifactID(string, string) (string, error) {
	return "", jar.ArtifactNotFoundErr
}

// jarName is how Maven calls a jar, as package jar reads it.
var jarName = regexp.MustCompile(`^([a-zA-Z0-9\._-]*[^-*])-(\d\S*(?:-SNAPSHOT)?).jar$`)

func fileName(file string) (artifact, version string) {
	if parts := jarName.FindStringSubmatch(path.Base(file)); parts != nil {
		return parts[1], parts[2]
	}
	return "", ""
}
