package policy

import "waybill/artifact"

// Questions are what the rules for a repository ask of signatures.
func (s Set) Questions(r artifact.Repository) []SignatureQuestion { return s.questions(r) }
