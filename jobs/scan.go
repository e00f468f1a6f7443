package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/scanner"
)

// queueScan is apart, so that a rescan of everything does not hold up signatures.
const queueScan = "scan"

// scanArgs asks for one image to be matched again with the advisory database in force.
type scanArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (scanArgs) Kind() string { return "scan" }
func (scanArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueScan, MaxAttempts: 5}
}

// ScanStore is what a scan reads and writes; *postgres.DB is one.
type ScanStore interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error)
	SaveScan(ctx context.Context, s artifact.Scan) error
}

// Scanner matches an image's packages, as they were found when its layers were inspected, with the advisory database:
// for the verdict about its push, and again for each new database.
type Scanner struct {
	river.WorkerDefaults[scanArgs]

	Store     ScanStore
	Inspector *Inspector
	Client    *scanner.Client
	// Config returns an image config's bytes.
	Config func(ctx context.Context, repository artifact.Repository, config artifact.Digest) ([]byte, error)
	// Folder returns where an imported advisory or Java database lies.
	Folder func(database artifact.Digest) string
	// Attest has it signed what a scan found that failed when the image was pushed.
	Attest func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error
	// Busy reports whether somebody pushes at this moment.
	Busy   func() bool
	Logger *slog.Logger
}

// noDatabase is why a scan is pending, and what to do about it.
const noDatabase = "no advisory database: import one with `waybill db import FILE`"

// Scan is for a verdict: the stored scan if there is one, by whichever database; else, and of an image that is arriving
// with a stored scan of an older database, a fresh one.
func (s *Scanner) Scan(ctx context.Context, image artifact.Subject, arriving bool) (scan artifact.Scan, fresh bool, err error) {
	known, err := s.Store.Scan(ctx, image.Digest)
	if err != nil || known.State == artifact.Scanned && !arriving {
		return known, false, err
	}
	database, have, err := s.Store.AdvisoryDatabase(ctx)
	switch {
	case err != nil:
		return known, false, err
	case !have:
		return artifact.Scan{Digest: image.Digest, State: artifact.ScanPending, Reason: noDatabase}, known.Reason != noDatabase, nil
	}
	java, _, err := s.Store.JavaDatabase(ctx)
	if err != nil || known.State == artifact.Scanned && known.DatabaseDigest == database.Digest && (!known.UnnamedJars || known.JavaDatabaseDigest == java.Digest) {
		return known, false, err
	}
	scan, err = s.match(ctx, image, database, java)
	return scan, true, err
}

// match asks a scanner. One that cannot match the image is an answer too, and never "clean".
func (s *Scanner) match(ctx context.Context, image artifact.Subject, database, java artifact.AdvisoryDatabase) (artifact.Scan, error) {
	request, err := s.request(ctx, image)
	if artifact.KindOf(err) == artifact.NotFound {
		return artifact.Scan{Digest: image.Digest, State: artifact.ScanFailed, Reason: "a layer lies elsewhere, and what is not here cannot be scanned"}, nil
	} else if err != nil {
		return artifact.Scan{}, err
	}
	request.Database = s.Folder(database.Digest)
	if !java.Digest.IsZero() {
		request.Java = s.Folder(java.Digest)
	}
	result, err := s.Client.Match(ctx, request)
	switch {
	case ctx.Err() != nil:
		return artifact.Scan{}, ctx.Err()
	case err != nil:
		s.Logger.ErrorContext(ctx, "scan failed", "repository", image.Repository, "digest", image.Digest, "error", err)
		return artifact.Scan{Digest: image.Digest, State: artifact.ScanFailed, Reason: err.Error()}, nil
	}
	if !result.Jars {
		java.Digest = artifact.Digest{} // it was not asked
	}
	return artifact.Scan{Digest: image.Digest, State: artifact.Scanned, UnnamedJars: result.Jars, JavaDatabaseDigest: java.Digest, ScannedAt: time.Now().UTC(), DatabaseDigest: database.Digest,
		DatabaseUpdatedAt: database.UpdatedAt, Packages: result.Packages, Findings: result.Findings,
		Counts: artifact.CountFindings(result.Findings), Contents: result.Contents, Vulnerabilities: result.Vulnerabilities}, nil
}

// Work scans one image again whose scan failed when it was pushed. An image that was deleted meanwhile is done.
func (s *Scanner) Work(ctx context.Context, job *river.Job[scanArgs]) error {
	ctx = artifact.DoneAgain(ctx)
	err := s.Refresh(ctx, job.Args.Repository, job.Args.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil
	} else if err != nil {
		return err
	}
	return s.Attest(ctx, job.Args.Repository, job.Args.Digest)
}

// Refresh scans an image that is stored by the database in force, unless that was done.
func (s *Scanner) Refresh(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	image, err := s.image(ctx, repository, digest)
	if err != nil || !image.IsImage {
		return err
	}
	scan, fresh, err := s.Scan(ctx, image, true)
	if err != nil || !fresh {
		return err
	}
	if err := s.Store.SaveScan(ctx, scan); err != nil {
		return err
	}
	if scan.State == artifact.ScanFailed {
		return fmt.Errorf("scan %s@%s: %s", repository, digest, scan.Reason)
	}
	return nil
}

func (s *Scanner) image(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.Subject, error) {
	m, err := s.Store.Manifest(ctx, repository, digest)
	if err != nil {
		return artifact.Subject{}, err
	}
	return s.imageOf(ctx, m)
}

func (s *Scanner) imageOf(ctx context.Context, m artifact.StoredManifest) (artifact.Subject, error) {
	if !m.IsImage {
		return artifact.Subject{}, nil
	}
	config, err := s.Config(ctx, m.Repository, m.Manifest.Config.Digest)
	return artifact.Subject{Repository: m.Repository, Digest: m.Digest, Manifest: m.Manifest, IsImage: true, Config: config}, err
}

// SBOMs returns an image's CycloneDX and SPDX documents, of the time of its scan, or of its push while it has none. What
// else they say depends on the image alone, and on the Java database in force where it has jars that do not name themselves.
func (s *Scanner) SBOMs(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (cycloneDX, spdx []byte, err error) {
	stored, err := s.Store.Manifest(ctx, repository, digest)
	if err != nil {
		return nil, nil, err
	}
	known, err := s.Store.Scan(ctx, digest)
	if err != nil {
		return nil, nil, err
	}
	image, err := s.imageOf(ctx, stored)
	if err != nil {
		return nil, nil, err
	}
	request, err := s.request(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	if java, have, err := s.Store.JavaDatabase(ctx); err != nil {
		return nil, nil, err
	} else if have {
		request.Java = s.Folder(java.Digest)
	}
	request.SBOM, request.Created = true, stored.PushedAt
	if !known.ScannedAt.IsZero() {
		request.Created = known.ScannedAt
	}
	result, err := s.Client.Match(ctx, request)
	return result.CycloneDX, result.SPDX, err
}

// request collects what matching needs; no layer is read, unless its analysis went missing.
func (s *Scanner) request(ctx context.Context, image artifact.Subject) (scanner.MatchRequest, error) {
	analyses, err := s.Inspector.Analyses(ctx, image.Repository, image.Manifest.Layers)
	return scanner.MatchRequest{Config: image.Config, Layers: analyses, Name: image.Repository.String(), Digest: image.Digest}, err
}
