package e2e

import (
	"archive/zip"
	"bytes"
	"crypto/sha1" //nolint:gosec // how Maven Central tells its files apart
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	javadb "github.com/aquasecurity/trivy-java-db/pkg/db"
	javatypes "github.com/aquasecurity/trivy-java-db/pkg/types"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// TestJarsByChecksum: jars that do not say what they are get their names from the Java database, as `trivy image` has
// them, also in an image that was scanned before there was one, and when another comes; no layer is read for it.
func TestJarsByChecksum(t *testing.T) {
	t.Parallel()
	archive, cache := moreAdvisories(t)
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("advisories: {java: \"security/trivy-java-db:1\", interval: 24h}\n"), 0o600))
	s := serve(t, "--config", config)
	admin := s.admin()
	require.Contains(t, s.ok(admin, "db", "import", archive), "no Java database")

	collections, io := debianJar(t, "libcommons-collections3-java", "commons-collections3.jar"), debianJar(t, "libcommons-io-java", "commons-io.jar")
	claims := zipped(t, map[string]string{"META-INF/MANIFEST.MF": "Manifest-Version: 1.0\nImplementation-Vendor-Id: org.example\nImplementation-Title: claims\nImplementation-Version: 1.5\n"})
	image := configured(t, "65532", files(t, map[string]string{
		"app/lib/collections.jar":   collections, // by its checksum; its manifest claims to be what there is not
		"app/lib/commons-io.jar":    io,          // by its pom.properties
		"app/lib/claims.jar":        claims,      // by its manifest
		"app/lib/byname-1.2.3.jar":  zipped(t, map[string]string{"a.class": "x"}),
		"app/lib/unheard-9.9.9.jar": zipped(t, map[string]string{"b.class": "x"}),
		"app/service.war":           zipped(t, map[string]string{"WEB-INF/lib/inner.jar": collections, "WEB-INF/lib/named.jar": jar(t, "org.apache.logging.log4j", "log4j-core", "2.14.1")}),
		"app/lib/broken.jar":        collections[:1000],
	}))
	ref := "shop/jars@" + s.pushed(admin, "shop/jars:v1", image)
	scan := s.scanned(admin, ref)
	require.True(t, scan.UnnamedJars)
	require.True(t, scan.JavaDatabaseDigest.IsZero())
	requireSame(t, trivyFindings(t, cache, "image", "--scanners", "vuln,license", "--input", ociLayout(t, image)), lines(scan, artifact.ClassVulnerability, artifact.ClassLicense))
	require.Contains(t, s.ok(admin, "scan", ref), "only a Java database tells")

	names := []javatypes.Index{
		{GroupID: "commons-collections", ArtifactID: "commons-collections", Version: "3.2.2", SHA1: sum(collections), ArchiveType: javatypes.JarType},
		{GroupID: "commons-io", ArtifactID: "commons-io", Version: "2.11.0", SHA1: sum(io), ArchiveType: javatypes.JarType},
		{GroupID: "org.example", ArtifactID: "claims", Version: "1.0", SHA1: sum("another"), ArchiveType: javatypes.JarType},
		{GroupID: "org.example", ArtifactID: "byname", Version: "1.2.3", SHA1: sum("rebuilt"), ArchiveType: javatypes.JarType},
	}
	old := javaDatabase(t, t.TempDir(), time.Now().AddDate(0, 0, -2), names[2])
	s.pushed(admin, "security/trivy-java-db:1", artifactOf(t, "application/vnd.aquasec.trivy.config.v1+json", "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip", read(t, old)))
	require.Contains(t, s.ok(admin, "db", "pull"), "went well")
	var status server.AdvisoryStatus
	s.json(admin, &status, "db", "status")
	require.True(t, status.Present)
	require.True(t, status.Java.Present)
	require.Empty(t, status.Java.LastPull.Problem)
	require.Nil(t, status.LastPull, "advisories have another source, or none")
	s.await("the names of the first Java database", func() bool {
		scan = s.scanned(admin, ref)
		return scan.JavaDatabaseDigest == status.Java.Database.Digest
	})
	require.True(t, slices.ContainsFunc(scan.Packages, func(p artifact.Package) bool { return p.Name == "org.example:claims" && p.Version == "1.5" }), "%v", scan.Packages)
	require.NotContains(t, strings.Join(lines(scan, artifact.ClassVulnerability), "\n"), "CVE-2015-7501")

	index := filepath.Join(cache, "java-db")
	require.NoError(t, os.RemoveAll(index))
	require.NoError(t, os.RemoveAll(filepath.Join(cache, "fanal"))) // where the command keeps what it made of layers by the database before
	require.Contains(t, s.ok(admin, "db", "import", javaDatabase(t, index, time.Now(), names...)), "Java database")
	s.json(admin, &status, "db", "status")
	s.await("the names of the second", func() bool {
		scan = s.scanned(admin, ref)
		return scan.JavaDatabaseDigest == status.Java.Database.Digest
	})
	ours := lines(scan, artifact.ClassVulnerability, artifact.ClassLicense)
	requireSame(t, trivyFindings(t, cache, "image", "--scanners", "vuln,license", "--input", ociLayout(t, image)), ours)
	for _, expected := range []string{"CVE-2015-7501 | high | commons-collections:commons-collections | 3.2.2 |  | app/lib/collections.jar", "app/service.war/WEB-INF/lib/inner.jar", "CVE-2021-44228", "org.example:claims", "org.example:byname"} {
		require.Contains(t, strings.Join(ours, "\n"), expected)
	}

	_, stderr, code := s.waybill(admin, "db", "pull", "security/trivy-java-db:1")
	require.Equal(t, 1, code, "an older one is put in force by an import only")
	require.Contains(t, stderr, "was built")
	for name, bad := range map[string]func(dir string){
		"empty":   func(dir string) { javaDatabase(t, dir, time.Now()) },
		"no date": func(dir string) { javaDatabase(t, dir, time.Time{}, names...) },
		"cut off": func(dir string) {
			javaDatabase(t, dir, time.Now(), names...)
			require.NoError(t, os.Truncate(filepath.Join(dir, "trivy-java.db"), 3000))
		},
		"nonsense": func(dir string) {
			javaDatabase(t, dir, time.Now(), names...)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "trivy-java.db"), []byte("nonsense"), 0o600))
		},
	} {
		dir := filepath.Join(t.TempDir(), "bad")
		bad(dir)
		archive := filepath.Join(t.TempDir(), "bad.tar.gz")
		must(t, "tar", "-czf", archive, "-C", dir, "trivy-java.db", "metadata.json")
		_, stderr, code := s.waybill(admin, "db", "import", archive)
		require.Equal(t, 1, code, name)
		require.Contains(t, stderr, "Java database", name)
	}
}

// scanned waits for an image's scan.
func (s *waybillServer) scanned(token, ref string) (scan artifact.Scan) {
	s.t.Helper()
	s.await("the scan of "+ref, func() bool {
		scan = artifact.Scan{}
		s.json(token, &scan, "scan", ref)
		return scan.State != artifact.ScanPending
	})
	require.Equal(s.t, artifact.Scanned, scan.State, scan.Reason)
	return scan
}

// lines has one for each finding of these classes, as trivyFindings has.
func lines(scan artifact.Scan, classes ...string) []string {
	all := []string{}
	for _, f := range scan.Findings {
		if slices.Contains(classes, f.Class) {
			all = append(all, strings.Join([]string{f.Class, f.ID, string(f.Severity), f.Package, f.Installed, f.Fixed, f.Path}, " | "))
		}
	}
	return all
}

// javaDatabase writes a database as trivy-java-db's own library does, and returns its archive.
func javaDatabase(t testing.TB, dir string, built time.Time, names ...javatypes.Index) (archive string) {
	t.Helper()
	db, err := javadb.New(dir)
	require.NoError(t, err)
	require.NoError(t, db.Init())
	require.NoError(t, db.InsertIndexes(names))
	require.NoError(t, db.Close())
	metadata := javadb.NewMetadata(dir)
	require.NoError(t, metadata.Update(javadb.Metadata{Version: javadb.SchemaVersion, NextUpdate: time.Now().AddDate(1, 0, 0), UpdatedAt: built, DownloadedAt: time.Now()}))
	archive = filepath.Join(t.(interface{ TempDir() string }).TempDir(), "javadb.tar.gz")
	must(t, "tar", "-czf", archive, "-C", dir, "trivy-java.db", "metadata.json")
	return archive
}

// debianJar is a jar as a Debian package has it.
func debianJar(t testing.TB, pkg, name string) string {
	t.Helper()
	dir := t.(interface{ TempDir() string }).TempDir()
	_, stderr, code := command(t, dir, nil, "apt-get", "download", "--quiet", pkg)
	require.Zero(t, code, "%s (run apt-get update first)", stderr)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 1)
	must(t, "dpkg-deb", "-x", debs[0], dir)
	return string(read(t, filepath.Join(dir, "usr/share/java", name)))
}

func zipped(t testing.TB, content map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range content {
		f, err := w.Create(name)
		require.NoError(t, err)
		_, err = f.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String()
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func sum(s string) []byte {
	digest := sha1.Sum([]byte(s)) //nolint:gosec // see above
	return digest[:]
}
