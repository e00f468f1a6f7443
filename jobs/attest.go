package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// attestArgs asks for a promotion to be attested.
type attestArgs struct {
	Repository  artifact.Repository  `json:"repository"`
	Digest      artifact.Digest      `json:"digest"`
	Environment artifact.Environment `json:"environment"`
}

func (attestArgs) Kind() string { return "attest" }

// scanKept is how long a scan attestation stands when a newer scan found the same: its database is then that old at most.
const scanKept = 7 * 24 * time.Hour

// AttestStore is what attestations are made of; *postgres.DB is one.
type AttestStore interface {
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	Scan(ctx context.Context, digest artifact.Digest) (artifact.Scan, error)
	// ScanBasis identifies what was found in an image, or in the images of an index; scanned is false until each is.
	ScanBasis(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (basis string, scanned bool, err error)
	// Provenance returns how a digest was built; ok is false when it was not built here.
	Provenance(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (predicate json.RawMessage, ok bool, err error)
	// LastPromotion returns the newest promotion or rollback of a digest to an environment.
	LastPromotion(ctx context.Context, repository artifact.Repository, digest artifact.Digest, environment artifact.Environment) (p artifact.Promotion, ok bool, err error)
	// Signatures returns what the service signed about a digest.
	Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.SignatureRecord, error)
	// Attestations returns the statements that the service signed about a digest.
	Attestations(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]artifact.Attestation, error)
	// ScanAttestations returns digests after one that have a scan attestation or wait for one, at most n, in order.
	ScanAttestations(ctx context.Context, predicate string, after artifact.Reference, n int) ([]artifact.Reference, error)
	// ScanAttestationStands reports whether one says what was found by now, and is young enough.
	ScanAttestationStands(ctx context.Context, predicate string, ref artifact.Reference, keep time.Duration) (bool, error)
	// AwaitScan has ScanAttestations return a digest whose images are not all scanned.
	AwaitScan(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicate string) error
}

// Attester keeps what is signed about allowed digests up to date: SBOMs, the scan, how it was built, and each promotion.
type Attester struct {
	river.WorkerDefaults[attestArgs]

	Judge interface {
		JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error)
	}
	Service interface {
		Attest(ctx context.Context, pass policy.Pass, all ...signer.Statement) error
	}
	Store AttestStore
	// SBOM returns the document of an image that is attached, cyclonedx or spdx; NotFound while there is none.
	SBOM    func(ctx context.Context, repository artifact.Repository, digest artifact.Digest, format string) ([]byte, error)
	Product signer.Product
	// Busy reports whether somebody pushes at this moment.
	Busy   func() bool
	Logger *slog.Logger
}

// Attest signs what is to be said of a digest that a pass is for, whatever of that is not signed yet.
func (a *Attester) Attest(ctx context.Context, pass policy.Pass) error {
	m, err := a.Store.Manifest(ctx, pass.Repository(), pass.Digest())
	if err != nil {
		return err
	}
	var all []signer.Statement
	switch {
	case m.IsImage:
		if all, err = a.sboms(ctx, m); err != nil {
			return err
		}
	case m.Manifest.IsIndex():
		all = a.indexSBOMs(m)
	default:
		return nil
	}
	scan, ok, err := a.scan(ctx, m)
	if err != nil {
		return err
	}
	if ok {
		all = append(all, scan)
	}
	if provenance, built, err := a.provenance(ctx, m.Repository, m.Digest); err != nil {
		return err
	} else if built {
		all = append(all, provenance)
	}
	return a.Service.Attest(ctx, pass, all...)
}

// sboms are the documents that are attached to an image. One that is too large to be signed is left as it is, unsigned.
func (a *Attester) sboms(ctx context.Context, m artifact.StoredManifest) (all []signer.Statement, err error) {
	for format, predicate := range map[string]string{"cyclonedx": signer.CycloneDXPredicate, "spdx": signer.SPDXPredicate} {
		document, err := a.SBOM(ctx, m.Repository, m.Digest, format)
		if artifact.KindOf(err) == artifact.NotFound {
			continue // what no scanner could read has none
		} else if err != nil {
			return nil, err
		}
		if len(document) > signer.MaxPredicate {
			a.Logger.WarnContext(ctx, "the SBOM is attached and not signed: it is too large", "repository", m.Repository, "digest", m.Digest, "format", format, "bytes", len(document))
			continue
		}
		all = append(all, signer.Statement{PredicateType: predicate, Basis: artifact.DigestOf(document).String(), Predicate: func() (json.RawMessage, error) { return document, nil }})
	}
	return all, nil
}

func (a *Attester) indexSBOMs(m artifact.StoredManifest) []signer.Statement {
	var members []signer.Member
	for _, d := range m.Manifest.Manifests {
		one := signer.Member{Digest: d.Digest, Size: d.Size}
		if d.Platform != nil {
			one.Platform = d.Platform.String()
		}
		members = append(members, one)
	}
	return []signer.Statement{
		{PredicateType: signer.CycloneDXPredicate, Predicate: func() (json.RawMessage, error) {
			return a.Product.IndexCycloneDX(m.Repository, m.Digest, members)
		}},
		{PredicateType: signer.SPDXPredicate, Predicate: func() (json.RawMessage, error) {
			return a.Product.IndexSPDX(m.Repository, m.Digest, members, m.PushedAt)
		}},
	}
}

// scan is what was found in an image, or in each of an index; ok is false until all are scanned.
func (a *Attester) scan(ctx context.Context, m artifact.StoredManifest) (one signer.Statement, ok bool, err error) {
	basis, scanned, err := a.Store.ScanBasis(ctx, m.Repository, m.Digest)
	if err != nil {
		return one, false, err
	}
	if !scanned {
		return one, false, a.Store.AwaitScan(ctx, m.Repository, m.Digest, signer.ScanPredicate)
	}
	return signer.Statement{PredicateType: signer.ScanPredicate, Basis: basis, Keep: scanKept, Predicate: func() (json.RawMessage, error) {
		var scans []signer.Scanned
		if err := a.scansOf(ctx, m, 0, &scans); err != nil {
			return nil, err
		}
		return a.Product.Vulnerabilities(m.Repository, m.Digest, scans)
	}}, true, nil
}

// maxIndexDepth is how many indexes within indexes are followed.
const maxIndexDepth = 8

func (a *Attester) scansOf(ctx context.Context, m artifact.StoredManifest, depth int, into *[]signer.Scanned) error {
	if m.IsImage {
		scan, err := a.Store.Scan(ctx, m.Digest)
		*into = append(*into, signer.Scanned{Platform: m.Platform, Scan: scan})
		return err
	}
	for _, d := range m.Manifest.Manifests {
		child, err := a.Store.Manifest(ctx, m.Repository, d.Digest)
		if err == nil && depth < maxIndexDepth {
			err = a.scansOf(ctx, child, depth+1, into)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Bring attests what is stored and allowed by now. What was deleted or is denied is done: it stays as it is.
func (a *Attester) Bring(ctx context.Context, repository artifact.Repository, digest artifact.Digest) error {
	pass, ok, err := a.pass(ctx, repository, digest)
	if err != nil || !ok {
		return err
	}
	return a.Attest(ctx, pass)
}

func (a *Attester) pass(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (pass policy.Pass, ok bool, err error) {
	verdict, err := a.Judge.JudgeStored(ctx, repository, digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return pass, false, nil
	} else if err != nil {
		return pass, false, fmt.Errorf("judge %s@%s: %w", repository, digest, err)
	}
	if pass, err = verdict.Pass(); err != nil {
		a.Logger.WarnContext(ctx, "not attested: the policy in force does not allow it", "repository", repository, "digest", digest, "outcome", verdict.Outcome)
		return pass, false, nil
	}
	return pass, true, nil
}

// Work attests a promotion, and before that whatever else is to be said of the digest: it is what the promotion rests on.
// Of promotions of one digest to one environment the last is attested, whichever job comes first.
func (a *Attester) Work(ctx context.Context, job *river.Job[attestArgs]) error {
	if err := giveWay(ctx, a.Busy, job.CreatedAt); err != nil {
		return err
	}
	ctx = artifact.DoneAgain(ctx)
	pass, ok, err := a.pass(ctx, job.Args.Repository, job.Args.Digest)
	if err != nil || !ok {
		return err
	}
	if err := a.Attest(ctx, pass); err != nil {
		return err
	}
	return a.promotion(ctx, pass, job.Args.Environment)
}

func (a *Attester) promotion(ctx context.Context, pass policy.Pass, e artifact.Environment) error {
	p, ok, err := a.Store.LastPromotion(ctx, pass.Repository(), pass.Digest(), e)
	if err != nil || !ok {
		return err
	}
	return a.Service.Attest(ctx, pass, signer.Statement{PredicateType: signer.VerificationPredicate, Name: p.Environment.String(), Field: signer.VerificationField,
		Basis: strconv.FormatInt(p.ID, 10), Predicate: func() (json.RawMessage, error) { return a.verification(ctx, pass, p) }})
}

// Again attests all that was attested of a digest, its promotions too, where what is there does not count any more.
func (a *Attester) Again(ctx context.Context, pass policy.Pass) error {
	if err := a.Attest(ctx, pass); err != nil {
		return err
	}
	signed, err := a.Store.Attestations(ctx, pass.Repository(), pass.Digest())
	if err != nil {
		return err
	}
	for _, one := range signed {
		if one.Predicate != signer.VerificationPredicate {
			continue
		}
		e, err := artifact.ParseEnvironment(one.Name)
		if err == nil {
			err = a.promotion(ctx, pass, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Attester) verification(ctx context.Context, pass policy.Pass, p artifact.Promotion) (json.RawMessage, error) {
	signatures, err := a.Store.Signatures(ctx, p.Repository, p.Digest)
	if err != nil {
		return nil, err
	}
	v := signer.Verified{Promotion: p}
	if pass.PolicyHash() == p.PolicyHash {
		v.Policies = pass.Policies()
	}
	for _, s := range signatures {
		if s.Predicate != signer.VerificationPredicate {
			v.Inputs = append(v.Inputs, signer.Input{PredicateType: s.Predicate, Manifest: s.Manifest})
		}
		v.Built = v.Built || s.Predicate == signer.ProvenancePredicate
	}
	return a.Product.Verification(v)
}

// attestScansArgs asks for scan attestations to say what scans found by now.
type attestScansArgs struct{}

func (attestScansArgs) Kind() string                 { return "attest-scans" }
func (attestScansArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: queueScan} }

// scanAttester brings scan attestations up to date after a new advisory database: those of images in which it finds
// something else, and those that are older than scanKept. One that is cut short goes on where it was.
type scanAttester struct {
	river.WorkerDefaults[attestScansArgs]
	attester *Attester
}

// Work does all that is still to do.
func (s *scanAttester) Work(ctx context.Context, _ *river.Job[attestScansArgs]) (failed error) {
	const page = 500
	ctx = artifact.DoneAgain(ctx)
	for after := (artifact.Reference{}); ; {
		all, err := s.attester.Store.ScanAttestations(ctx, signer.ScanPredicate, after, page)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, ref := range all {
			stands, err := s.attester.Store.ScanAttestationStands(ctx, signer.ScanPredicate, ref, scanKept)
			if err == nil && !stands {
				if err = giveWay(ctx, s.attester.Busy, time.Now().Add(rematchYield-wayFor)); err == nil {
					err = s.attester.Bring(ctx, ref.Repository, ref.Digest)
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed = errors.Join(failed, err)
		}
		if len(all) < page {
			return failed
		}
		after = all[len(all)-1]
	}
}

// AttestScans has scan attestations brought up to date.
func (c *Client) AttestScans(ctx context.Context) error {
	_, err := c.river.Insert(ctx, attestScansArgs{}, nil)
	return err
}

// Promoted inserts, in the promotion's own transaction, its attestation.
func (c *Client) Promoted(ctx context.Context, tx pgx.Tx, p artifact.Promotion) error {
	_, err := c.river.InsertTx(ctx, tx, attestArgs{p.Repository, p.Digest, p.Environment}, nil)
	return err
}
