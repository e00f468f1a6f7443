package policy

import "fmt"

// requiredSignature is the parameters of require-signature.
type requiredSignature struct {
	Authorities `yaml:",inline"`
	At          moment `yaml:"at"` // push or promotion (the default)
}

// bindRequireSignature: one of the authorities signed the image, or an index that holds it.
func bindRequireSignature(with Node, given bool) (check, error) {
	required, err := requireSignature(with, given)
	if err != nil {
		return nil, err
	}
	question := required.question()
	id := question.ID()
	return func(img Image) []finding {
		signed := img.Signed[id]
		if len(signed.Statements) > 0 {
			return nil
		}
		return required.At.lacking(img, signed.against("signature", fmt.Sprintf("it is not signed by %s; sign it, such as with `cosign sign`", required.Authorities), required.Authorities), signed.Against)
	}, nil
}

func requireSignature(with Node, given bool) (required requiredSignature, err error) {
	if required, err = parameters[requiredSignature](with, given); err != nil {
		return required, err
	}
	if err := required.Check(with); err != nil {
		return required, err
	}
	switch {
	case required.Own:
		return required, with.At("$.keys").Errorf("Waybill signs what this rule allows, so that its own signature cannot be asked for here; name a key or an identity of somebody else")
	case required.None():
		return required, with.Errorf("require-signature wants keys (public ones, in PEM), identities, or both: whose signatures count")
	}
	return required, required.At.check(with)
}

func (r requiredSignature) question() SignatureQuestion {
	return SignatureQuestion{Authorities: r.Authorities}
}

func asksSignature(with Node, given bool) *SignatureQuestion {
	required, err := requireSignature(with, given)
	if err != nil {
		return nil
	}
	q := required.question()
	return &q
}
