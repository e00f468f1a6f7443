//go:build goexperiment.jsonv2

package trivy

import (
	"io/fs"
	"strings"
	"testing"

	checks "github.com/aquasecurity/trivy-checks"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/misconf"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// TestDockerfileChecks: the checks that are compiled find what all of Trivy's find, and no check for Dockerfiles lies elsewhere.
func TestDockerfileChecks(t *testing.T) {
	t.Parallel()
	config := &v1.ConfigFile{Config: v1.Config{User: "root"}}
	for _, by := range []string{
		"/bin/sh -c #(nop) ADD file:abc in / ", `/bin/sh -c #(nop)  CMD ["bash"]`, "/bin/sh -c apt-get update", "/bin/sh -c apt-get install curl wget", "RUN /bin/sh -c sudo ls # buildkit",
		"RUN /bin/sh -c cd /srv && make # buildkit", "RUN /bin/sh -c wget http://a; curl http://b # buildkit", "RUN /bin/sh -c yum install -y gcc # buildkit", "RUN /bin/sh -c apk add git # buildkit",
		"RUN /bin/sh -c zypper install -y gcc # buildkit", "RUN /bin/sh -c dnf install -y gcc # buildkit", "RUN /bin/sh -c apt-get dist-upgrade # buildkit",
		"COPY a b c # buildkit", "ADD a.txt /srv/ # buildkit", "ENV AWS_SECRET_ACCESS_KEY=abc", "EXPOSE map[22/tcp:{}]", "/bin/sh -c #(nop)  EXPOSE 22 70000", "/bin/sh -c #(nop)  MAINTAINER me",
		"/bin/sh -c #(nop) WORKDIR srv", "/bin/sh -c #(nop)  VOLUME [/proc]", "HEALTHCHECK NONE", "HEALTHCHECK NONE", `ENTRYPOINT ["a"]`, `ENTRYPOINT ["b"]`, `/bin/sh -c #(nop)  CMD ["a"]`,
		"USER 1000", "USER root", "ARG GITHUB_TOKEN=a",
	} {
		config.History = append(config.History, v1.History{CreatedBy: by})
	}
	var ours types.ArtifactInfo
	require.NoError(t, newConfigs().analyse(t.Context(), config, &ours))
	require.NotNil(t, ours.Misconfiguration)
	require.Greater(t, len(ours.Misconfiguration.Failures), 10)

	all, err := analyzer.NewConfigAnalyzerGroup(analyzer.ConfigAnalyzerOptions{DisabledAnalyzers: []analyzer.Type{analyzer.TypeApkCommand, analyzer.TypeImageConfigSecret},
		MisconfScannerOption: misconf.ScannerOption{Namespaces: rego.BuiltinNamespaces()}})
	require.NoError(t, err)
	theirs := all.AnalyzeImageConfig(t.Context(), types.OS{}, config).Misconfiguration
	require.Equal(t, theirs, ours.Misconfiguration)

	require.NoError(t, fs.WalkDir(checks.EmbeddedPolicyFileSystem, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !rego.IsRegoFile(path) || strings.HasPrefix(path, dockerfileFolder+"/") {
			return err
		}
		b, err := fs.ReadFile(checks.EmbeddedPolicyFileSystem, path)
		require.NotContains(t, string(b), "type: dockerfile", path)
		require.Contains(t, string(b), "selector:", "%s is for everything", path)
		return err
	}))
}

func BenchmarkDockerfileChecks(b *testing.B) {
	for b.Loop() {
		_, err := dockerfileChecks()
		require.NoError(b, err)
	}
}
