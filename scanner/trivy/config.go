//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	checks "github.com/aquasecurity/trivy-checks"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/mapfs"
	"github.com/aquasecurity/trivy/pkg/misconf"
	"github.com/aquasecurity/trivy/pkg/version/app"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// configs analyses image configs: secrets in them, and what their history says of how the image was built, as
// `trivy image --image-config-scanners misconfig` does. Its rules are compiled when they are first needed. An image
// without a history has nothing to say, and costs nothing.
type configs struct {
	secrets, history func() (analyzer.ConfigAnalyzerGroup, error)
}

func newConfigs() *configs {
	group := func(without analyzer.Type, rules func() (*rego.Scanner, error)) func() (analyzer.ConfigAnalyzerGroup, error) {
		return sync.OnceValues(func() (group analyzer.ConfigAnalyzerGroup, err error) {
			compiled, err := rules()
			if err != nil {
				return group, err
			}
			return analyzer.NewConfigAnalyzerGroup(analyzer.ConfigAnalyzerOptions{
				DisabledAnalyzers:    []analyzer.Type{analyzer.TypeApkCommand, without},
				MisconfScannerOption: misconf.ScannerOption{Namespaces: rego.BuiltinNamespaces(), RegoScanner: compiled},
			})
		})
	}
	none := func() (*rego.Scanner, error) { return nil, nil }
	return &configs{secrets: group(analyzer.TypeHistoryDockerfile, none), history: group(analyzer.TypeImageConfigSecret, dockerfileChecks)}
}

// analyse adds to info what a config has to say.
func (c *configs) analyse(ctx context.Context, config *v1.ConfigFile, info *types.ArtifactInfo) error {
	secrets, err := c.secrets()
	if err != nil {
		return fmt.Errorf("make analysers of configs: %w", err)
	}
	info.Secret = secrets.AnalyzeImageConfig(ctx, types.OS{}, config).Secret
	if len(config.History) == 0 {
		return nil
	}
	history, err := c.history()
	if err != nil {
		return fmt.Errorf("make analysers of histories: %w", err)
	}
	info.Misconfiguration = history.AnalyzeImageConfig(ctx, types.OS{}, config).Misconfiguration
	return nil
}

// dockerfileChecks compiles those of Trivy's checks that are for Dockerfiles, which is what a history is read as. Left to
// itself Trivy parses and compiles all that are embedded, for every cloud, and twice, which takes a second of processor
// time; so it finds nothing embedded, and is given the few as if they were a user's own (misconf.InitRegoScanner has the
// other options).
func dockerfileChecks() (*rego.Scanner, error) {
	few := embedded{checks.EmbeddedPolicyFileSystem, checks.EmbeddedLibraryFileSystem}
	checks.EmbeddedPolicyFileSystem, checks.EmbeddedLibraryFileSystem = embed.FS{}, embed.FS{}
	defer func() { checks.EmbeddedPolicyFileSystem, checks.EmbeddedLibraryFileSystem = few.checks, few.libraries }()
	s := rego.NewScanner(rego.WithPolicyFilesystem(few), rego.WithPolicyDirs(dockerfileFolder, "lib/docker"), rego.WithDataFilesystem(mapfs.New()),
		rego.WithMaxAllowedErrors(0), rego.WithTrivyVersion(app.Version()))
	return s, s.LoadPolicies(nil)
}

// dockerfileFolder is where all checks for Dockerfiles are.
const dockerfileFolder = "checks/docker"

// embedded is Trivy's checks and the libraries that they import.
type embedded struct{ checks, libraries embed.FS }

// Open opens one of either.
func (e embedded) Open(name string) (fs.File, error) {
	if strings.HasPrefix(name, "lib/") {
		return e.libraries.Open(name)
	}
	return e.checks.Open(name)
}
