package artifact

import "time"

// Attestation is a statement that the service signed about a digest: of each predicate type one, or one for each name.
type Attestation struct {
	Repository Repository
	Digest     Digest
	Predicate  string // its type, a URI
	Name       string // of a verification summary the environment
	KeyID      string
	PolicyHash Digest
	Basis      string // what it rests on; for another, it is made again
	SignedAt   time.Time
	Manifest   Digest // of the artifact that refers to the digest
	Envelope   Digest // the blob
}
