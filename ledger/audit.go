package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"waybill/artifact"
)

// Row is an entry as it is stored, with the columns beside it that lists are made from, and the hashes of the tree
// that were stored with it.
type Row struct {
	Index       int64
	Body        []byte
	Kind        string
	Actor       string
	Repository  artifact.Repository
	Digest      artifact.Digest
	Environment artifact.Environment
	At          time.Time
	Hashes      []StoredHash // those from tlog.StoredHashIndex(0, Index) on, up to the next entry's
}

// StoredHash is a hash at its tlog.StoredHashIndex.
type StoredHash struct {
	Index int64
	Hash  Hash
}

// Note is a checkpoint as it is stored: Size is its row's key.
type Note struct {
	Size int64
	Text string
}

// Source gives a view of a stored ledger as it is at one instant, however much is appended meanwhile.
type Source interface {
	Snapshot(ctx context.Context, read func(View) error) error
}

// View reads a ledger and the records that its entries are about. An auditor trusts nothing in it.
type View interface {
	// Checkpoints returns each signed note in ascending order of size.
	Checkpoints(ctx context.Context) ([]Note, error)
	// Records returns the rows that decisions wrote beside the ledger.
	Records(ctx context.Context) (Records, error)
	// Rows calls f with each entry in ascending order of index.
	Rows(ctx context.Context, f func(Row) error) error
	// Leaf returns the stored leaf hash of an entry whose row is missing; false when that is missing too.
	Leaf(ctx context.Context, index int64) (Hash, bool, error)
	// Beyond returns how many hashes are stored at an index and after it.
	Beyond(ctx context.Context, index int64) (int64, error)
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

// Audit recomputes the tree from the entries' bodies and compares it, hash by hash, with what is stored and with every
// signed checkpoint; then the promotions, pointers, grants, recalls and documents with the entries that made them. All
// checkpoints are held against one growing tree, so that each that agrees is consistent with those before it. Memory is
// that of the records, and not of the entries, of which it holds one at a time.
func Audit(ctx context.Context, source Source, publicKeys []string) (Report, error) {
	var report Report
	err := source.Snapshot(ctx, func(view View) error {
		a := &audit{view: view, publicKeys: publicKeys, tree: map[int64]Hash{}, report: Report{Problems: []string{}}}
		err := a.run(ctx)
		report = a.report
		return err
	})
	return report, err
}

type audit struct {
	view       View
	publicKeys []string
	report     Report
	records    *recordAudit
	next       int64          // index that the next row must have: the size of the tree
	tree       map[int64]Hash // the roots of the complete subtrees, by stored hash index
	broken     bool           // nothing can be said of the tree from here on
	notes      []Checkpoint   // still to be compared, in ascending order of size
	good       int64          // size of the last checkpoint that agreed
}

func (a *audit) problem(format string, args ...any) {
	if len(a.report.Problems) < maxProblems {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (a *audit) run(ctx context.Context) error {
	notes, err := a.view.Checkpoints(ctx)
	if err != nil {
		return fmt.Errorf("audit checkpoints: %w", err)
	}
	a.report.Checkpoints = len(notes)
	for _, n := range notes {
		a.open(n)
	}
	slices.SortStableFunc(a.notes, bySize)
	records, err := a.view.Records(ctx)
	if err != nil {
		return fmt.Errorf("audit records: %w", err)
	}
	a.records = newRecordAudit(records, a.problem)
	a.checkpoints()
	if err := a.view.Rows(ctx, func(r Row) error { return a.row(ctx, r) }); err != nil {
		return fmt.Errorf("audit entries: %w", err)
	}
	for _, c := range a.notes {
		a.problem("the checkpoint of %d entries is signed, but the ledger ends before entry %d: the last were removed", c.Size, a.next)
	}
	beyond, err := a.view.Beyond(ctx, tlog.StoredHashCount(a.next))
	if err != nil {
		return fmt.Errorf("audit hashes: %w", err)
	}
	if beyond > 0 {
		a.problem("%d stored hashes belong to no entry: entries from %d on were removed", beyond, a.next)
	}
	a.records.finish()
	if root, err := a.root(); err == nil {
		a.report.Root = root.String()
	}
	return nil
}

// open checks a checkpoint's signature and keeps it to be compared.
func (a *audit) open(n Note) {
	c, err := openAny(n.Text, a.publicKeys)
	switch {
	case err != nil:
		a.problem("the checkpoint of %d entries is not signed by a key of this ledger: %v", n.Size, err)
	case c.Size != n.Size:
		a.problem("the checkpoint that is stored as that of %d entries is one of %d", n.Size, c.Size)
	default:
		a.notes = append(a.notes, c)
	}
}

func bySize(x, y Checkpoint) int { return cmp.Compare(x.Size, y.Size) }

// openAny opens a checkpoint that one of the keys signed.
func openAny(text string, publicKeys []string) (c Checkpoint, err error) {
	err = errors.New("no public key")
	for _, key := range publicKeys {
		if c, err = OpenCheckpoint(text, key); err == nil {
			break
		}
	}
	return c, err
}

// checkpoints compares those whose size the tree has now.
func (a *audit) checkpoints() {
	for len(a.notes) > 0 && a.notes[0].Size <= a.next {
		c := a.notes[0]
		a.notes = a.notes[1:]
		root, err := a.root()
		switch {
		case err != nil:
			a.problem("the checkpoint of %d entries cannot be checked: the tree lacks entries", c.Size)
		case c.Size == a.next && root == c.Root:
			a.good = c.Size
		default:
			a.problem("the checkpoint of %d entries commits to root %s, and the entries give %s: among entries %d to %d one was changed, inserted, removed or moved",
				c.Size, c.Root, root, a.good, c.Size-1)
		}
	}
}

func (a *audit) root() (Hash, error) {
	if a.broken {
		return Hash{}, errors.New("the tree is broken")
	}
	return Root(a.next, a.read)
}

func (a *audit) read(indexes []int64) ([]Hash, error) {
	hashes := make([]Hash, len(indexes))
	for i, index := range indexes {
		h, ok := a.tree[index]
		if !ok {
			return nil, fmt.Errorf("no hash %d", index)
		}
		hashes[i] = h
	}
	return hashes, nil
}

func (a *audit) row(ctx context.Context, r Row) error {
	if r.Index < a.next {
		a.problem("entry %d stands after entry %d", r.Index, a.next-1)
		return nil
	}
	if err := a.gap(ctx, r.Index); err != nil {
		return err
	}
	a.report.Entries++
	e, err := Parse(r.Body)
	if err != nil {
		a.problem("entry %d: %v", r.Index, err)
	} else {
		a.columns(r, e)
		a.records.entry(r.Index, e)
	}
	stored := map[int64]Hash{}
	for _, h := range r.Hashes {
		stored[h.Index] = h.Hash
	}
	leaf := LeafHash(r.Body)
	if h, ok := stored[tlog.StoredHashIndex(0, r.Index)]; !ok {
		a.problem("entry %d has no stored hash: it was inserted by hand, or its hash was removed", r.Index)
	} else if h != leaf {
		a.problem("entry %d was changed after it was recorded: its leaf hash is %s, the stored one %s", r.Index, leaf, h)
		leaf = h // what the nodes above were made of, so that they accuse no other entry
	}
	a.grow(r.Index, leaf, stored)
	return nil
}

// gap names the rows that are missing before an index; their stored leaf hashes stand in for them.
func (a *audit) gap(ctx context.Context, index int64) error {
	if missing := index - a.next; missing > maxProblems {
		a.problem("entries %d to %d are missing", a.next, index-1)
		a.broken, a.next = true, index
		a.checkpoints()
	}
	for a.next < index {
		a.problem("entry %d is missing: it was removed", a.next)
		leaf, ok, err := a.view.Leaf(ctx, a.next)
		if err != nil {
			return err
		}
		a.broken = a.broken || !ok
		a.grow(a.next, leaf, nil)
	}
	return nil
}

func (a *audit) columns(r Row, e Entry) {
	for _, c := range []struct{ name, row, body string }{
		{"kind", r.Kind, e.Kind}, {"actor", r.Actor, e.Actor}, {"repository", r.Repository.String(), e.Repository.String()},
		{"digest", r.Digest.String(), e.Digest.String()}, {"environment", r.Environment.String(), e.Environment.String()},
		{"at", Instant(r.At).Format(time.RFC3339Nano), e.At.Format(time.RFC3339Nano)},
	} {
		if c.row != c.body {
			a.problem("entry %d: its column %s says %q, its body %q", r.Index, c.name, c.row, c.body)
		}
	}
}

// grow adds a leaf to the tree and compares the nodes that it completes with the stored ones; nil: there are none to
// compare with. Of a node that differs the stored value is used from there on, so that the lowest one is named and
// not each above it.
func (a *audit) grow(n int64, leaf Hash, stored map[int64]Hash) {
	defer a.checkpoints()
	a.next = n + 1
	if a.broken {
		return
	}
	for level, node, h := 0, n, leaf; ; level, node = level+1, node/2 {
		index := tlog.StoredHashIndex(level, node)
		if s, ok := stored[index]; level > 0 && stored != nil {
			if !ok {
				a.problem("stored hash %d (level %d, node %d) is missing", index, level, node)
			} else if s != h {
				a.problem("stored hash %d (level %d, node %d) is not that of entries %d to %d: one of them was changed, or it was", index, level, node, node<<level, (node+1)<<level-1)
				h = s
			}
		}
		a.tree[index] = h
		if node%2 == 0 {
			return
		}
		sibling := tlog.StoredHashIndex(level, node-1)
		h = tlog.NodeHash(a.tree[sibling], h)
		delete(a.tree, sibling)
		delete(a.tree, index)
	}
}
