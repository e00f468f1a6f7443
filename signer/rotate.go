package signer

import (
	"context"
	"fmt"

	"waybill/artifact"
)

// trusted is a key with what of its signatures counts: all (nil), or those in these layers.
type trusted struct {
	key    *Verifier
	layers map[artifact.Digest]bool
}

type trustedKeys []trusted

// of returns the keys whose signatures in a layer count.
func (all trustedKeys) of(layer artifact.Digest) (keys []*Verifier) {
	for _, t := range all {
		if t.layers == nil || t.layers[layer] {
			keys = append(keys, t.key)
		}
	}
	return keys
}

// verifiers returns the keys that statements of a type about a digest may be signed by: those named, in PEM, else the
// service's own.
func (v *Attestations) verifiers(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicateType string, named []string) (trustedKeys, error) {
	var all trustedKeys
	for i, pem := range named {
		key, err := NewVerifier([]byte(pem))
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		all = append(all, trusted{key: key})
	}
	if len(named) > 0 {
		return all, nil
	}
	own, err := v.own.Counting(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range own {
		key, err := NewVerifier(c.PEM)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", c.ID, err)
		}
		t := trusted{key: key}
		if !c.Before.IsZero() {
			if t.layers, err = v.carried(ctx, repository, digest, predicateType, c); err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// carried returns the layers of what carried statements by a revoked key when the ledger recorded them: who has the key by
// now can sign others, and cannot have them be there then.
func (v *Attestations) carried(ctx context.Context, repository artifact.Repository, digest artifact.Digest, predicateType string, c Counting) (map[artifact.Digest]bool, error) {
	carriers, err := v.own.SignedBefore(ctx, repository, digest, predicateType, c.ID, c.Before)
	if err != nil {
		return nil, err
	}
	layers := map[artifact.Digest]bool{}
	for _, d := range carriers {
		stored, err := v.attached.Manifest(ctx, repository, d)
		if artifact.KindOf(err) == artifact.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, layer := range stored.Manifest.Layers {
			layers[layer.Digest] = true
		}
	}
	return layers, nil
}
