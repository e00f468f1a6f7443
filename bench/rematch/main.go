// Command rematch measures how long a new advisory database takes to be matched with everything: 10,000 digests of 150
// packages each, by the scanner process, while somebody pushes.
//
//	make build && go run ./bench/rematch [-images 10000] [-packages 150] [-advisories examples/advisories/db.tar.gz]
//
// The images do not exist: what is stored of their scans does, made by the scanner from lists of packages that the
// advisories know. It does so twice: with a database that says the same as the one before, and with one that adds a finding
// to every image.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.etcd.io/bbolt"

	"waybill/artifact"
	"waybill/jobs"
	"waybill/postgres"
	"waybill/scanner"
)

func main() {
	b := bench{}
	flag.IntVar(&b.images, "images", 10_000, "digests")
	flag.IntVar(&b.packages, "packages", 150, "in each")
	flag.StringVar(&b.advisories, "advisories", "examples/advisories/db.tar.gz", "archive of the database")
	flag.StringVar(&b.program, "scanner", "bin/waybill-scanner", "the scanner")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "rematch:", err)
		os.Exit(1)
	}
}

type bench struct {
	images, packages    int
	advisories, program string

	dir     string
	db      *postgres.DB
	scanner *scanner.Client
	names   []string // of packages that advisories know
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "waybill-rematch-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := os.Chmod(b.dir, 0o711); err != nil {
		return err
	}
	first, second := b.database("first"), b.database("second")
	for _, folder := range []string{b.folder(first.Digest), b.folder(second.Digest)} {
		if err := errors.Join(os.MkdirAll(folder, 0o755), exec.Command("tar", "-xzf", b.advisories, "-C", folder).Run()); err != nil {
			return fmt.Errorf("unpack advisories: %w", err)
		}
	}
	if b.names, err = known(filepath.Join(b.folder(first.Digest), "trivy.db")); err != nil {
		return err
	}
	version, err := exec.Command(b.program, "version").Output()
	if err != nil {
		return fmt.Errorf("make build first: %w", err)
	}
	b.scanner = scanner.New(scanner.Config{Program: b.program, Version: strings.Fields(string(version))[1], Folder: b.dir, Logger: slog.New(slog.DiscardHandler)})
	defer func() { _ = b.scanner.Close() }()
	server, err := postgres.StartEmbedded(ctx, filepath.Join(b.dir, "postgres"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer server.Stop()
	if b.db, err = postgres.Open(ctx, postgres.Config{URL: server.URL(), MaxConnections: 8}); err != nil {
		return err
	}
	defer b.db.Close()
	begun := time.Now()
	if err := b.fill(ctx, first); err != nil {
		return err
	}
	fmt.Printf("%d images of %d packages are stored (%.1f s)\n", b.images, b.packages, time.Since(begun).Seconds())
	if err := b.measure(ctx, second, "a database that finds the same"); err != nil {
		return err
	}
	third := b.database("third")
	if err := errors.Join(os.MkdirAll(b.folder(third.Digest), 0o755), exec.Command("cp", "-r", b.folder(first.Digest)+"/.", b.folder(third.Digest)).Run(),
		addAdvisory(filepath.Join(b.folder(third.Digest), "trivy.db"))); err != nil {
		return err
	}
	return b.measure(ctx, third, "a database that finds one more in each")
}

func (b *bench) folder(d artifact.Digest) string { return filepath.Join(b.dir, "advisories", d.Hex()) }

func (b *bench) database(name string) artifact.AdvisoryDatabase {
	return artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte(name)), Schema: 2, UpdatedAt: time.Now().UTC(), ImportedBy: "bench"}
}

const goSource = "go::The Go Vulnerability Database"

// known lists Go modules that a database has advisories of.
func known(path string) (names []string, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(goSource)).ForEach(func(name, _ []byte) error {
			names = append(names, string(name))
			return nil
		})
	})
	return names, err
}

// addAdvisory has every version of base-files be vulnerable.
func addAdvisory(path string) error {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		source, err := tx.CreateBucketIfNotExists([]byte("debian 12"))
		if err != nil {
			return err
		}
		bucket, err := source.CreateBucketIfNotExists([]byte("base-files"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte("CVE-2026-99999"), []byte(`{"FixedVersion":"99"}`))
	})
	return errors.Join(err, db.Close())
}

// debianPackages are some of a Debian image; the others are Go modules of a program in it.
var debianPackages = strings.Fields(`adduser apt base-files base-passwd bash bsdutils coreutils dash debconf debianutils diffutils dpkg e2fsprogs findutils gcc-12
	glibc gnupg2 gnutls28 grep gzip hostname init-system-helpers krb5 libcap2 libgcrypt20 libxml2 libzstd linux-pam lz4 mawk ncurses openssl pam pcre2 perl
	procps sed shadow sqlite3 systemd tar tzdata util-linux xz-utils zlib expat curl git python3.11 libtasn1-6 libssh2 nghttp2 openldap p11-kit readline`)

// layer is a Trivy analysis (types.BlobInfo) of one image's only layer.
func (b *bench) layer(random *rand.Rand) ([]byte, error) {
	type pkg map[string]any
	var system, modules []pkg
	for i, name := range debianPackages {
		version := fmt.Sprintf("%d.%d", 1+random.IntN(9), random.IntN(40))
		system = append(system, pkg{"ID": name + "@" + version + "-1", "Name": name, "Version": version, "Release": "1", "Arch": "amd64", "SrcName": name,
			"SrcVersion": version, "SrcRelease": "1", "Maintainer": "Debian", "Licenses": []string{"GPL-2.0-only"}, "InstalledFiles": []string{fmt.Sprintf("/usr/share/%d", i)}})
	}
	for len(system)+len(modules) < b.packages {
		// One in three is of those that advisories know, which is more than real programs have.
		name := fmt.Sprintf("example.com/module%d", random.IntN(1000))
		if len(modules)%3 == 0 {
			name = b.names[random.IntN(200)]
		}
		version := fmt.Sprintf("v1.%d.0", random.IntN(20))
		modules = append(modules, pkg{"ID": name + "@" + version, "Name": name, "Version": version})
	}
	return json.Marshal(map[string]any{"SchemaVersion": 2, "DiffID": artifact.DigestOf([]byte("layer")).String(), "OS": map[string]string{"Family": "debian", "Name": "12.11"},
		"PackageInfos": []any{map[string]any{"FilePath": "var/lib/dpkg/status", "Packages": system}},
		"Applications": []any{map[string]any{"Type": "gobinary", "FilePath": "usr/bin/app", "Packages": modules}}})
}

// distinct is how many different sets of packages there are: images of one service have nearly the same.
const distinct = 500

// fill stores manifests and their scans by the first database.
func (b *bench) fill(ctx context.Context, database artifact.AdvisoryDatabase) error {
	if err := b.db.SaveAdvisoryDatabase(ctx, database); err != nil {
		return err
	}
	var (
		random = rand.New(rand.NewPCG(1, 2))
		scans  []artifact.Scan
		config = fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, artifact.DigestOf([]byte("layer")))
	)
	for range min(distinct, b.images) {
		layer, err := b.layer(random)
		if err != nil {
			return err
		}
		r, err := b.scanner.Match(ctx, scanner.MatchRequest{Database: b.folder(database.Digest), Config: config, Layers: [][]byte{layer}, Name: "bench/app", Digest: artifact.DigestOf(layer)})
		if err != nil {
			return err
		}
		scans = append(scans, artifact.Scan{State: artifact.Scanned, ScannedAt: time.Now(), DatabaseDigest: database.Digest, DatabaseUpdatedAt: database.UpdatedAt,
			Packages: r.Packages, Findings: r.Findings, Counts: artifact.CountFindings(r.Findings), Contents: r.Contents, Vulnerabilities: r.Vulnerabilities})
	}
	fmt.Printf("%d packages and %d vulnerabilities in an image, %d bytes kept to match it again\n", len(scans[0].Packages), len(slices.DeleteFunc(slices.Clone(scans[0].Findings),
		func(f artifact.Finding) bool { return f.Class != artifact.ClassVulnerability })), len(scans[0].Contents))
	if _, err := b.db.Pool.Exec(ctx, `insert into repositories (name) values ('bench/app')`); err != nil {
		return err
	}
	for i, scan := range scans {
		scan.Digest = artifact.DigestOf(fmt.Append(nil, i))
		if err := b.db.SaveScan(artifact.DoneAgain(ctx), scan); err != nil {
			return err
		}
	}
	for _, sql := range []string{
		`create table copies as select 'sha256:' || encode(sha256(convert_to(n::text, 'UTF8')), 'hex') as digest, 'sha256:' || encode(sha256(convert_to((n % $1::int)::text, 'UTF8')), 'hex') as original
			from generate_series(0, $2::int - 1) n`,
		`insert into scans (digest, state, scanned_at, database_digest, database_updated_at, packages, counts, contents, vulnerabilities, licenses)
			select c.digest, state, scanned_at, database_digest, database_updated_at, packages, counts, contents, vulnerabilities, licenses
			from copies c join scans s on s.digest = original where c.digest <> original and $1::int = $1 and $2::int = $2`,
		`insert into findings (digest, hash, id, class, severity, finding) select c.digest, hash, id, class, severity, finding
			from copies c join findings f on f.digest = original where c.digest <> original and $1::int = $1 and $2::int = $2`,
		`insert into manifests (repository, digest, media_type, is_image, is_index, body, pushed_by)
			select 'bench/app', digest, 'application/vnd.oci.image.manifest.v1+json', true, false, '{}', 'bench' from copies where $1::int = $1 and $2::int = $2`,
	} {
		if _, err := b.db.Pool.Exec(ctx, sql, len(scans), b.images); err != nil {
			return fmt.Errorf("%.40s: %w", sql, err)
		}
	}
	_, err := b.db.Pool.Exec(ctx, `vacuum analyze`, pgx.QueryExecModeSimpleProtocol)
	return err
}

// measure puts a database in force, has everything matched with it, and inserts manifests meanwhile as pushes do.
func (b *bench) measure(ctx context.Context, database artifact.AdvisoryDatabase, what string) error {
	if err := b.db.SaveAdvisoryDatabase(ctx, database); err != nil {
		return err
	}
	work := &jobs.Scanner{Store: b.db, Client: b.scanner, Folder: b.folder, Logger: slog.New(slog.DiscardHandler)}
	store := &timed{DB: b.db}
	rescanner := &jobs.Rescanner{Scanner: work, Store: store, Attest: func(context.Context) error { return nil }}
	pushing, stop := context.WithCancel(ctx)
	defer stop()
	var (
		pushes []time.Duration
		pusher sync.WaitGroup
		wrong  error
	)
	pusher.Go(func() { pushes, wrong = b.push(pushing, database.Digest) })
	begun := time.Now()
	err := rescanner.Run(ctx)
	took := time.Since(begun)
	stop()
	pusher.Wait()
	if err := errors.Join(err, wrong); err != nil {
		return err
	}
	var left int
	if err := b.db.Pool.QueryRow(ctx, `select count(*) from scans where database_digest <> $1`, database.Digest).Scan(&left); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%d images have no answer of the new database", left)
	}
	slices.Sort(pushes)
	fmt.Printf("%s: the database took %.1f s of it to read, %.1f s to write\n", what, store.read.Seconds(), store.written.Seconds())
	fmt.Printf("%s: %d digests in %.1f s (%.0f a second); %d pushes meanwhile, p50 %v, p99 %v\n", what, b.images, took.Seconds(), float64(b.images)/took.Seconds(),
		len(pushes), pushes[len(pushes)/2].Round(100*time.Microsecond), pushes[len(pushes)*99/100].Round(100*time.Microsecond))
	return nil
}

// timed is the database, with how long it took.
type timed struct {
	*postgres.DB
	read, written time.Duration
}

func (t *timed) Outdated(ctx context.Context, database, after artifact.Digest, n int) ([]artifact.Rematch, error) {
	defer func(begun time.Time) { t.read += time.Since(begun) }(time.Now())
	return t.DB.Outdated(ctx, database, after, n)
}

func (t *timed) SaveRematch(ctx context.Context, database artifact.AdvisoryDatabase, at time.Time, same []artifact.Digest, changed []artifact.Rematched) error {
	defer func(begun time.Time) { t.written += time.Since(begun) }(time.Now())
	return t.DB.SaveRematch(ctx, database, at, same, changed)
}

// push has a layer of a megabyte inspected and inserts a row that is committed, ten times a second.
func (b *bench) push(ctx context.Context, seed artifact.Digest) (took []time.Duration, err error) {
	if _, err := b.db.Pool.Exec(ctx, `insert into repositories (name) values ('bench/pushed') on conflict do nothing`); err != nil {
		return nil, err
	}
	layer, err := os.CreateTemp(b.dir, "layer-")
	if err != nil {
		return nil, err
	}
	defer layer.Close()
	content := make([]byte, 1<<20) // a tar that ends at once
	if _, err := layer.Write(content); err != nil {
		return nil, err
	}
	for tick, i := time.NewTicker(100*time.Millisecond), 0; ; i++ {
		begun := time.Now()
		if _, err := b.scanner.Analyse(ctx, layer, artifact.Descriptor{Digest: artifact.DigestOf(content)}); err == nil {
			_, err = b.db.Pool.Exec(ctx, `insert into manifests (repository, digest, media_type, is_index, is_image, body, pushed_by) values ('bench/pushed', $1, $2, 'f', false, '{}', 'bench')`,
				artifact.DigestOf(fmt.Append(nil, seed, i)), artifact.MediaTypeManifest)
			if err != nil && ctx.Err() == nil {
				return took, err
			}
		} else if ctx.Err() == nil {
			return took, err
		}
		if ctx.Err() != nil && len(took) > 0 {
			return took, nil
		}
		took = append(took, time.Since(begun))
		select {
		case <-ctx.Done():
			return took, nil
		case <-tick.C:
		}
	}
}
