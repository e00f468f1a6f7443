package e2e

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	"database/sql"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	javadb "github.com/aquasecurity/trivy-java-db/pkg/db"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	_ "modernc.org/sqlite" // of the databases of jars and of RPM packages

	"waybill/artifact"
)

// TestEqualToTrivy: on real images the findings are those of the `trivy` command of the same version and database,
// finding by finding.
func TestEqualToTrivy(t *testing.T) {
	t.Parallel()
	archive, cache := moreAdvisories(t)
	s := serve(t)
	admin := s.admin()
	s.onlyNoRoot(admin) // what the images have in them is what this is about
	s.ok(admin, "db", "import", archive)

	old, current := goProgram(t, "go1.22.3"), goProgram(t, "local")
	installed := map[string]string{
		"usr/local/bin/old": old, "usr/local/bin/current": current,
		"app/node_modules/lodash/package.json":                          `{"name":"lodash","version":"4.17.20","license":"MIT"}`,
		"usr/lib/python3/site-packages/jinja2-3.1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: Jinja2\nVersion: 3.1.2\nLicense: BSD-3-Clause\n",
		"app/lib/log4j-core-2.14.1.jar":                                 jar(t, "org.apache.logging.log4j", "log4j-core", "2.14.1"),
		"app/lib/broken.jar":                                            "no archive at all",
		"app/config.env":                                                "AWS_ACCESS_KEY_ID=AKIA" + "IOSFODNN7EXAMPLQ\nexport GITHUB_PAT=ghp_" + strings.Repeat("a1B2", 9) + "\n",
		"usr/local/bin/rusty":                                           rustProgram(t, `{"packages":[{"name":"rusty","version":"1.0.0","source":"local","root":true,"dependencies":[1]},{"name":"time","version":"0.1.42","source":"crates.io"}]}`),
		"usr/local/bin/1.21":                                            goProgram(t, "go1.21.9"), "usr/local/bin/1.24": goProgram(t, "go1.24.4"),
		"usr/local/bin/crate": auditable(t), // dynamically linked, by a real linker
		// The one lock file that the command reads in images too.
		cargoLock: "version = 3\n\n[[package]]\nname = \"time\"\nversion = \"0.1.42\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n",
		"usr/lib/python3/site-packages/requests-2.19.0.egg-info/PKG-INFO": "Metadata-Version: 1.1\nName: requests\nVersion: 2.19.0\nLicense: Apache-2.0\n",
		"lib/apk/db/installed": "C:Q1x=\nP:musl\nV:1.2.3-r4\nA:x86_64\nL:MIT\no:musl\n\n",
		"etc/alpine-release":   "3.17.3\n",
	}
	lockFiles := map[string]string{
		"srv/package-lock.json": `{"name":"srv","version":"1.0.0","lockfileVersion":3,"packages":{"":{"name":"srv","version":"1.0.0","dependencies":{"lodash":"4.17.20"}},` +
			`"node_modules/lodash":{"version":"4.17.20"}}}`,
		"srv/requirements.txt": "jinja2==3.1.2\nrequests==2.32.4\n",
		"srv/poetry.lock":      "[[package]]\nname = \"jinja2\"\nversion = \"3.1.2\"\ndescription = \"\"\noptional = false\npython-versions = \">=3.7\"\n\n[metadata]\nlock-version = \"2.0\"\n",
		"web/yarn.lock":        "# yarn lockfile v1\n\n\nlodash@^4.17.0:\n  version \"4.17.20\"\n  resolved \"https://registry.yarnpkg.com/lodash/-/lodash-4.17.20.tgz\"\n",
		"pnpm/pnpm-lock.yaml":  "lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      lodash: {specifier: 4.17.20, version: 4.17.20}\npackages:\n  lodash@4.17.20:\n    resolution: {integrity: sha512-x}\nsnapshots:\n  lodash@4.17.20: {}\n",
		"py/Pipfile.lock":      `{"_meta":{"pipfile-spec":6},"default":{"jinja2":{"version":"==3.1.2"}},"develop":{}}`,
		"py/uv.lock":           "version = 1\n\n[[package]]\nname = \"srv\"\nversion = \"0.1.0\"\nsource = { virtual = \".\" }\ndependencies = [{ name = \"jinja2\" }]\n\n[[package]]\nname = \"jinja2\"\nversion = \"3.1.2\"\nsource = { registry = \"https://pypi.org/simple\" }\n",
		"srv/go.mod":           "module example.com/srv\n\ngo 1.22\n\nrequire golang.org/x/net v0.17.0\n",
	}
	both := files(t, lockFiles)
	for name, make := range map[string]func(testing.TB) v1.Image{
		"debian":  func(t testing.TB) v1.Image { return image(t, debian(t, ""), "65532") },
		"updated": func(t testing.TB) v1.Image { return image(t, debianUpdated(t), "65532") },
		"rocky": func(t testing.TB) v1.Image {
			return configured(t, "65532", files(t, map[string]string{"etc/redhat-release": "Rocky Linux release 9.3 (Blue Onyx)\n", "var/lib/rpm/rpmdb.sqlite": rpmDatabase(t)}))
		},
		"apps": func(t testing.TB) v1.Image { return withHistory(t, configured(t, "65532", files(t, installed), both)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := make(t)
			ref := "shop/" + name + "@" + s.pushed(admin, "shop/"+name+":v1", image)
			var scan artifact.Scan
			s.await("the scan", func() bool {
				s.json(admin, &scan, "scan", ref)
				return scan.State != artifact.ScanPending
			})
			require.Equal(t, artifact.Scanned, scan.State, scan.Reason)
			inLockFiles, ours := []string{}, []string{}
			for _, f := range scan.Findings {
				line := strings.Join([]string{f.Class, f.ID, string(f.Severity), f.Package, f.Installed, f.Fixed, f.Path}, " | ")
				if f.Class == artifact.ClassVulnerability {
					require.Equal(t, f.Path == cargoLock || lockFiles[f.Path] != "", f.LockFile, f.Path)
				}
				if f.LockFile && f.Path != cargoLock || f.Class == artifact.ClassLicense && lockFiles[f.Path] != "" {
					inLockFiles = append(inLockFiles, line)
				} else {
					ours = append(ours, line)
				}
			}
			theirs := trivyFindings(t, cache, "image", "--image-config-scanners", "misconfig,secret", "--scanners", "vuln,secret,license", "--input", ociLayout(t, image))
			requireSame(t, theirs, ours)
			if name == "rocky" {
				require.Equal(t, "openssl-libs 1:3.0.7-24.el9 rocky", scan.Packages[0].Name+" "+scan.Packages[0].Version+" "+scan.Packages[0].Type)
			}
			if name != "apps" {
				return
			}
			// `trivy image` passes lock files over; `trivy fs` is for them.
			requireSame(t, trivyFindings(t, cache, "fs", "--scanners", "vuln,license", folder(t, lockFiles)), inLockFiles)
			all := strings.Join(slices.Concat(ours, inLockFiles), "\n")
			for _, expected := range []string{"CVE-2024-24790", "CVE-2021-44228", "CVE-2021-23337", "CVE-2024-22195", "aws-access-key-id", "github-pat", "misconfiguration | DS-",
				"srv/poetry.lock", "srv/requirements.txt", "srv/package-lock.json", "srv/go.mod", "license | MIT", "web/yarn.lock", "pnpm/pnpm-lock.yaml", "py/Pipfile.lock", "py/uv.lock", "rust/Cargo.lock",
				"CVE-2020-26235 | medium | time | 0.1.42 | 0.2.23 | usr/local/bin/rusty", "CVE-2018-18074",
				"CVE-2000-0003 | low | library_crate | 0.1.0 | 0.1.1 | usr/local/bin/crate",
				"CVE-2024-24790 | critical | stdlib | v1.21.9 |", "CVE-2024-24790 | critical | stdlib | v1.22.3 |", "stdlib | v1.24.4 |"} {
				require.Contains(t, all, expected)
			}
		})
	}
}

func requireSame(t *testing.T, theirs, ours []string) {
	t.Helper()
	slices.Sort(theirs)
	slices.Sort(ours)
	require.Equal(t, strings.Join(slices.Compact(theirs), "\n"), strings.Join(slices.Compact(ours), "\n"))
	t.Logf("%d findings are the same", len(ours))
}

// trivyFindings runs the command and returns a line for each finding.
func trivyFindings(t *testing.T, cache, target string, args ...string) []string {
	t.Helper()
	out, errs, code := command(t, "", nil, "trivy", append([]string{target, "--quiet", "--format", "json", "--cache-dir", cache, "--skip-db-update", "--skip-java-db-update",
		"--skip-check-update", "--skip-version-check", "--offline-scan", "--timeout", "5m"}, args...)...)
	require.Zero(t, code, errs)
	var report struct {
		Results []struct {
			Target, Class     string
			Vulnerabilities   []struct{ VulnerabilityID, PkgName, InstalledVersion, FixedVersion, Severity, PkgPath string }
			Secrets           []struct{ RuleID, Severity string }
			Licenses          []struct{ Name, Severity, PkgName, FilePath string }
			Misconfigurations []struct{ ID, Severity string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	all := []string{}
	add := func(class, id, severity, pkg, installed, fixed, path string) {
		all = append(all, strings.Join([]string{class, id, strings.ToLower(severity), pkg, installed, fixed, path}, " | "))
	}
	for _, r := range report.Results {
		for _, v := range r.Vulnerabilities {
			path := v.PkgPath
			if path == "" && r.Class == "lang-pkgs" {
				path = r.Target
			}
			add(artifact.ClassVulnerability, v.VulnerabilityID, v.Severity, v.PkgName, v.InstalledVersion, v.FixedVersion, path)
		}
		for _, f := range r.Secrets {
			if strings.HasSuffix(r.Target, "/layout") { // the command calls the config as it was told to call the image
				r.Target = "image config"
			}
			add(artifact.ClassSecret, f.RuleID, f.Severity, "", "", "", r.Target)
		}
		for _, l := range r.Licenses {
			add(artifact.ClassLicense, l.Name, l.Severity, l.PkgName, "", "", l.FilePath)
		}
		for _, m := range r.Misconfigurations {
			add(artifact.ClassMisconfiguration, m.ID, m.Severity, "", "", "", "image config")
		}
	}
	return all
}

// moreAdvisories is the real database with a few well-known advisories of other ecosystems beside, as an archive to import
// and as the command's cache, which has an empty database of jars, as Waybill has.
func moreAdvisories(t *testing.T) (archive, cache string) {
	t.Helper()
	cache = t.TempDir()
	dir := filepath.Join(cache, "db")
	require.NoError(t, os.Mkdir(dir, 0o700))
	must(t, "tar", "-xzf", advisories(t), "-C", dir)
	db, err := bbolt.Open(filepath.Join(dir, "trivy.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		put := func(value any, key string, buckets ...string) error {
			b, err := tx.CreateBucketIfNotExists([]byte(buckets[0]))
			if err != nil {
				return err
			}
			for _, name := range buckets[1:] {
				if b, err = b.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			encoded, err := json.Marshal(value)
			return errors.Join(err, b.Put([]byte(key), encoded))
		}
		for _, a := range []struct{ source, pkg, id, vulnerable, patched, severity string }{
			{"npm::GitHub Security Advisory npm", "lodash", "CVE-2021-23337", "<4.17.21", "4.17.21", "HIGH"},
			{"pip::GitHub Security Advisory pip", "jinja2", "CVE-2024-22195", "<3.1.3", "3.1.3", "MEDIUM"},
			{"pip::GitHub Security Advisory pip", "requests", "CVE-2018-18074", "<2.20.0", "2.20.0", "HIGH"},
			{"maven::GitHub Security Advisory Maven", "org.apache.logging.log4j:log4j-core", "CVE-2021-44228", ">=2.13.0, <2.15.0", "2.15.0", "CRITICAL"},
			{"maven::GitHub Security Advisory Maven", "commons-collections:commons-collections", "CVE-2015-7501", "<3.2.3", "", "HIGH"},
			{"cargo::GitHub Security Advisory Rust", "library_crate", "CVE-2000-0003", "<0.1.1", "0.1.1", "LOW"},
			{"cargo::GitHub Security Advisory Rust", "time", "CVE-2020-26235", "<0.2.23", "0.2.23", "MEDIUM"},
			{"maven::GitHub Security Advisory Maven", "org.example:claims", "CVE-2000-0001", "<2", "2", "LOW"},
			{"maven::GitHub Security Advisory Maven", "org.example:byname", "CVE-2000-0002", "<2", "2", "LOW"},
		} {
			ecosystem, name, _ := strings.Cut(a.source, "::")
			err := errors.Join(
				put(map[string]string{"ID": "ghsa", "Name": name, "URL": "https://github.com/advisories?query=ecosystem%3A" + ecosystem}, a.source, "data-source"),
				put(map[string][]string{"PatchedVersions": {a.patched}, "VulnerableVersions": {a.vulnerable}}, a.id, a.source, a.pkg),
				put(map[string]any{"Title": a.pkg, "Severity": a.severity, "VendorSeverity": map[string]int{"ghsa": slices.Index([]string{"", "LOW", "MEDIUM", "HIGH", "CRITICAL"}, a.severity)}}, a.id, "vulnerability"),
			)
			if err != nil {
				return err
			}
		}
		return put(map[string]any{"FixedVersion": "1.2.3-r5"}, "CVE-2025-26519", "alpine 3.17", "musl")
	}))
	require.NoError(t, db.Close())
	archive = filepath.Join(t.TempDir(), "db.tar.gz")
	must(t, "tar", "-czf", archive, "-C", dir, "trivy.db", "metadata.json")

	jars := filepath.Join(cache, "java-db")
	index, err := javadb.New(jars)
	require.NoError(t, err)
	require.NoError(t, index.Init())
	require.NoError(t, index.Close())
	metadata := javadb.NewMetadata(jars)
	require.NoError(t, metadata.Update(javadb.Metadata{Version: javadb.SchemaVersion, NextUpdate: time.Now().AddDate(1, 0, 0), UpdatedAt: time.Now(), DownloadedAt: time.Now()}))
	return archive, cache
}

// debianUpdated is a Debian root file system with its security updates, as mmdebstrap makes it by itself.
func debianUpdated(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.(interface{ TempDir() string }).TempDir(), "updated.tar.gz")
	must(t, "mmdebstrap", "--variant=minbase", "--quiet", "bookworm", path)
	return path
}

// goProgram is a program built by a version of Go, which the module proxy has.
func goProgram(t testing.TB, toolchain string) string {
	t.Helper()
	dir := t.(interface{ TempDir() string }).TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/program\n\ngo 1.21\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport \"net/netip\"\n\nfunc main() { println(netip.MustParseAddr(\"127.0.0.1\").IsLoopback()) }\n"), 0o600))
	cmd := exec.Command("go", "build", "-o", "program", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+toolchain, "CGO_ENABLED=0", "GOFLAGS=", "GOEXPERIMENT=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	b, err := os.ReadFile(filepath.Join(dir, "program"))
	require.NoError(t, err)
	return string(b)
}

const cargoLock = "rust/Cargo.lock"

// auditable is a program that cargo-auditable built, of those that Trivy's own tests are for: a crate and a library of its
// workspace.
func auditable(t testing.TB) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aquasecurity/trivy").Output()
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/dependency/parser/rust/binary/testdata/test.elf"))
	require.NoError(t, err)
	return string(b)
}

// rustProgram is a program as cargo-auditable builds it: what it was built of lies compressed in a section of its own
// (rust-secure-code/cargo-auditable, PARSING.md). This ELF file has that section and nothing to run.
func rustProgram(t testing.TB, dependencies string) string {
	t.Helper()
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	_, err := z.Write([]byte(dependencies))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	const names = "\x00.dep-v0\x00.shstrtab\x00"
	header := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64),
		Version: uint32(elf.EV_CURRENT), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2, Shoff: 64}
	content := uint64(64 + 3*64)
	sections := []elf.Section64{{}, {Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: content, Size: uint64(packed.Len()), Addralign: 1},
		{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: content + uint64(packed.Len()), Size: uint64(len(names)), Addralign: 1}}
	var b bytes.Buffer
	require.NoError(t, binary.Write(&b, binary.LittleEndian, header))
	require.NoError(t, binary.Write(&b, binary.LittleEndian, sections))
	return b.String() + packed.String() + names
}

// jar is a Java archive as Maven builds it.
func jar(t testing.TB, group, name, version string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create("META-INF/maven/" + group + "/" + name + "/pom.properties")
	require.NoError(t, err)
	_, err = fmt.Fprintf(f, "groupId=%s\nartifactId=%s\nversion=%s\n", group, name, version)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// rpmDatabase is an RPM database of one package, in SQLite as Fedora 33 and RHEL 9 have it: its header is as rpm's
// docs/manual/hregions.md says, without a region.
func rpmDatabase(t testing.TB) string {
	t.Helper()
	const typeInt32, typeString = 4, 6
	var entries, data []byte
	add := func(tag, kind uint32, value []byte) {
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
		for _, n := range []uint32{tag, kind, uint32(len(data)), 1} {
			entries = binary.BigEndian.AppendUint32(entries, n)
		}
		data = append(data, value...)
	}
	text := func(tag uint32, s string) { add(tag, typeString, append([]byte(s), 0)) }
	text(1000, "openssl-libs")
	text(1001, "3.0.7")
	text(1002, "24.el9")
	add(1003, typeInt32, []byte{0, 0, 0, 1}) // epoch
	text(1011, "Rocky Enterprise Software Foundation")
	text(1014, "ASL 2.0")
	text(1022, "x86_64")
	text(1044, "openssl-3.0.7-24.el9.src.rpm")
	header := binary.BigEndian.AppendUint32(nil, uint32(len(entries)/16))
	header = binary.BigEndian.AppendUint32(header, uint32(len(data)))
	header = append(append(header, entries...), data...)

	path := filepath.Join(t.(interface{ TempDir() string }).TempDir(), "rpmdb.sqlite")
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(`create table Packages (hnum integer primary key autoincrement, "blob" BLOB not null)`)
	require.NoError(t, err)
	_, err = db.Exec(`insert into Packages (blob) values (?)`, header)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// withHistory gives an image the history that a build leaves, with what checks of Dockerfiles complain of.
func withHistory(t testing.TB, image v1.Image) v1.Image {
	t.Helper()
	cfg, err := image.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.History = []v1.History{{CreatedBy: "/bin/sh -c #(nop) ADD file:abc in / "}, {CreatedBy: "RUN /bin/sh -c apt-get update # buildkit"}}
	cfg.Config.Env = []string{"TOKEN=ghp_" + strings.Repeat("b2C3", 9)}
	image, err = mutate.ConfigFile(image, cfg)
	require.NoError(t, err)
	return image
}

func ociLayout(t testing.TB, image v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.(interface{ TempDir() string }).TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(image))
	return dir
}

func folder(t testing.TB, content map[string]string) string {
	t.Helper()
	dir := t.(interface{ TempDir() string }).TempDir()
	for name, text := range content {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}
