package web

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// Ledger reads the append-only record.
type Ledger interface {
	// Entries returns the canonical JSON of up to limit entries from an index on.
	Entries(ctx context.Context, from int64, limit int) ([]LedgerEntry, error)
	// Checkpoint signs, or returns, a checkpoint of the whole log as it is now.
	Checkpoint(ctx context.Context) (LedgerCheckpoint, error)
	// Proof returns the inclusion proof of an entry in the tree of a size: RFC 6962, section 2.1.1.
	Proof(ctx context.Context, index, size int64) ([][]byte, error)
	// Consistency returns the proof that the tree of newer entries extends that of older: RFC 6962, section 2.1.2.
	Consistency(ctx context.Context, older, newer int64) ([][]byte, error)
	// Verifier is the ledger's public key, as golang.org/x/mod/sumdb/note spells it.
	Verifier() string
}

// LedgerEntry is one entry: the bytes that its leaf is made of.
type LedgerEntry struct {
	Index int64
	Body  []byte
}

// LedgerCheckpoint is a signed tree head: Note is a C2SP checkpoint.
type LedgerCheckpoint struct {
	Size int64
	Root string // base64 of the RFC 6962 tree hash
	Note string
}

// ledgerPage is a page of entries, newest first, with what proves them.
type ledgerPage struct {
	Checkpoint LedgerCheckpoint
	Verifier   string
	Entries    []entryView
	From, To   int64 // indexes that are shown
	Newer      string
	Older      string
}

// entryView is an entry for people; Body is what is hashed.
type entryView struct {
	Index       int64
	Body        string
	Kind        string    `json:"kind"`
	Actor       string    `json:"actor"`
	At          time.Time `json:"at"`
	Repository  string    `json:"repository"`
	Digest      string    `json:"digest"`
	Environment string    `json:"environment"`
	Version     string    `json:"version"`
	Subject     string    `json:"subject"`
	Reasons     []string  `json:"reasons"`
	Reason      string    `json:"reason"`
}

// ShortDigest is the digest as lists show it.
func (e entryView) ShortDigest() string {
	d, err := artifact.ParseDigest(e.Digest)
	if err != nil {
		return ""
	}
	return d.Short()
}

// About says of an entry which version, document, waiver, token or key it is about.
func (e entryView) About() string {
	switch {
	case e.Repository != "" || e.Subject == "":
		return e.Version
	case e.Version == "":
		return e.Subject
	case strings.HasPrefix(e.Kind, "waiver."):
		return e.Version + " (waiver " + e.Subject + ")"
	case strings.HasSuffix(e.Kind, ".applied"):
		return e.Subject + "@" + e.Version
	}
	return e.Subject + " " + e.Version
}

// Bad reports whether the entry is of something that was refused or withdrawn.
func (e entryView) Bad() bool { return grave(e.Kind) }

func grave(kind string) bool {
	return strings.HasSuffix(kind, ".denied") || kind == "recall" || kind == "override" || kind == "digest.turned-bad"
}

// ledgerRows is how many entries a page has; each is proved by itself.
const ledgerRows = 25

func (w *Web) ledger(c *gin.Context, p artifact.Principal) error {
	if !p.CanEverywhere(artifact.ActionAudit) {
		return p.Refusal(artifact.ActionAudit, artifact.Repository{})
	}
	ctx := c.Request.Context()
	checkpoint, err := w.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return err
	}
	before := checkpoint.Size
	if text := c.Query("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return artifact.Errorf(artifact.Invalid, "before %.40q: want the index of an entry", text)
		}
		before = min(before, checkpoint.Size)
	}
	from := max(before-ledgerRows, 0)
	entries, err := w.cfg.Ledger.Entries(ctx, from, int(before-from))
	if err != nil {
		return err
	}
	page := ledgerPage{Checkpoint: checkpoint, Verifier: w.cfg.Ledger.Verifier(), From: from, To: before - 1}
	for i := len(entries) - 1; i >= 0; i-- {
		e := entryView{}
		if err := json.Unmarshal(entries[i].Body, &e); err != nil {
			return err
		}
		e.Index, e.Body = entries[i].Index, string(entries[i].Body)
		page.Entries = append(page.Entries, e)
	}
	if from > 0 {
		page.Older = "?before=" + strconv.FormatInt(from, 10)
	}
	if before < checkpoint.Size {
		page.Newer = "?before=" + strconv.FormatInt(min(before+ledgerRows, checkpoint.Size), 10)
	}
	w.render(c, http.StatusOK, "ledger", "Ledger", page)
	return nil
}

// proofs is what a browser needs to verify entries by itself.
type proofs struct {
	Checkpoint  string     `json:"checkpoint"`            // the signed note
	Verifier    string     `json:"verifier"`              // the public key, which the browser compares with the one it saw first
	Inclusion   [][][]byte `json:"inclusion"`             // of each entry from "from" on
	Consistency [][]byte   `json:"consistency,omitempty"` // from the tree that the browser saw last
}

// ledgerProofs answers with the proofs of a page's entries in the tree of now, and that this extends the tree of a size
// that the browser verified before.
func (w *Web) ledgerProofs(c *gin.Context, p artifact.Principal) error {
	if !p.CanEverywhere(artifact.ActionAudit) {
		return p.Refusal(artifact.ActionAudit, artifact.Repository{})
	}
	ctx := c.Request.Context()
	numbers := map[string]int64{}
	for _, name := range []string{"from", "to", "seen"} {
		n, err := strconv.ParseInt(c.DefaultQuery(name, "0"), 10, 64)
		if err != nil || n < 0 {
			return artifact.Errorf(artifact.Invalid, "%s %.40q: want an index", name, c.Query(name))
		}
		numbers[name] = n
	}
	from, to, seen := numbers["from"], numbers["to"], numbers["seen"]
	checkpoint, err := w.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if to < from || to-from >= ledgerRows || to >= checkpoint.Size {
		return artifact.Errorf(artifact.Invalid, "entries %d to %d: want at most %d of the %d that there are", from, to, ledgerRows, checkpoint.Size)
	}
	answer := proofs{Checkpoint: checkpoint.Note, Verifier: w.cfg.Ledger.Verifier(), Inclusion: make([][][]byte, 0, to-from+1)}
	for i := from; i <= to; i++ {
		proof, err := w.cfg.Ledger.Proof(ctx, i, checkpoint.Size)
		if err != nil {
			return err
		}
		answer.Inclusion = append(answer.Inclusion, proof)
	}
	if seen > 0 && seen < checkpoint.Size {
		if answer.Consistency, err = w.cfg.Ledger.Consistency(ctx, seen, checkpoint.Size); err != nil {
			return err
		}
	}
	c.JSON(http.StatusOK, answer)
	return nil
}
