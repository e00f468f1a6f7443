package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"waybill/artifact"
)

// TestRPMEqualToTrivy: of databases that rpm itself wrote, in each of the formats there are, packages and findings are those of the
// `trivy` command. They are of the tests of the library that reads them.
func TestRPMEqualToTrivy(t *testing.T) {
	t.Parallel()
	archive, cache := rpmAdvisories(t)
	s := serve(t)
	admin := s.admin()
	s.onlyNoRoot(admin)
	s.ok(admin, "db", "import", archive)

	alma := "NAME=\"AlmaLinux\"\nID=\"almalinux\"\nVERSION_ID=\"8.8\"\n"
	for name, c := range map[string]struct {
		release, database, path string
		packages                int
		expected                string
	}{
		"berkeley":            {alma, "libuuid/Packages", "var/lib/rpm/Packages", 1, "CVE-2000-0002 | low | libuuid | 2.32.1-42.el8_8 | 2.32.1-99.el8 |"},
		"berkeley-big-endian": {alma, "ubi8-s390x/Packages", "var/lib/rpm/Packages", 180, "CVE-2000-0001 | low | openssl-libs | 1:1.1.1k-"},
		"ndb":                 {"NAME=\"SLES\"\nID=\"sles\"\nVERSION_ID=\"15.3\"\n", "sle15-bci/Packages.db", "usr/lib/sysimage/rpm/Packages.db", 30, "CVE-2000-0001 | low | coreutils | "},
		"sqlite":              {alma, "cbl-mariner-2.0/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite", 100, "CVE-2000-0001 | low | openssl-libs | 1.1.1k-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := configured(t, "65532", files(t, map[string]string{"etc/os-release": c.release, c.path: rpmFixture(t, c.database)}))
			ref := "shop/" + name + "@" + s.pushed(admin, "shop/"+name+":v1", image)
			var scan artifact.Scan
			s.await("the scan", func() bool {
				s.json(admin, &scan, "scan", ref)
				return scan.State != artifact.ScanPending
			})
			require.Equal(t, artifact.Scanned, scan.State, scan.Reason)
			var packages, ours []string
			for _, p := range scan.Packages {
				packages = append(packages, p.Name+" "+p.Version)
			}
			for _, f := range scan.Findings {
				ours = append(ours, strings.Join([]string{f.Class, f.ID, string(f.Severity), f.Package, f.Installed, f.Fixed, f.Path}, " | "))
			}
			layout := ociLayout(t, image)
			requireSame(t, trivyPackages(t, cache, layout), packages)
			requireSame(t, trivyFindings(t, cache, "image", "--image-config-scanners", "misconfig,secret", "--scanners", "vuln,secret,license", "--input", layout), ours)
			require.GreaterOrEqual(t, len(packages), c.packages)
			require.Contains(t, strings.Join(ours, "\n"), c.expected)
		})
	}
}

// trivyPackages runs the command and returns the packages of the operating system that it finds.
func trivyPackages(t *testing.T, cache, layout string) (all []string) {
	t.Helper()
	out, errs, code := command(t, "", nil, "trivy", "image", "--quiet", "--format", "json", "--cache-dir", cache, "--skip-db-update", "--skip-java-db-update", "--skip-check-update",
		"--skip-version-check", "--offline-scan", "--scanners", "vuln", "--list-all-pkgs", "--input", layout)
	require.Zero(t, code, errs)
	var report struct {
		Results []struct {
			Packages []struct {
				Name, Version, Release string
				Epoch                  int
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	for _, r := range report.Results {
		for _, p := range r.Packages {
			version := p.Version + "-" + p.Release
			if p.Epoch != 0 {
				version = fmt.Sprint(p.Epoch, ":", version)
			}
			all = append(all, p.Name+" "+version)
		}
	}
	return all
}

// rpmFixture is a database of the tests of go-rpmdb.
func rpmFixture(t testing.TB, name string) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/knqyf263/go-rpmdb").Output()
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/testdata", name))
	require.NoError(t, err)
	return string(b)
}

// rpmAdvisories is the database with advisories of packages that those have, as an archive to import and as the command's cache.
func rpmAdvisories(t *testing.T) (archive, cache string) {
	t.Helper()
	cache = t.TempDir()
	dir := filepath.Join(cache, "db")
	require.NoError(t, os.Mkdir(dir, 0o700))
	must(t, "tar", "-xzf", advisories(t), "-C", dir)
	db, err := bbolt.Open(filepath.Join(dir, "trivy.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) (err error) {
		for _, a := range []struct{ distribution, pkg, id, fixed string }{
			{"alma 8", "openssl-libs", "CVE-2000-0001", "1:1.1.1k-99.el8"},
			{"alma 8", "libuuid", "CVE-2000-0002", "2.32.1-99.el8"},
			{"alma 8", "libuuid", "CVE-2000-0003", "2.32.1-42.el8_8"}, // has it
			{"SUSE Linux Enterprise 15.3", "coreutils", "CVE-2000-0001", "99-1"},
			{"SUSE Linux Enterprise 15.4", "glibc", "CVE-2000-0002", "99-1"}, // another release
		} {
			distributions, failed := tx.CreateBucketIfNotExists([]byte(a.distribution))
			err = errors.Join(err, failed)
			packages, failed := distributions.CreateBucketIfNotExists([]byte(a.pkg))
			err = errors.Join(err, failed, packages.Put([]byte(a.id), fmt.Appendf(nil, `{"FixedVersion":%q}`, a.fixed)))
			details, failed := tx.CreateBucketIfNotExists([]byte("vulnerability"))
			err = errors.Join(err, failed, details.Put([]byte(a.id), []byte(`{"Title":"for a test","Severity":"LOW"}`)))
		}
		return err
	}))
	require.NoError(t, db.Close())
	archive = filepath.Join(t.TempDir(), "db.tar.gz")
	must(t, "tar", "-czf", archive, "-C", dir, "trivy.db", "metadata.json")
	return archive, cache
}
