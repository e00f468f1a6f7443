// Package archtest holds the import rules of docs/architecture.md as a test.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mayImport says, of each package of ours, which others of ours it may import. What is not here may not exist.
var mayImport = map[string][]string{
	"artifact":   {},
	"migrations": {},

	"blob":     {"artifact"},
	"registry": {"artifact"},
	"layer":    {"artifact"},
	"policy":   {"artifact"},
	"scanner":  {"artifact", "internal/child"},
	"ledger":   {"artifact"},
	"builder":  {"artifact", "internal/child"},
	"auth":     {"artifact"},
	"mirror":   {"artifact"},
	"kms":      {"artifact", "internal/child"},

	"signer":    {"artifact", "kms", "policy"},
	"promotion": {"artifact", "policy"},
	"storage":   {"artifact", "policy"},

	"scanner/trivy": {"artifact", "scanner", "layer"},
	"kms/provider":  {"kms"},

	"postgres":        {"artifact", "policy", "ledger", "promotion", "auth", "storage", "migrations", "internal/child"},
	"postgres/pgtest": {"postgres"},
	"blob/blobtest":   {"artifact", "blob"},

	"jobs":   {"artifact", "layer", "policy", "scanner", "signer", "ledger", "promotion", "builder"},
	"server": {"artifact", "registry", "promotion", "policy", "builder", "auth", "storage"},
	"web":    {"artifact", "promotion", "policy", "auth", "registry", "storage"},

	"cmd/waybill": {"artifact", "auth", "blob", "builder", "jobs", "kms", "ledger", "mirror", "policy", "postgres", "promotion", "registry",
		"scanner", "server", "signer", "storage", "web"},
	"cmd/waybill-scanner": {"artifact", "layer", "scanner", "scanner/trivy"},
	"cmd/waybill-kms":     {"kms/provider"},

	"bench":                 {},
	"bench/ceiling":         {},
	"bench/memory":          {},
	"bench/rows":            {"postgres"},
	"bench/scale":           {"bench/rows"},
	"bench/pages":           {"artifact", "bench/rows", "blob", "ledger", "postgres"},
	"bench/verdict":         {},
	"bench/rematch":         {"artifact", "jobs", "postgres", "scanner"},
	"examples/returns":      {},
	"examples/platforms":    {},
	"internal/e2e":          {},
	"internal/sigstoretest": {"artifact", "policy"},
	"internal/demo":         {},
	"internal/child":        {},
}

// onlyIn says which packages may import a module of others.
var onlyIn = map[string][]string{
	"github.com/jackc/pgx":             {"postgres", "postgres/pgtest", "jobs", "cmd/waybill", "bench/rematch", "bench/pages"},
	"github.com/riverqueue":            {"jobs", "cmd/waybill"},
	"github.com/coreos/go-oidc":        {"auth", "cmd/waybill"},
	"github.com/gin-gonic/gin":         {"server", "web", "cmd/waybill"},
	"github.com/aquasecurity/trivy":    {"scanner/trivy"},
	"github.com/aquasecurity/trivy-db": {"scanner/trivy"},
	"github.com/sigstore/cosign":       {"signer"},
	"github.com/sigstore/sigstore":     {"signer", "internal/sigstoretest", "kms/provider"},
	"github.com/sigstore/sigstore-go":  {"signer", "internal/sigstoretest"},
	"cel.dev/cel-go":                   {"policy"},
	"net/rpc":                          {"kms"},
	// The clients of each KMS.
	"github.com/sigstore/sigstore/pkg/signature/kms": {"kms/provider"},
	// These are clients that tests drive.
	"github.com/containerd/containerd/v2": {"builder"},
	"helm.sh/helm":                        {},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, "waybill/")
		if strings.HasPrefix(name, "internal/archtest") {
			continue
		}
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s is not in the table: say what it may import, here and in docs/architecture.md", name)
			continue
		}
		for _, imported := range p.Imports {
			if ours, is := strings.CutPrefix(imported, "waybill/"); is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which the architecture forbids", name, ours)
			}
			for module, users := range onlyIn {
				if (imported == module || strings.HasPrefix(imported, module+"/")) && !slices.Contains(users, name) {
					t.Errorf("%s imports %s; only %s may", name, imported, strings.Join(users, ", "))
				}
			}
			if name == "artifact" && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("artifact imports %s; it is the standard library only", imported)
			}
		}
	}
}

// TestScannerHoldsNothing: the process that parses hostile bytes links no code that knows keys, database or server.
func TestScannerHoldsNothing(t *testing.T) {
	t.Parallel()
	out, err := golist("-deps", "waybill/cmd/waybill-scanner").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "waybill/layer")
	for _, forbidden := range []string{"waybill/postgres", "waybill/signer", "waybill/server", "waybill/auth"} {
		require.NotContains(t, deps, forbidden)
	}
}

// TestServerParsesNoLayer: the program that holds the keys links neither Trivy nor the layer reader.
func TestServerParsesNoLayer(t *testing.T) {
	t.Parallel()
	out, err := golist("-deps", "waybill/cmd/waybill").Output()
	require.NoError(t, err)
	for _, dep := range strings.Fields(string(out)) {
		require.False(t, dep == "waybill/layer" || dep == "waybill/scanner/trivy" || strings.HasPrefix(dep, "github.com/aquasecurity/trivy/"), dep)
	}
}

// TestServerStaysSmall: what few servers use, or nobody, is not linked into the program that all run: every module costs memory at
// rest. The tag is that of `make build`.
func TestServerStaysSmall(t *testing.T) {
	t.Parallel()
	out, err := golist("-deps", "-tags", "nomsgpack", "waybill/cmd/waybill").Output()
	require.NoError(t, err)
	const ofKMS = "the clients of each KMS are in waybill-kms"
	for dep := range strings.FieldsSeq(string(out)) {
		for module, why := range map[string]string{
			"waybill/kms/provider": ofKMS, "github.com/sigstore/sigstore/pkg/signature/kms": ofKMS, "github.com/aws": ofKMS, "github.com/Azure": ofKMS, "github.com/AzureAD": ofKMS,
			"cloud.google.com": ofKMS, "google.golang.org/api": ofKMS, "github.com/hashicorp/vault": ofKMS,
			"github.com/ugorji/go":                        "the tag nomsgpack leaves it out of gin",
			"github.com/theupdateframework/go-tuf/client": "cosign's package of that name brings it; its keys are sigstore's cryptoutils",
			"github.com/syndtr/goleveldb":                 "likewise",
		} {
			if dep == module || strings.HasPrefix(dep, module+"/") {
				t.Errorf("waybill links %s; %s", dep, why)
			}
		}
	}
}

// golist sees the scanner's packages too, which are compiled with the json/v2 experiment only.
func golist(args ...string) *exec.Cmd {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=jsonv2")
	return cmd
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := golist("-json=ImportPath,Imports", "waybill/...")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var all []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		all = append(all, p)
	}
	require.NoError(t, cmd.Wait())
	require.Greater(t, len(all), 15)
	return all
}
