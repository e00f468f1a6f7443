package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"waybill/artifact"
)

// KeeperStore is what a keeper reads and removes; *postgres.DB is one.
type KeeperStore interface {
	Documents
	Repositories(ctx context.Context) ([]artifact.Repository, error)
	Holdings(ctx context.Context, repository artifact.Repository) (Holdings, error)
	// FreedBytes is the size of the blobs that only these of a repository's manifests name.
	FreedBytes(ctx context.Context, repository artifact.Repository, manifests []artifact.Digest) (int64, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	// Retire removes a unit as a user's deletes would, in one transaction. Whatever has come to need a part of it since
	// the holdings were read is a Conflict or a Denied error, and then all of it stays.
	Retire(ctx context.Context, repository artifact.Repository, u Unit, asOf time.Time, actor, reason string) error
}

// KeeperConfig names everything a keeper needs.
type KeeperConfig struct {
	Store KeeperStore
	// Blob returns the bytes of a small blob.
	Blob func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
	// Environments returns those of all pipelines.
	Environments func(ctx context.Context) ([]artifact.Environment, error)
	// Flush writes the pulls that are noted in memory only.
	Flush  func(ctx context.Context) error
	Logger *slog.Logger
}

// Keeper runs retention: it plans each repository, and removes what the plan says, a small transaction after another.
// Whatever stops it at any point, the next run goes on.
type Keeper struct{ cfg KeeperConfig }

// NewKeeper returns a keeper.
func NewKeeper(cfg KeeperConfig) *Keeper { return &Keeper{cfg} }

// Report is what retention removed, or would, and why it left the rest.
type Report struct {
	DryRun       bool               `json:"dryRun"`
	Repositories []RepositoryReport `json:"repositories" doc:"Those that a document with retention is for"`
}

// RepositoryReport is a Report of one repository.
type RepositoryReport struct {
	Repository artifact.Repository `json:"repository"`
	Document   string              `json:"document" doc:"The document whose retention it is, and its version" example:"shop@3"`
	Removed    []Removed           `json:"removed"`
	Kept       []Kept              `json:"kept" doc:"Tags that stay, the newest first"`
	Skipped    []Skipped           `json:"skipped" doc:"What was to go, and changed meanwhile"`
	Freed      int64               `json:"freedBytes" doc:"Of blobs that no other manifest of the repository names, when nothing is skipped; garbage collection frees them"`
}

// Removed is a manifest that goes with its tags, or, with TagOnly, a tag that goes alone.
type Removed struct {
	Digest   artifact.Digest `json:"digest"`
	Tags     []artifact.Tag  `json:"tags"`
	TagOnly  bool            `json:"tagOnly,omitempty" doc:"The manifest stays, for something else needs it"`
	Bytes    int64           `json:"bytes" doc:"Of the manifest and the blobs that it names; others may name them too"`
	PushedAt time.Time       `json:"pushedAt,omitzero"`
	PulledAt time.Time       `json:"pulledAt,omitzero"`
}

// Kept is a tag that stays.
type Kept struct {
	Tag     artifact.Tag    `json:"tag"`
	Digest  artifact.Digest `json:"digest"`
	Reasons []string        `json:"reasons"`
}

// Skipped is a manifest, or the tag alone, that was to go and stays for now.
type Skipped struct {
	Digest artifact.Digest `json:"digest"`
	Tags   []artifact.Tag  `json:"tags"`
	Reason string          `json:"reason"`
}

// Run plans every repository that a document with retention is for, and unless it is dry removes what the plans say. A
// repository that fails does not keep the others from their turn.
func (k *Keeper) Run(ctx context.Context, actor string, dryRun bool) (Report, error) {
	report := Report{DryRun: dryRun, Repositories: []RepositoryReport{}}
	documents, err := k.cfg.Store.StorageDocuments(ctx)
	if err != nil || !slices.ContainsFunc(documents, func(d Versioned) bool { return d.Retention != nil }) {
		return report, err
	}
	if err := k.cfg.Flush(ctx); err != nil {
		return report, err // what was pulled just now would go
	}
	environments, err := k.cfg.Environments(ctx)
	if err != nil {
		return report, err
	}
	repositories, err := k.cfg.Store.Repositories(ctx)
	if err != nil {
		return report, err
	}
	var failed []error
	for _, repository := range repositories {
		d, ok := For(documents, repository)
		if !ok || d.Retention == nil {
			continue
		}
		of, err := k.repository(ctx, repository, d, environments, actor, dryRun)
		if err != nil {
			failed = append(failed, fmt.Errorf("retention of %s: %w", repository, err))
			continue
		}
		report.Repositories = append(report.Repositories, of)
	}
	return report, errors.Join(failed...)
}

func (k *Keeper) repository(ctx context.Context, repository artifact.Repository, d Versioned, environments []artifact.Environment, actor string, dryRun bool) (RepositoryReport, error) {
	report := RepositoryReport{Repository: repository, Document: fmt.Sprintf("%s@%d", d.Name(), d.Version), Removed: []Removed{}, Kept: []Kept{}, Skipped: []Skipped{}}
	holdings, err := k.cfg.Store.Holdings(ctx, repository)
	if err != nil {
		return report, err
	}
	plan, err := d.Retention.Plan(holdings, environments, func(digest artifact.Digest, attached []artifact.Digest) ([]artifact.Environment, error) {
		return k.signedFor(ctx, repository, attached, environments)
	})
	if err != nil {
		return report, err
	}
	for _, kept := range plan.Kept {
		report.Kept = append(report.Kept, Kept{kept.Name, kept.Digest, kept.Reasons})
	}
	var gone []artifact.Digest
	for _, u := range plan.Units {
		for _, m := range u.Manifests {
			gone = append(gone, m.Digest)
		}
	}
	if report.Freed, err = k.cfg.Store.FreedBytes(ctx, repository, gone); err != nil {
		return report, err
	}
	for _, u := range plan.Units {
		removed := u.removed()
		if !dryRun {
			err := k.cfg.Store.Retire(ctx, repository, u, holdings.At, actor, "retention of "+report.Document)
			switch artifact.KindOf(err) {
			case artifact.Conflict, artifact.Denied, artifact.NotFound:
				for _, r := range removed {
					report.Skipped = append(report.Skipped, Skipped{r.Digest, r.Tags, err.Error()})
				}
				continue
			}
			if err != nil {
				return report, err
			}
		}
		report.Removed = append(report.Removed, removed...)
	}
	if !dryRun && len(report.Removed) > 0 {
		k.cfg.Logger.Info("retention", "repository", repository.String(), "document", report.Document, "removed", len(report.Removed), "kept", len(report.Kept), "skipped", len(report.Skipped))
	}
	return report, nil
}

// removed is the unit for people.
func (u Unit) removed() []Removed {
	var all []Removed
	for _, m := range u.Manifests {
		r := Removed{Digest: m.Digest, Tags: []artifact.Tag{}, Bytes: m.Bytes, PushedAt: m.PushedAt, PulledAt: m.PulledAt}
		for _, tag := range u.Tags {
			if tag.Digest == m.Digest {
				r.Tags = append(r.Tags, tag.Name)
			}
		}
		all = append(all, r)
	}
	if len(u.Manifests) == 0 {
		for _, tag := range u.Tags {
			all = append(all, Removed{Digest: tag.Digest, Tags: []artifact.Tag{tag.Name}, TagOnly: true})
		}
	}
	return all
}

const (
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	maxPayload    = 64 << 10 // bytes of a signature's payload; real ones have some hundred
)

// signedFor returns the environments that signatures name, as `cosign sign -a environment=production` has them: in the
// payload. Nobody asks whose signature it is, since all that it does here is to keep something.
func (k *Keeper) signedFor(ctx context.Context, repository artifact.Repository, attached []artifact.Digest, environments []artifact.Environment) ([]artifact.Environment, error) {
	var found []artifact.Environment
	for _, digest := range attached {
		m, err := k.cfg.Store.Manifest(ctx, repository, digest)
		if err != nil {
			return nil, err
		}
		for _, layer := range m.Manifest.Layers {
			if layer.MediaType != simpleSigning || layer.Size > maxPayload {
				continue
			}
			payload, err := k.cfg.Blob(ctx, repository, layer.Digest)
			if err != nil {
				return nil, err
			}
			var signed struct {
				Optional struct {
					Environment string `json:"environment"`
				} `json:"optional"`
			}
			if json.Unmarshal(payload, &signed) != nil {
				continue
			}
			for _, e := range environments {
				if e.String() == signed.Optional.Environment {
					found = append(found, e)
				}
			}
		}
	}
	return found, nil
}
