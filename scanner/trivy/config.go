//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"fmt"
	"sync"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/misconf"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// configs analyses image configs: secrets in them, and what their history says of how the image was built, as
// `trivy image --image-config-scanners misconfig` does. Its rules are compiled when they are first needed, which takes a
// second; a config takes some 20 milliseconds then. An image without a history has nothing to say, and costs nothing.
type configs struct {
	secrets, history func() (analyzer.ConfigAnalyzerGroup, error)
}

func newConfigs() *configs {
	group := func(without analyzer.Type) func() (analyzer.ConfigAnalyzerGroup, error) {
		return sync.OnceValues(func() (analyzer.ConfigAnalyzerGroup, error) {
			return analyzer.NewConfigAnalyzerGroup(analyzer.ConfigAnalyzerOptions{
				DisabledAnalyzers:    []analyzer.Type{analyzer.TypeApkCommand, without},
				MisconfScannerOption: misconf.ScannerOption{Namespaces: rego.BuiltinNamespaces()},
			})
		})
	}
	return &configs{secrets: group(analyzer.TypeHistoryDockerfile), history: group(analyzer.TypeImageConfigSecret)}
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
