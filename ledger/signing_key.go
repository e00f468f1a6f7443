package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"time"

	"waybill/artifact"
)

// keyAudit compares the keys that signatures count by with the entries that put them in force and revoked them: a key that
// somebody added by hand would make forged signatures count.
type keyAudit struct {
	keys    []artifact.SigningKey
	problem func(format string, args ...any)
	next    int             // of keys: what the next rotation put in force
	ended   map[string]bool // by id: an entry revokes it
}

func newKeyAudit(keys []artifact.SigningKey, problem func(string, ...any)) *keyAudit {
	return &keyAudit{keys: keys, problem: problem, ended: map[string]bool{}}
}

func (a *keyAudit) rotated(index int64, e Entry) {
	if a.next >= len(a.keys) || a.keys[a.next].LedgerIndex != index {
		a.problem("entry %d: signing key %.12s was put in force, but is not there", index, e.Subject)
		return
	}
	k := a.keys[a.next]
	a.next++
	switch {
	case k.ID != e.Subject || k.AddedBy != e.Actor || !k.Since.Equal(e.At):
		a.problem("signing key %.12s is not what entry %d put in force, which is %.12s", k.ID, index, e.Subject)
	case idOf(k.PublicKey) != k.ID:
		a.problem("signing key %.12s: its public key is another's", k.ID)
	}
}

func (a *keyAudit) revoked(index int64, e Entry) {
	a.ended[e.Subject] = true
	for _, k := range a.keys {
		if k.ID != e.Subject {
			continue
		}
		before := ""
		if r := k.Revocation; r != nil && !r.Before.IsZero() {
			before = r.Before.Format(time.RFC3339Nano)
		}
		if k.Revocation == nil || k.Revocation.LedgerIndex != index || before != e.Version {
			a.problem("entry %d: signing key %.12s was revoked, and its record does not say so", index, e.Subject)
		}
		return
	}
	a.problem("entry %d: signing key %.12s was revoked, and is not there", index, e.Subject)
}

func (a *keyAudit) end() {
	for _, k := range a.keys[a.next:] {
		a.problem("signing key %.12s is there, and no entry records that it was put in force", k.ID)
	}
	for _, k := range a.keys {
		if k.Revocation != nil && !a.ended[k.ID] {
			a.problem("signing key %.12s is revoked, and no entry records that", k.ID)
		}
	}
}

// idOf returns the SHA-256 of a public key's DER.
func idOf(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}
