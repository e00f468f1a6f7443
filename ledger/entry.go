// Package ledger is the append-only record of every decision: entries in canonical JSON, the RFC 6962 Merkle tree
// over them, signed C2SP checkpoints of it, and the proofs that tie one to the other. Apart from
// the file of the signing key it does no IO.
package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"waybill/artifact"
)

// The kinds of entries that an audit compares with other records. Other kinds are push.accepted, push.denied,
// manifest.deleted, tag.deleted and database.imported.
const (
	KindCreated         = "ledger.created" // the first entry; its subject is the log's public key
	KindPromotion       = "promotion"
	KindRollback        = "rollback"
	KindRecall          = "recall"
	KindRetire          = "environment.retired" // one for each digest that could be pulled from it
	KindPolicyApplied   = "policy.applied"      // as of any document: its digest is of what that means, its evidence of its text
	KindPipelineApplied = "pipeline.applied"
	KindStorageApplied  = "repositories.applied"
	KindWaiverCreated   = "waiver.created" // its subject is the waiver's id, its version the rule, its evidence the waiver's hash
	KindWaiverRevoked   = "waiver.revoked"
	KindKeyRotated      = "key.rotated" // its subject is the new key's id, its evidence the one before
	KindKeyRevoked      = "key.revoked" // its version is the instant until which signatures of the key count, if that is given

	KindOverride = "override" // of gates, by the promotion that follows; its reasons are what was not met
	KindRelease  = "release"  // its subject is the release's name, its evidence the digests

	KindApproval        = "approval" // its subject is the approval's id, its evidence the approval's hash
	KindApprovalRevoked = "approval.revoked"
	KindTokenCreated    = "token.created" // its subject is the token's id, its evidence the hash of all that the token gives
	KindTokenRevoked    = "token.revoked"
	KindSigned          = "signed" // its subject is the key's id, of attestations with their types after it, its evidence what carries them
)

// More kinds, of which nothing else is kept that an audit could compare, or only for a while.
const (
	KindWaiverExpired = "waiver.expired"
	KindWaiverUsed    = "waiver.used"        // a push or a promotion was allowed by it
	KindTurnedBad     = "digest.turned-bad"  // what is promoted is denied by the policies of now; its subject is the response
	KindTurnedGood    = "digest.turned-good" // and is allowed again
)

// Entry is one decision. Its leaf in the tree is its canonical JSON.
type Entry struct {
	Kind         string                 `json:"kind"`
	Actor        string                 `json:"actor"`
	At           time.Time              `json:"at"` // UTC, to the microsecond
	Repository   artifact.Repository    `json:"repository,omitzero"`
	Digest       artifact.Digest        `json:"digest,omitzero"`
	Environment  artifact.Environment   `json:"environment,omitzero"`
	Environments []artifact.Environment `json:"environments,omitempty"` // of a recall: where the digest could be pulled until then, sorted
	Version      string                 `json:"version,omitempty"`      // the tag, or the document's version
	Previous     artifact.Digest        `json:"previous,omitzero"`      // what the environment ran before
	PolicyHash   artifact.Digest        `json:"policyHash,omitzero"`    // of the policies that allowed or denied
	Subject      string                 `json:"subject,omitempty"`      // what else it is about: a token's id, a document's name, a key's id
	Evidence     []artifact.Digest      `json:"evidence,omitempty"`     // what the decision rests on: pipeline, signature, advisory databases
	Reasons      []string               `json:"reasons,omitempty"`      // of a denial; of an override, what was not met
	Reason       string                 `json:"reason,omitempty"`       // what the actor gave
}

// Instant is t as the ledger and the database both keep it: UTC, cut to the microsecond.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Canonical returns the entry's only encoding: JSON with sorted keys and no insignificant space, text as it is.
func (e Entry) Canonical() ([]byte, error) {
	e.At = Instant(e.At)
	plain, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	// Through a map, whose keys encoding/json sorts.
	var sorted map[string]any
	if err := json.Unmarshal(plain, &sorted); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(sorted); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Leaf is Canonical of what fits a bundle of C2SP tlog-tiles: of too many or too long reasons the first are kept, and the
// last says how many are not. The verdict has them all.
func (e Entry) Leaf() ([]byte, error) {
	body, err := e.Canonical()
	all := e.Reasons
	for keep := len(all); err == nil && len(body) > MaxEntry && keep > 0; {
		keep /= 2
		e.Reasons = append(slices.Clone(all[:keep]), moreReasons(len(all)-keep))
		body, err = e.Canonical()
	}
	if err == nil && len(body) > MaxEntry {
		err = artifact.Errorf(artifact.TooLarge, "the decision is %d bytes long as an entry of the ledger, which takes %d", len(body), MaxEntry)
	}
	return body, err
}

// moreReasons stands for the last n reasons of an entry that would be too long with them.
func moreReasons(n int) string { return fmt.Sprintf("%d more reasons are in the verdict", n) }

// Parse is the inverse of Canonical. It refuses unknown keys, and an encoding that is not the canonical one.
func Parse(body []byte) (Entry, error) {
	var e Entry
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return e, fmt.Errorf("ledger entry: %w", err)
	}
	canonical, err := e.Canonical()
	if err == nil && !bytes.Equal(canonical, body) {
		err = fmt.Errorf("ledger entry is not in its canonical form")
	}
	return e, err
}
