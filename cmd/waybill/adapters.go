package main

import (
	"context"
	"io"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/blob"
	"waybill/jobs"
	"waybill/ledger"
	"waybill/mirror"
	"waybill/policy"
	"waybill/postgres"
	"waybill/registry"
	"waybill/signer"
)

// Packages declare the small interfaces that they call; here what implements them is fitted. Nothing is decided here.

// contents reads what is stored: rows from the database, bytes through the registry.
type contents struct {
	*postgres.DB
	registry *registry.Registry
}

func (c *contents) Blob(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]byte, error) {
	return c.registry.Blob(ctx, r, d)
}

// coldContents reads what is stored, of many images: it leaves what is kept in memory to those that are pulled.
type coldContents struct {
	postgres.Cold
	files *blob.File
}

func (c coldContents) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	file, _, err := c.files.Open(d)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, artifact.MaxManifest))
}

// recordJudge gives the registry a verdict's record: it stores and shows verdicts, and signs nothing.
type recordJudge struct{ judge *policy.Judge }

func (j recordJudge) Judge(ctx context.Context, s artifact.Subject) (artifact.Judgement, error) {
	v, err := j.judge.Judge(ctx, s)
	return artifact.Judgement{Verdict: v.VerdictRecord, Scan: v.Scan}, err
}

// mirrorPushes stores what a mirror fetched by the path of every push.
type mirrorPushes struct{ *registry.Registry }

func (m *mirrorPushes) PutManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference, mediaType string, body []byte) error {
	_, err := m.Registry.PutManifest(ctx, p, ref, mediaType, body, nil)
	return err
}

// replicate records and inserts the copies that a promotion sets off, and its attestation, in its transaction.
func replicate(copier *mirror.Copier, db *postgres.DB, work *jobs.Client) func(context.Context, pgx.Tx, artifact.Promotion) error {
	return func(ctx context.Context, tx pgx.Tx, p artifact.Promotion) error {
		// A promotion, and not something that arrived for what is promoted: that has no row.
		if p.ID != 0 {
			if err := work.Promoted(ctx, tx, p); err != nil {
				return err
			}
		}
		for _, target := range copier.Targets(p.Repository, p.Environment) {
			r := artifact.Replication{Target: target, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment, Version: p.Version}
			if err := db.QueueReplication(ctx, tx, r); err != nil {
				return err
			}
			if err := work.Replicate(ctx, tx, r); err != nil {
				return err
			}
		}
		return nil
	}
}

// signerStore keeps signatures in the registry, as anybody's push would be, and intents in the database.
type signerStore struct {
	registry *registry.Registry
	db       *postgres.DB
	replicas bool // others may work on this database
}

func (s signerStore) Image(ctx context.Context, r artifact.Repository, t artifact.Tag) (gcr.Image, error) {
	digest, err := s.db.ResolveTag(ctx, r, t)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return s.registry.Image(ctx, r, digest)
}

func (s signerStore) Put(ctx context.Context, r artifact.Repository, t artifact.Tag, image gcr.Image) (artifact.Digest, error) {
	var tags []artifact.Tag
	if !t.IsZero() {
		tags = append(tags, t)
	}
	return s.registry.PutImage(ctx, artifact.System, r, tags, image)
}

func (s signerStore) Subject(ctx context.Context, r artifact.Repository, d artifact.Digest) (artifact.Descriptor, error) {
	m, err := s.db.Manifest(ctx, r, d)
	return artifact.Descriptor{MediaType: m.Manifest.MediaType, Digest: d, Size: int64(len(m.Body))}, err
}

func (s signerStore) Intend(ctx context.Context, r signer.Record) (bool, error) {
	return s.db.IntendSignature(ctx, r.Repository, r.Digest, r.Predicate, r.KeyID, r.PolicyHash)
}

func (s signerStore) Signed(ctx context.Context, r signer.Record, manifest artifact.Digest) error {
	return s.db.RecordSignature(ctx, r.Repository, r.Digest, r.Predicate, r.KeyID, r.PolicyHash, manifest)
}

// layerLock has one replica inspect a layer, and uses at most so many connections for that.
func layerLock(db *postgres.DB, most int) func(context.Context, artifact.Digest) (func(), error) {
	turns := make(chan struct{}, most)
	return func(ctx context.Context, layer artifact.Digest) (func(), error) {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		release, err := db.LockLayer(ctx, layer)
		if err != nil {
			<-turns
			return nil, err
		}
		return func() { release(); <-turns }, nil
	}
}

// laterVEX is asked by the judge, which is there before what VEX documents are read from.
type laterVEX struct{ documents *vexDocuments }

func (v *laterVEX) Apply(ctx context.Context, r artifact.Repository, d artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error) {
	return v.documents.Apply(ctx, r, d, findings)
}

// describe brings an image's scan up to date, for a database that came in force while it was pushed, and stores its SBOMs
// as referrers, unless Waybill did before.
func describe(db *postgres.DB, scans *jobs.Scanner, kept sboms) func(context.Context, artifact.Repository, artifact.Digest) (bool, error) {
	return func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (bool, error) {
		if err := scans.Refresh(ctx, repository, digest); err != nil {
			return false, err
		}
		subject, err := db.Manifest(ctx, repository, digest)
		if err != nil || !subject.IsImage {
			return false, err
		}
		if all, err := kept.all(ctx, subject); err != nil || all {
			return false, err
		}
		cycloneDX, spdx, err := scans.SBOMs(ctx, repository, digest)
		if err != nil {
			return false, err
		}
		return true, kept.attach(ctx, subject, cycloneDX, spdx)
	}
}

// Subject reads what an entry is about.
func (ledgerAPI) Subject(body []byte) (artifact.Repository, artifact.Digest, error) {
	e, err := ledger.Parse(body)
	return e.Repository, e.Digest, err
}
