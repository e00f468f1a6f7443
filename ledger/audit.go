package ledger

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Row is an entry as it is stored, with the columns beside it that lists are made from.
type Row struct {
	Index  int64
	Body   []byte
	Kind   string
	Actor  string
	Digest string
}

// Source reads a stored ledger in order. An auditor trusts nothing in it.
type Source interface {
	// Rows calls f with each entry in ascending order of index.
	Rows(ctx context.Context, f func(Row) error) error
	// Hashes calls f with each stored hash in ascending order of index.
	Hashes(ctx context.Context, f func(index int64, hash Hash) error) error
	// Checkpoints returns each signed note in ascending order of size.
	Checkpoints(ctx context.Context) ([]string, error)
}

// Report is what an audit found. Problems name rows; none means that the ledger holds.
type Report struct {
	Entries     int64    `json:"entries"`
	Checkpoints int      `json:"checkpoints"`
	Root        string   `json:"root"` // base64, of the tree recomputed from the entries
	Problems    []string `json:"problems"`
}

// maxProblems keeps the report of a ruined ledger readable.
const maxProblems = 100

// Audit recomputes the tree from the entries' bodies alone, and compares it with the stored hashes and with every
// signed checkpoint. It uses 32 bytes of memory per stored hash.
func Audit(ctx context.Context, source Source, publicKeys []string) (Report, error) {
	a := &audit{report: Report{Problems: []string{}}}
	if err := source.Rows(ctx, a.row); err != nil {
		return a.report, fmt.Errorf("audit entries: %w", err)
	}
	if err := source.Hashes(ctx, a.hash); err != nil {
		return a.report, fmt.Errorf("audit hashes: %w", err)
	}
	if a.seen < int64(len(a.hashes)) {
		a.problem("stored hash %d and those after it are missing", a.seen)
	}
	notes, err := source.Checkpoints(ctx)
	if err != nil {
		return a.report, fmt.Errorf("audit checkpoints: %w", err)
	}
	for _, signed := range notes {
		a.checkpoint(signed, publicKeys)
	}
	a.report.Checkpoints = len(notes)
	root, err := Root(a.report.Entries, a.read)
	a.report.Root = root.String()
	return a.report, err
}

type audit struct {
	report Report
	hashes []Hash // of the recomputed tree
	next   int64  // index that the next row must have
	seen   int64  // index that the next stored hash must have
}

func (a *audit) problem(format string, args ...any) {
	if len(a.report.Problems) < maxProblems {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (a *audit) read(indexes []int64) ([]Hash, error) {
	hashes := make([]Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(a.hashes)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		hashes[i] = a.hashes[index]
	}
	return hashes, nil
}

func (a *audit) row(r Row) error {
	if r.Index != a.next {
		a.problem("entry %d is missing: entry %d follows entry %d", a.next, r.Index, a.next-1)
	}
	a.next = r.Index + 1
	if e, err := Parse(r.Body); err != nil {
		a.problem("entry %d: %v", r.Index, err)
	} else if e.Kind != r.Kind || e.Actor != r.Actor || e.Digest.String() != r.Digest {
		a.problem("entry %d: its columns say kind %s, actor %s, digest %s; its body says %s, %s, %s", r.Index, r.Kind, r.Actor, r.Digest, e.Kind, e.Actor, e.Digest)
	}
	_, hashes, err := Append(a.report.Entries, r.Body, a.read)
	a.hashes = append(a.hashes, hashes...)
	a.report.Entries++
	return err
}

func (a *audit) hash(index int64, stored Hash) error {
	switch {
	case index != a.seen:
		a.problem("stored hash %d is missing", a.seen)
	case index >= int64(len(a.hashes)):
		a.problem("stored hash %d belongs to no entry", index)
	case stored != a.hashes[index]:
		if level, n := tlog.SplitStoredHashIndex(index); level == 0 {
			a.problem("entry %d was changed after it was recorded: its leaf hash is not the stored one", n)
		} else {
			a.problem("stored hash %d (level %d, node %d) is not that of the entries below it", index, level, n)
		}
	}
	a.seen = index + 1
	return nil
}

func (a *audit) checkpoint(signed string, publicKeys []string) {
	var c Checkpoint
	err := fmt.Errorf("no public key")
	for _, key := range publicKeys {
		if c, err = OpenCheckpoint(signed, key); err == nil {
			break
		}
	}
	if err != nil {
		a.problem("a checkpoint is not signed by a key of this ledger: %v", err)
		return
	}
	if c.Size > a.report.Entries {
		a.problem("the checkpoint of %d entries is signed, but only %d are here: the last were removed", c.Size, a.report.Entries)
		return
	}
	root, err := Root(c.Size, a.read)
	if err != nil || root != c.Root {
		a.problem("the checkpoint of %d entries commits to root %s; the entries give %s: one of them was changed, inserted, removed or moved", c.Size, c.Root, root)
	}
}
