package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/scanner"
)

// queueScan is apart, so that a rescan of everything does not hold up signatures.
const queueScan = "scan"

// scanArgs asks for one image to be matched with the advisory database in force.
type scanArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (scanArgs) Kind() string                 { return "scan" }
func (scanArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// rescanArgs asks for every image to be scanned again: a new advisory database is in force.
type rescanArgs struct{}

func (rescanArgs) Kind() string                 { return "rescan" }
func (rescanArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// ScanStore is what a scan reads and writes; *postgres.DB is one.
type ScanStore interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	LayerAnalyses(ctx context.Context, layers []artifact.Digest) ([][]byte, error)
	SaveScan(ctx context.Context, s artifact.Scan) error
	Images(ctx context.Context) ([]artifact.Reference, error)
}

// Scanner matches an image's stored packages with the advisory database, and attaches an SBOM to it once.
type Scanner struct {
	river.WorkerDefaults[scanArgs]

	Store     ScanStore
	Inspector *Inspector
	Client    *scanner.Client
	// Config returns an image config's bytes.
	Config func(ctx context.Context, repository artifact.Repository, config artifact.Digest) ([]byte, error)
	// Folder returns where an imported advisory database lies.
	Folder func(database artifact.Digest) string
	// AttachSBOM stores a CycloneDX document as a referrer of the image, unless there is one of ours.
	AttachSBOM func(ctx context.Context, subject artifact.StoredManifest, cycloneDX []byte) error
	// Busy reports whether somebody pushes at this moment.
	Busy   func() bool
	Logger *slog.Logger
}

// Work scans one image. An image that was deleted meanwhile is done.
func (s *Scanner) Work(ctx context.Context, job *river.Job[scanArgs]) error {
	if err := giveWay(ctx, s.Busy, job.CreatedAt); err != nil {
		return err
	}
	err := s.scan(artifact.DoneAgain(ctx), job.Args.Repository, job.Args.Digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil
	}
	return err
}

func (s *Scanner) scan(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	image, err := s.Store.Manifest(ctx, repository, digest)
	if err != nil {
		return err
	}
	if !image.IsImage {
		return nil
	}
	database, have, err := s.Store.AdvisoryDatabase(ctx)
	if err != nil {
		return err
	}
	request, err := s.request(ctx, image)
	if err != nil {
		return err
	}
	if have {
		request.Database = s.Folder(database.Digest)
	}
	result, err := s.Client.Match(ctx, request)
	if artifact.KindOf(err) == artifact.Denied {
		return s.Store.SaveScan(ctx, artifact.Scan{Digest: digest, State: artifact.ScanFailed, Reason: err.Error()})
	}
	if err != nil {
		return fmt.Errorf("scan %s@%s: %w", repository, digest, err)
	}
	scan := artifact.Scan{Digest: digest, State: artifact.ScanPending, Reason: "no advisory database: import one with `waybill db import FILE`"}
	if have {
		scan = artifact.Scan{Digest: digest, State: artifact.Scanned, ScannedAt: time.Now().UTC(), DatabaseDigest: database.Digest,
			DatabaseUpdatedAt: database.UpdatedAt, Packages: result.Packages, Findings: result.Findings, Counts: count(result.Findings)}
	}
	if err := s.Store.SaveScan(ctx, scan); err != nil {
		return err
	}
	s.Logger.Info("scanned", "repository", repository, "digest", digest, "state", scan.State, "packages", len(result.Packages), "findings", len(result.Findings))
	return s.AttachSBOM(ctx, image, result.CycloneDX)
}

// request collects what matching needs; no layer is read, unless its analysis went missing.
func (s *Scanner) request(ctx context.Context, image artifact.StoredManifest) (scanner.MatchRequest, error) {
	config, err := s.Config(ctx, image.Repository, image.Manifest.Config.Digest)
	if err != nil {
		return scanner.MatchRequest{}, err
	}
	layers := make([]artifact.Digest, len(image.Manifest.Layers))
	for i, d := range image.Manifest.Layers {
		if _, err := s.Inspector.Layer(ctx, image.Repository, d); err != nil {
			return scanner.MatchRequest{}, err
		}
		layers[i] = d.Digest
	}
	analyses, err := s.Store.LayerAnalyses(ctx, layers)
	return scanner.MatchRequest{Config: config, Layers: analyses, Name: image.Repository.String(), Digest: image.Digest}, err
}

func count(findings []artifact.Finding) map[artifact.Severity]int {
	counts := map[artifact.Severity]int{}
	for _, f := range findings {
		if f.Class == "vulnerability" {
			counts[f.Severity]++
		}
	}
	return counts
}

// rescanner scans everything, one image after another, so that pushes keep a worker to themselves.
type rescanner struct {
	river.WorkerDefaults[rescanArgs]
	scanner *Scanner
}

func (r *rescanner) Work(ctx context.Context, _ *river.Job[rescanArgs]) error {
	images, err := r.scanner.Store.Images(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, image := range images {
		if err := r.scanner.scan(ctx, image.Repository, image.Digest); err != nil && artifact.KindOf(err) != artifact.NotFound {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
