package promotion

import (
	"context"

	"waybill/artifact"
	"waybill/policy"
)

// by has a gate take statements by certificates too.
func (g *AttestationGate) by(at policy.Node, identities []policy.Identity) error {
	a := policy.Authorities{Identities: identities}
	if err := a.Check(at); err != nil {
		return err
	}
	g.Identities, g.at = a.Identities, at
	return nil
}

// TrustRoots calls sound for each trust root that the pipeline names, and says where in the document one is that is not.
func (p Pipeline) TrustRoots(sound func(policy.TrustRoot) error) error {
	for _, stage := range p.Environments {
		for _, gate := range stage.Requires.Attestations {
			if err := (policy.Authorities{Identities: gate.Identities}).Sound(gate.at, sound); err != nil {
				return err
			}
		}
	}
	return nil
}

// attested returns the predicates of the statements that a gate asks for, and why others do not count. Waybill's own are
// looked for where it puts them; those of others wherever they may be.
func (s *Service) attested(ctx context.Context, r artifact.Repository, d artifact.Digest, gate AttestationGate) (predicates []map[string]any, against []string, err error) {
	others := len(gate.Keys)+len(gate.Identities) > 0
	if !others || s.cfg.Signatures == nil {
		if s.cfg.Attestations == nil || len(gate.Identities) > 0 {
			return nil, nil, nil
		}
		predicates, err = s.cfg.Attestations.Attested(ctx, r, d, gate.Type, gate.Keys)
		return predicates, nil, err
	}
	found, err := s.cfg.Signatures.Signed(ctx, r, d, policy.SignatureQuestion{Authorities: policy.Authorities{Keys: gate.Keys, Identities: gate.Identities}, Attestation: true, Types: []string{policy.ExactType(gate.Type)}})
	for _, statement := range found.Statements {
		if statement.PredicateType == gate.Type {
			predicates = append(predicates, statement.Predicate)
		}
	}
	return predicates, found.Against, err
}
