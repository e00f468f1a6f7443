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

// scanArgs asks for one image to be matched with the advisory database in force.
type scanArgs struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
}

func (scanArgs) Kind() string                 { return "scan" }
func (scanArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// ScanStore is what a scan reads and writes; *postgres.DB is one.
type ScanStore interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	LayerAnalyses(ctx context.Context, layers []artifact.Digest) ([][]byte, error)
	SaveScan(ctx context.Context, s artifact.Scan) error
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
	// AttachSBOM stores an SBOM in both formats as referrers of the image, unless there are some of ours.
	AttachSBOM func(ctx context.Context, subject artifact.StoredManifest, cycloneDX, spdx []byte) error
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
			DatabaseUpdatedAt: database.UpdatedAt, Packages: result.Packages, Findings: result.Findings, Counts: artifact.CountFindings(result.Findings),
			Contents: result.Contents, Vulnerabilities: result.Vulnerabilities}
	}
	if err := s.Store.SaveScan(ctx, scan); err != nil {
		return err
	}
	s.Logger.Info("scanned", "repository", repository, "digest", digest, "state", scan.State, "packages", len(result.Packages), "findings", len(result.Findings))
	return s.AttachSBOM(ctx, image, result.CycloneDX, result.SPDX)
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
