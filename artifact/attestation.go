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

// Attached is a signed statement that is attached to a digest. Whose it is says KeyID: of the service's own the key that
// signed it, empty of what somebody else attached, which nobody has verified here.
type Attached struct {
	PredicateType string    `json:"predicateType"`
	Name          string    `json:"name,omitempty"` // of a verification summary the environment
	KeyID         string    `json:"keyID,omitempty"`
	SignedAt      time.Time `json:"signedAt,omitzero"`
	Envelope      Digest    `json:"envelope"`            // the blob
	Size          int64     `json:"size"`                // of the envelope, in bytes
	Manifests     []Digest  `json:"manifests,omitempty"` // that hold it: a referrer, and what stands at cosign's tag
}

// Unattested is what the service has not signed about a digest that its last verdict allows.
type Unattested struct {
	Reference
	Lacks        bool          // its signature, or a statement about what it is
	Environments []Environment // of promotions to them there is no summary
}

// PredicateTypes are the types of the statements that the service signs.
type PredicateTypes struct{ SBOM, Scan, Provenance, Verification string }
