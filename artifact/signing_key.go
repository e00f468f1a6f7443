package artifact

import "time"

// SigningKey is a key of the service's signatures: what is known of it to everybody, and where its private half is.
type SigningKey struct {
	ID          string    `json:"id"`                                                                              // the SHA-256 of the public key's DER, in hexadecimal
	Algorithm   string    `json:"algorithm"`                                                                       // such as ecdsa-p256
	PublicKey   string    `json:"publicKeyPEM"`                                                                    // PKIX in PEM
	Reference   string    `json:"reference" doc:"Where the private half is: in the data folder, a file, or a KMS"` // see docs/signing.md
	Since       time.Time `json:"since"`                                                                           // from then on it signed
	Until       time.Time `json:"until,omitzero"`                                                                  // zero: it signs now
	AddedBy     string    `json:"addedBy"`
	Reason      string    `json:"reason,omitempty"`
	LedgerIndex int64     `json:"ledgerIndex"` // of the entry that put it in force

	Revocation *KeyRevocation `json:"revocation,omitempty"`
}

// KeyRevocation ends that a key's signatures count.
type KeyRevocation struct {
	At          time.Time `json:"at"`
	By          string    `json:"by"`
	Reason      string    `json:"reason"`
	Before      time.Time `json:"before,omitzero" doc:"Signatures that the ledger proves to be older count still; absent: none does"`
	LedgerIndex int64     `json:"ledgerIndex"`
}

// InForce reports whether the key is the one that signs.
func (k SigningKey) InForce() bool { return k.Until.IsZero() }

// ManagedKey begins the reference of a key that the service made and keeps in its data folder.
const ManagedKey = "managed:"

// SignedStatement is what a key signed about a digest, and the manifest that carries it.
type SignedStatement struct {
	Repository Repository
	Digest     Digest
	Predicate  string // "": the cosign signature
	Manifest   Digest
}
