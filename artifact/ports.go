package artifact

import "time"

// Subject is what a verdict is about: a manifest on its way in, or one that is here.
type Subject struct {
	Repository Repository
	Digest     Digest
	Manifest   Manifest
	Config     []byte // the config blob; nil of an index, or of an artifact whose config is too large to be an image's
	IsImage    bool   // as its bytes say, not only its types
	Reference  string // what the pusher called it: a tag or a digest, for the reasons
	Tags       []Tag  // that a push is about to set; none of what is stored already
}

// StoredManifest is a manifest as it lies in a repository.
type StoredManifest struct {
	Repository Repository
	Digest     Digest
	Manifest   Manifest
	Body       []byte
	IsImage    bool
	Platform   string // os/arch of an image, from its config
	PushedBy   string
	PushedAt   time.Time
}

// Event is something that happened to a digest, told to whoever acts on it in the transaction that made it true.
type Event struct {
	Kind       EventKind
	Repository Repository
	Digest     Digest
	ScanFailed bool // and is to be tried again
}

// EventKind names an Event.
type EventKind string

// Accepted: an image was allowed and stored; it is to be signed.
const Accepted EventKind = "image accepted"

// Push is a judged manifest on its way into a repository, with all that one transaction records of it.
type Push struct {
	StoredManifest
	Tags      []Tag
	Reference string   // what the pusher called it
	Drops     []Digest // layers that a cosign tag need not keep
	Attached  bool     // by the service, to what it refers to: nothing is stored when that is gone
	Config    []byte   // of an image: kept of one that is denied, whose config blob nothing holds
	Judgement
}

// Judgement is a verdict with what it was come to by, of a manifest on its way in.
type Judgement struct {
	Verdict VerdictRecord
	Scan    *Scan // of an image; nil when nothing was scanned, or nothing anew
}

// Upload is an upload session.
type Upload struct {
	ID         string
	Repository Repository
	Offset     int64  // bytes received
	State      []byte // of SHA-256 after them
	CreatedBy  string
}

// Progress is how far an upload's bytes are. The zero Progress is the beginning.
type Progress struct {
	Offset int64  // bytes that are written
	State  []byte // of SHA-256 after them, by encoding.BinaryMarshaler; nil at the beginning
}

// StoredBlob is a blob as its row says.
type StoredBlob struct {
	Digest      Digest
	Size        int64 // bytes
	Quarantined bool  // its bytes were found damaged or gone
}

// BlobLink says that a repository has a blob.
type BlobLink struct {
	Repository Repository
	Digest     Digest
	Size       int64 // bytes
}

// TagChange is one change of a tag.
type TagChange struct {
	Digest Digest    `json:"digest,omitzero"` // where it stood from then on; zero: it was deleted
	Actor  string    `json:"actor"`
	At     time.Time `json:"at"`
}

// TagAt is a tag and where it stands.
type TagAt struct {
	Name   Tag
	Digest Digest
}

// PushRecord is an image or index that somebody pushed, or tried to.
type PushRecord struct {
	Repository Repository
	Digest     Digest
	Reference  string // what the pusher called it: a tag or a digest
	Outcome    Outcome
	Reasons    []Reason
	Actor      string
	At         time.Time
}

// SignatureRecord is one thing that the service signed about a digest. Predicate is empty for the cosign signature,
// else the attestation's predicate type.
type SignatureRecord struct {
	Predicate  string
	KeyID      string
	PolicyHash Digest
	SignedAt   time.Time
	Manifest   Digest // of the artifact that carries it
	Name       string // of a verification summary the environment
}
