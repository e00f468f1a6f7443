package main

import (
	"context"
	"net/url"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/signer"
)

// product is who says what is attested.
func (cfg *Config) product() signer.Product {
	p := signer.Product{Version: version}
	if u, err := url.Parse(cfg.ExternalURL); err == nil {
		p.Host = u.Host
	}
	return p
}

func attestationRow(r signer.Record) artifact.Attestation {
	return artifact.Attestation{Repository: r.Repository, Digest: r.Digest, Predicate: r.Predicate, Name: r.Name, KeyID: r.KeyID, PolicyHash: r.PolicyHash, Basis: r.Basis}
}

func attestationRows(made []signer.Attested) []artifact.Attestation {
	all := make([]artifact.Attestation, len(made))
	for i, m := range made {
		all[i] = attestationRow(m.Record)
		all[i].Manifest, all[i].Envelope = m.Referrer, m.Envelope
	}
	return all
}

// LockAttestations takes no connection where no other process signs: signer.Service has a lock of its own.
func (s signerStore) LockAttestations(ctx context.Context, r artifact.Repository, d artifact.Digest) (func(), error) {
	if !s.replicas {
		return func() {}, nil
	}
	return s.db.LockAttestations(ctx, r, d)
}

func (s signerStore) IntendAttestation(ctx context.Context, r signer.Record) (bool, error) {
	return s.db.IntendAttestation(ctx, attestationRow(r), r.Keep)
}

func (s signerStore) PutAttestations(ctx context.Context, r artifact.Repository, t artifact.Tag, image gcr.Image, drops []artifact.Digest) error {
	return s.registry.PutAttached(ctx, artifact.System, r, t, image, drops)
}

func (s signerStore) RemoveSuperseded(ctx context.Context, r artifact.Repository, d artifact.Digest, t artifact.Tag, made []signer.Attested) error {
	return s.db.RemoveSuperseded(ctx, r, d, t, attestationRows(made), signer.PredicateAnnotation, signer.NameAnnotation)
}

func (s signerStore) Attested(ctx context.Context, made []signer.Attested) error {
	return s.db.RecordAttestations(ctx, attestationRows(made))
}
