package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/scanner"
)

// advisories keeps imported databases in a folder each.
type advisories struct {
	db      *postgres.DB
	scanner *scanner.Client
	folder  string
	rescan  func(context.Context) error
}

func (a *advisories) path(d artifact.Digest) string { return filepath.Join(a.folder, d.Hex()) }

// prefer has scanners see the databases in force from their start.
func (a *advisories) prefer(ctx context.Context) error {
	d, have, err := a.db.AdvisoryDatabase(ctx)
	if err != nil || !have {
		return err
	}
	prefer := scanner.Databases{Advisories: a.path(d.Digest)}
	d, have, err = a.db.JavaDatabase(ctx)
	if have {
		prefer.Java = a.path(d.Digest)
	}
	a.scanner.Prefer(prefer)
	return err
}

func (a *advisories) AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return a.db.AdvisoryDatabase(ctx)
}

func (a *advisories) JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return a.db.JavaDatabase(ctx)
}

// Import unpacks aside, has the scanner open what came, and renames: a killed import leaves nothing that looks whole.
func (a *advisories) Import(ctx context.Context, actor artifact.Principal, archive io.Reader) error {
	_, err := a.put(ctx, actor, archive, false)
	return err
}

// put is Import; with newer it refuses a database that was built before the one in force. What the archive holds says
// whether it is an advisory database or a Java database.
func (a *advisories) put(ctx context.Context, actor artifact.Principal, archive io.Reader, newer bool) (artifact.AdvisoryDatabase, error) {
	// Others, the scanner's user among them, may read advisories: they are public.
	if err := os.MkdirAll(a.folder, 0o755); err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	aside, err := os.MkdirTemp(a.folder, ".new-")
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	defer os.RemoveAll(aside)
	if err := os.Chmod(aside, 0o755); err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	digest, java, err := unpackDatabase(archive, aside)
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	what, check, current, save := "advisory", a.scanner.CheckDatabase, a.db.AdvisoryDatabase, a.db.SaveAdvisoryDatabase
	if java {
		what, check, current, save = "Java", a.scanner.CheckJavaDatabase, a.db.JavaDatabase, a.db.SaveJavaDatabase
	}
	info, err := check(ctx, aside)
	if artifact.KindOf(err) == artifact.Denied {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Invalid, "the %s database %v", what, err)
	} else if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	if d, _, err := current(ctx); err != nil {
		return d, err
	} else if newer && info.UpdatedAt.Before(d.UpdatedAt) {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Conflict, "the database there was built %s, and the one in use %s; an older one can be imported from a file",
			info.UpdatedAt.Format(time.RFC3339), d.UpdatedAt.Format(time.RFC3339))
	}
	if err := os.Rename(aside, a.path(digest)); err != nil && !errors.Is(err, os.ErrExist) {
		if _, statErr := os.Stat(a.path(digest)); statErr != nil {
			return artifact.AdvisoryDatabase{}, err
		}
	}
	d := artifact.AdvisoryDatabase{Digest: digest, Schema: info.Schema, UpdatedAt: info.UpdatedAt, ImportedBy: actor.Name}
	if err := save(ctx, d); err != nil {
		return d, err
	}
	if err := a.prefer(ctx); err != nil {
		return d, err
	}
	if err := a.rescan(ctx); err != nil {
		return d, err
	}
	d, _, err = current(ctx)
	return d, err
}

// databaseFiles are the files of Trivy's database archives, with the most bytes that each may have. There is one of the
// databases in an archive, and its metadata.
var databaseFiles = map[string]int64{"trivy.db": 8 << 30, "trivy-java.db": 8 << 30, "metadata.json": 1 << 20}

// unpackDatabase reads the archive to its end and returns its digest, and whether it is a Java database.
func unpackDatabase(archive io.Reader, folder string) (_ artifact.Digest, java bool, err error) {
	sum := artifact.NewHash("sha256")
	tee := io.TeeReader(archive, sum)
	invalid := func(format string, args ...any) (artifact.Digest, bool, error) {
		return artifact.Digest{}, false, artifact.Errorf(artifact.Invalid, "advisory database: "+format, args...)
	}
	z, err := gzip.NewReader(tee)
	if err != nil {
		return invalid("it is no gzip-compressed archive; want the db.tar.gz that trivy-db is published as, or the javadb.tar.gz of trivy-java-db")
	}
	left := map[string]bool{"trivy.db": true, "trivy-java.db": true, "metadata.json": true}
	for members := tar.NewReader(z); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return invalid("%w", err)
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag == tar.TypeDir && name == "." {
			continue
		}
		if !left[name] || h.Typeflag != tar.TypeReg || h.Size > databaseFiles[name] {
			return invalid("it holds %.100q; want trivy.db or trivy-java.db, metadata.json, and nothing else", h.Name)
		}
		delete(left, name)
		switch name {
		case "trivy.db":
			delete(left, "trivy-java.db")
		case "trivy-java.db":
			delete(left, "trivy.db")
			java = true
		}
		if err := writeFile(filepath.Join(folder, name), members, h.Size); err != nil {
			return artifact.Digest{}, false, fmt.Errorf("unpack advisory database: %w", err)
		}
	}
	if len(left) > 0 {
		return invalid("it lacks %v", sortedKeys(left))
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return artifact.Digest{}, false, err
	}
	return artifact.DigestFrom("sha256", sum), java, nil
}

func writeFile(path string, content io.Reader, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, content, size)
	return errors.Join(err, f.Sync(), f.Close())
}
