package artifact

import (
	"strconv"
	"strings"
	"time"
)

// LedgerFilter asks for entries of the ledger, newest first. What is zero is not asked for, but for Limit. Before is the last
// line of the page before.
type LedgerFilter struct {
	Actor      string
	Repository Repository
	Digest     Digest
	Kind       string
	From, To   time.Time // from the first on, and before the second
	Before     LedgerLine
	Limit      int
}

// LedgerLine is an entry of the ledger as lists show it; the entry itself is what is proved.
type LedgerLine struct {
	Index       int64       `json:"index"`
	At          time.Time   `json:"at"`
	Kind        string      `json:"kind"`
	Actor       string      `json:"actor"`
	Repository  Repository  `json:"repository,omitzero"`
	Digest      Digest      `json:"digest,omitzero"`
	Environment Environment `json:"environment,omitzero"`
	Version     string      `json:"version,omitempty"`
	Subject     string      `json:"subject,omitempty"` // what else it is about: a token's id, a document's name
	Reason      string      `json:"reason,omitempty"`  // what the actor gave
	Reasons     []string    `json:"reasons,omitempty"` // of a denial
}

// LedgerKinds are the kinds of entries that there are, for who looks for some.
var LedgerKinds = []string{"approval", "approval.revoked", "database.imported", "digest.turned-bad", "digest.turned-good", "environment.retired", "key.revoked", "key.rotated", "ledger.created",
	"manifest.deleted", "override", "pipeline.applied", "policy.applied", "promotion", "push.accepted", "push.denied", "recall", "release", "repositories.applied", "rollback", "signed", "tag.deleted",
	"token.created", "token.revoked", "waiver.created", "waiver.expired", "waiver.revoked", "waiver.used"}

// Heads of the tables that LedgerLine.CSV and PullDay.CSV are lines of.
var (
	LedgerHead = CSVLine("index", "at", "kind", "by", "repository", "digest", "environment", "version", "subject", "reason", "reasons")
	PullHead   = CSVLine("day", "repository", "digest", "by", "pulls", "first", "last", "type")
)

// CSV is the entry as a line of a table; times are RFC 3339, UTC.
func (l LedgerLine) CSV() string {
	return CSVLine(strconv.FormatInt(l.Index, 10), csvTime(l.At), l.Kind, l.Actor, l.Repository.String(), l.Digest.String(), l.Environment.String(), l.Version, l.Subject, l.Reason, strings.Join(l.Reasons, "; "))
}

// CSV is the row as a line of a table.
func (d PullDay) CSV() string {
	return CSVLine(d.Day.Format(time.DateOnly), d.Repository.String(), d.Digest.String(), d.Principal, strconv.FormatInt(d.Pulls, 10), csvTime(d.First), csvTime(d.Last), string(d.Type))
}

func csvTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
