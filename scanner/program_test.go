package scanner_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/scanner"
)

// world is what the tests of the real program share: the program, started by a client, and a Debian with a daemon.
type world struct {
	client   *scanner.Client
	warnings *bytes.Buffer
	database string
	folder   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	folder, err := os.MkdirTemp("", "waybill-scan-") // t.TempDir is closed to the scanner's user
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o711))
	program := filepath.Join(folder, "waybill-scanner")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", program, "waybill/cmd/waybill-scanner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=jsonv2")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	w := &world{warnings: &bytes.Buffer{}, folder: folder, database: filepath.Join(folder, "db")}
	w.client = scanner.New(scanner.Config{Program: program, Version: "test", Folder: folder, Layers: artifact.LayerLimits{Path: 3000}, Logger: slog.New(slog.NewTextHandler(w.warnings, nil))})
	t.Cleanup(func() { require.NoError(t, w.client.Close()) })
	w.unpackAdvisories(t)
	return w
}

// unpackAdvisories unpacks the real database that the repository ships, or another.
func (w *world) unpackAdvisories(t *testing.T) {
	t.Helper()
	archive := os.Getenv("WAYBILL_TEST_ADVISORIES")
	if archive == "" {
		archive = "../examples/advisories/db.tar.gz"
	}
	require.NoError(t, os.Mkdir(w.database, 0o755))
	out, err := exec.Command("tar", "-xzf", archive, "-C", w.database).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, exec.Command("chmod", "-R", "a+rX", w.database).Run())
}

func (w *world) analyse(t *testing.T, path string) (scanner.Analysis, error) {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	sum := artifact.NewHash("sha256")
	_, err = io.Copy(sum, file)
	require.NoError(t, err)
	return w.client.Analyse(t.Context(), file, artifact.Descriptor{Digest: artifact.DigestFrom("sha256", sum)})
}

// layer writes a gzip-compressed layer of small files.
func (w *world) layer(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.tar.gz")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	z := gzip.NewWriter(f)
	archive := tar.NewWriter(z)
	for name, content := range files {
		require.NoError(t, archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}))
		_, err := archive.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	require.NoError(t, z.Close())
	return path
}

// scanned is when every image here is.
var scanned = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// match scans an image of layers that were analysed before.
func (w *world) match(t *testing.T, database string, layers ...scanner.Analysis) scanner.MatchResult {
	t.Helper()
	config := artifact.ImageConfig{OS: "linux", Architecture: "amd64"}
	config.RootFS.Type = "layers"
	request := scanner.MatchRequest{SBOM: true, Created: scanned, Database: database, Name: "shop/returns", Digest: artifact.DigestOf([]byte("image"))}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Facts.DiffID)
		request.Layers = append(request.Layers, l.Blob)
	}
	var err error
	request.Config, err = json.Marshal(config)
	require.NoError(t, err)
	result, err := w.client.Match(t.Context(), request)
	require.NoError(t, err)
	return result
}

// debian makes a root file system of plain bookworm, without its security updates, that has an ssh daemon.
func (w *world) debian(t *testing.T) string {
	t.Helper()
	path := filepath.Join(w.folder, "debian.tar")
	site, err := exec.Command("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Release: bookworm").Output()
	require.NoError(t, err, "this test asks apt for its mirror; run `apt-get update` first")
	mirror, _, _ := strings.Cut(string(site), "\n")
	out, err := exec.Command("mmdebstrap", "--variant=minbase", "--quiet", "--include=openssh-server", "bookworm", path, "deb "+mirror+" bookworm main").CombinedOutput()
	require.NoError(t, err, "this test makes a Debian with mmdebstrap; `make deps` installs it: %s", out)
	return path
}

// TestProgram drives the real scanner with a real Debian and a real advisory database.
func TestProgram(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info, err := w.client.CheckDatabase(t.Context(), w.database)
	require.NoError(t, err)
	require.Equal(t, 2, info.Schema)
	require.False(t, info.UpdatedAt.IsZero())
	debian, err := w.analyse(t, w.debian(t))
	require.NoError(t, err)
	require.Empty(t, w.warnings.String(), "the kernel confines the scanner")

	t.Run("facts", func(t *testing.T) { debianFacts(t, debian) })
	t.Run("match", func(t *testing.T) { w.debianMatch(t, debian) })
	t.Run("layers", func(t *testing.T) { w.upperLayers(t, debian) })
	t.Run("refused", func(t *testing.T) { w.refused(t) })
	t.Run("databases", func(t *testing.T) { w.badDatabases(t) })
}

func debianFacts(t *testing.T, debian scanner.Analysis) {
	require.NotEmpty(t, debian.Analyser)
	marked := map[string][]artifact.Mark{}
	for _, f := range debian.Facts.Files {
		if len(f.Marks) > 0 && f.Type == artifact.Regular {
			marked[f.Path] = f.Marks
		}
	}
	require.Equal(t, []artifact.Mark{artifact.MarkSSHD}, marked["usr/sbin/sshd"])
	for path, marks := range marked {
		require.NotContains(t, path, "usr/bin/ssh", marks)
	}
	require.Contains(t, debian.Facts.Contents["etc/passwd"], "root:x:0:0:")
	var versions []string
	for _, p := range debian.Facts.Packages {
		require.Equal(t, "deb", p.Type)
		if p.Name == "openssh-server" {
			versions = append(versions, p.Version)
			require.Equal(t, "var/lib/dpkg/status", p.File)
		}
	}
	require.Len(t, versions, 1)
	require.True(t, strings.HasPrefix(versions[0], "1:9.2p1-"), versions[0])
	require.Greater(t, len(debian.Facts.Packages), 80)
}

func (w *world) debianMatch(t *testing.T, debian scanner.Analysis) {
	result := w.match(t, w.database, debian)
	require.True(t, strings.HasPrefix(result.OS, "debian 12"), result.OS)
	require.GreaterOrEqual(t, len(result.Packages), len(debian.Facts.Packages))
	vulnerabilities, secrets := classed(result.Findings)
	require.Greater(t, len(vulnerabilities), 24, "dozens of vulnerabilities")
	for _, f := range secrets {
		require.Contains(t, f.Path, "etc/ssh/ssh_host_", "the daemon's keys travel with the image, and nothing else is secret in Debian")
	}
	for _, f := range vulnerabilities {
		require.NotEmpty(t, f.Installed)
		require.NotEmpty(t, f.Fixed)
		require.Equal(t, debian.Facts.DiffID, f.Layer)
	}
	i := slices.IndexFunc(result.Packages, func(p artifact.Package) bool { return p.Name == "openssh-server" })
	require.True(t, strings.HasPrefix(result.Packages[i].PURL, "pkg:deb/debian/openssh-server@"), result.Packages[i].PURL)
	i = slices.IndexFunc(result.Packages, func(p artifact.Package) bool { return p.Name == "adduser" })
	require.Contains(t, result.Packages[i].Licenses, "GPL-2.0-only")

	without := w.match(t, "", debian)
	vulnerabilities, _ = classed(without.Findings)
	require.Empty(t, vulnerabilities)
	require.Equal(t, result.Packages, without.Packages)
	again := w.match(t, w.database, debian)
	require.Equal(t, string(result.CycloneDX), string(again.CycloneDX), "one scan has one SBOM")
	require.Equal(t, string(result.SPDX), string(again.SPDX))
	require.NotContains(t, string(result.CycloneDX), `"vulnerabilities": [`+"\n    {", "an SBOM says what is in it, not what is known of it")
	var bom struct {
		BOMFormat string
		Metadata  struct {
			Timestamp time.Time
			Tools     struct {
				Components []struct{ Name, Version string }
			}
			Component struct{ Name string }
		}
		Components []struct{ Name string }
	}
	require.NoError(t, json.Unmarshal(result.CycloneDX, &bom))
	require.Equal(t, "CycloneDX", bom.BOMFormat)
	require.Contains(t, bom.Metadata.Component.Name, "shop/returns")
	require.Greater(t, len(bom.Components), 80)
	require.Equal(t, scanned, bom.Metadata.Timestamp.UTC())
	tools := bom.Metadata.Tools.Components
	require.Len(t, tools, 2)
	require.Equal(t, "trivy", tools[0].Name)
	require.Equal(t, strings.TrimPrefix(required(t, "github.com/aquasecurity/trivy"), "v"), tools[0].Version)
	require.Equal(t, "waybill test", tools[1].Name+" "+tools[1].Version)
	var document struct {
		CreationInfo struct {
			Created  time.Time
			Creators []string
		}
	}
	require.NoError(t, json.Unmarshal(result.SPDX, &document))
	require.Equal(t, scanned, document.CreationInfo.Created.UTC())
	require.Equal(t, []string{"Organization: aquasecurity", "Tool: trivy-" + tools[0].Version, "Tool: waybill-test"}, document.CreationInfo.Creators)
}

// required is the version of a module that this one is built with.
func required(t *testing.T, module string) string {
	t.Helper()
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(version))
}

// upperLayers: what a later layer adds is found, and what it removes is gone, without another look at the first.
func (w *world) upperLayers(t *testing.T, debian scanner.Analysis) {
	programs.once.Do(build)
	require.NoError(t, programs.err)
	self, err := os.ReadFile(programs.path)
	require.NoError(t, err)
	const secret = "AKIA" + "2E0A8F3B244C9986"
	upper, err := w.analyse(t, w.layer(t, map[string]string{
		"app/server": string(self), "app/config.env": "aws_access_key_id = " + secret + "\n", "app/passwd": "x",
	}))
	require.NoError(t, err)
	result := w.match(t, w.database, debian, upper)
	i := slices.IndexFunc(result.Packages, func(p artifact.Package) bool { return p.Name == "stdlib" })
	require.GreaterOrEqual(t, i, 0)
	found := result.Packages[i]
	require.Equal(t, artifact.Package{Name: "stdlib", Version: "v" + strings.TrimPrefix(runtime.Version(), "go"), Type: "gobinary", File: "app/server",
		PURL: found.PURL, Layer: upper.Facts.DiffID}, found)
	_, secrets := classed(result.Findings)
	secrets = slices.DeleteFunc(secrets, func(f artifact.Finding) bool { return strings.Contains(f.Path, "ssh_host") })
	require.Len(t, secrets, 1)
	require.Equal(t, "aws-access-key-id", secrets[0].ID)
	require.Contains(t, secrets[0].Path, "app/config.env")
	all, err := json.Marshal(result)
	require.NoError(t, err)
	require.NotContains(t, string(all), secret)
	require.NotContains(t, string(upper.Blob), secret, "what was found is not kept")

	removed, err := w.analyse(t, w.layer(t, map[string]string{"var/lib/dpkg/.wh.status": "", "app/.wh.server": ""}))
	require.NoError(t, err)
	require.Empty(t, w.match(t, w.database, debian, upper, removed).Packages)
}

func classed(findings []artifact.Finding) (vulnerabilities, secrets []artifact.Finding) {
	for _, f := range findings {
		switch f.Class {
		case "vulnerability":
			vulnerabilities = append(vulnerabilities, f)
		case "secret":
			secrets = append(secrets, f)
		}
	}
	return vulnerabilities, secrets
}

// refused: a layer that is not what it should be is refused with its reason, also when an analyser is what fails.
func (w *world) refused(t *testing.T) {
	whole, err := os.ReadFile(w.layer(t, map[string]string{"a": strings.Repeat("a", 1000)}))
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut")
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)-10], 0o600))
	for path, want := range map[string]string{
		cut: "cut off",
		w.layer(t, map[string]string{"../a": "a"}):                                                                  "climbs",
		w.layer(t, map[string]string{"/a": "a"}):                                                                    "absolute",
		w.layer(t, map[string]string{strings.Repeat("a", 3001): "a"}):                                               "longer than 3000 bytes", // as it was configured
		w.layer(t, map[string]string{"var/lib/rpm/rpmdb.sqlite": "SQLite format 3\x00" + strings.Repeat("x", 500)}): "the package database var/lib/rpm/rpmdb.sqlite cannot be read",
	} {
		_, err := w.analyse(t, path)
		require.Equal(t, artifact.Denied, artifact.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "cannot be inspected: ")
		require.ErrorContains(t, err, want)
	}
	file, err := os.Open(cut)
	require.NoError(t, err)
	defer file.Close()
	_, err = w.client.Analyse(t.Context(), file, artifact.Descriptor{Digest: artifact.DigestOf(whole)})
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
}

// badDatabases: an image that is matched with one of these would be clean by it.
func (w *world) badDatabases(t *testing.T) {
	for what, c := range map[string]struct {
		db, metadata func(b []byte) []byte
		want         string
	}{
		"schema":  {nil, func(b []byte) []byte { return bytes.Replace(b, []byte(`:2,`), []byte(`:1,`), 1) }, "schema"},
		"no date": {nil, func([]byte) []byte { return []byte(`{"Version":2}`) }, "when it was built"},
		"garbage": {func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }, nil, "open advisory database"},
		"cut off": {func(b []byte) []byte { return b[:len(b)/8] }, nil, ""},
		"none":    {func([]byte) []byte { return nil }, nil, "open advisory database"},
	} {
		dir, err := os.MkdirTemp(w.folder, "bad")
		require.NoError(t, err)
		require.NoError(t, os.Chmod(dir, 0o755))
		for name, change := range map[string]func([]byte) []byte{"trivy.db": c.db, "metadata.json": c.metadata} {
			b, err := os.ReadFile(filepath.Join(w.database, name))
			require.NoError(t, err)
			if change != nil {
				b = change(b)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
		}
		_, err = w.client.CheckDatabase(t.Context(), dir)
		require.Equal(t, artifact.Denied, artifact.KindOf(err), "%s: %v", what, err)
		require.ErrorContains(t, err, c.want, what)
		t.Log(fmt.Sprint(what, ": ", err))
	}
}
