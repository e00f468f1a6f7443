package server

import (
	"context"
	"encoding/json"

	"waybill/artifact"
)

// Attestations are signed statements that are attached to digests.
type Attestations interface {
	// Attached returns those of a digest, Waybill's own and others', each once.
	Attached(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.Attached, error)
	// Envelope returns the DSSE envelope of one; NotFound when it is gone.
	Envelope(ctx context.Context, r artifact.Repository, envelope artifact.Digest) ([]byte, error)
	// Provenance returns the in-toto statement by which Waybill says how it built a digest, its signature verified; NotFound when it
	// did not build it.
	Provenance(ctx context.Context, r artifact.Repository, d artifact.Digest) (statement json.RawMessage, a artifact.Attached, err error)
}

// AttestationList is what is attested about a digest.
type AttestationList struct {
	Repository   artifact.Repository `json:"repository"`
	Digest       artifact.Digest     `json:"digest"`
	Attestations []artifact.Attached `json:"attestations"`
}

// Provenance is how a digest was built, as Waybill signed it.
type Provenance struct {
	artifact.Attached
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Statement  any                 `json:"statement" doc:"An in-toto statement whose predicate is SLSA provenance v1"`
}

type (
	attestationsOutput struct{ Body AttestationList }
	provenanceOutput   struct{ Body Provenance }
)

func (a *API) attestations(ctx context.Context, p artifact.Principal, in *refInput) (*attestationsOutput, error) {
	s, err := a.look(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	all, err := a.cfg.Attestations.Attached(ctx, s.Repository, s.Digest)
	if err != nil {
		return nil, err
	}
	return &attestationsOutput{AttestationList{s.Repository, s.Digest, orEmpty(all)}}, nil
}

func (a *API) provenance(ctx context.Context, p artifact.Principal, in *refInput) (*provenanceOutput, error) {
	s, err := a.look(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	if s.Manifest.IsIndex() {
		return nil, artifact.Errorf(artifact.Invalid, "%s@%s is an index; each of its images was built on its own: ask for one by its digest (`waybill inspect` lists them)", s.Repository, s.Digest)
	}
	statement, attached, err := a.cfg.Attestations.Provenance(ctx, s.Repository, s.Digest)
	if err != nil {
		return nil, err
	}
	out := &provenanceOutput{Provenance{Attached: attached, Repository: s.Repository, Digest: s.Digest}}
	return out, json.Unmarshal(statement, &out.Body.Statement)
}

// attestations adds the envelope of each attestation of a digest, as it was signed: SBOMs, scans, provenance, promotions.
func (e *export) attestations(ctx context.Context, folder string, r artifact.Repository, d artifact.Digest) error {
	all, err := e.api.cfg.Attestations.Attached(ctx, r, d)
	if err != nil {
		return err
	}
	there := []artifact.Attached{}
	for _, one := range all {
		envelope, err := e.api.cfg.Attestations.Envelope(ctx, r, one.Envelope)
		if artifact.KindOf(err) == artifact.NotFound {
			continue // replaced at this moment
		} else if err != nil {
			return err
		}
		if err := e.file(folder+"/attestations/"+one.Envelope.Algorithm()+"-"+one.Envelope.Hex()+".json", envelope); err != nil {
			return err
		}
		there = append(there, one)
	}
	return e.json(folder+"/attestations.json", there)
}
