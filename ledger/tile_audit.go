package ledger

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Fetch returns what a log serves at a path below its prefix: checkpoint, or a tile's. It bounds what it reads.
type Fetch func(ctx context.Context, path string) ([]byte, error)

// AuditTiles recomputes a log's tree from what it publishes and from nothing else: the entries of its bundles must give
// the hashes of its tiles, the root of its signed checkpoint, and that of each older checkpoint, which are trusted no
// more. Memory is that of one bundle and of 256 hashes a level. What cannot be fetched ends the audit, as a problem.
func AuditTiles(ctx context.Context, fetch Fetch, publicKeys []string, older ...string) (Report, error) {
	a := &tileAudit{fetch: fetch, audit: audit{publicKeys: publicKeys, report: Report{Problems: []string{}}}}
	head, err := fetch(ctx, "checkpoint")
	if err != nil {
		return a.report, fmt.Errorf("the log's checkpoint: %w", err)
	}
	size, err := a.head(string(head), older)
	if err != nil {
		a.problem("%v", err)
		return a.report, nil
	}
	a.checkpoints()
	for n := int64(0); n*TileWidth < size; n++ {
		if err := a.bundle(ctx, Tile{Level: -1, N: n, Width: int(min(TileWidth, size-n*TileWidth))}); err != nil {
			if ctx.Err() != nil {
				return a.report, ctx.Err()
			}
			a.problem("entries from %d on cannot be checked: %v", a.next, err)
			return a.report, nil
		}
	}
	for level, hashes := range a.levels {
		if len(hashes) > 0 {
			if err := a.compare(ctx, level, hashes); err != nil {
				a.problem("%v", err)
			}
		}
	}
	for _, c := range a.notes {
		a.problem("the log was of %d entries once, and is of %d now: the last were removed", c.Size, a.next)
	}
	a.report.Root = a.root().String()
	return a.report, nil
}

type tileAudit struct {
	audit

	fetch  Fetch
	levels [][]Hash // of each level, the hashes that no full tile has been made of yet
}

// head opens the checkpoints that the tree is held against; an older one that is not of this log is a problem.
func (a *tileAudit) head(head string, older []string) (size int64, err error) {
	newest, err := openAny(head, a.publicKeys)
	if err != nil {
		return 0, fmt.Errorf("the log's checkpoint is not signed by a key of this ledger: %w", err)
	}
	a.notes = append(a.notes, newest)
	for _, text := range older {
		c, err := openAny(text, a.publicKeys)
		if err != nil {
			a.problem("the older checkpoint is not signed by a key of this ledger: %v", err)
			continue
		}
		a.notes = append(a.notes, c)
	}
	a.report.Checkpoints = len(a.notes)
	slices.SortStableFunc(a.notes, bySize)
	return newest.Size, nil
}

// bundle takes the entries of one bundle into the tree.
func (a *tileAudit) bundle(ctx context.Context, t Tile) error {
	b, err := a.fetch(ctx, t.Path())
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path(), err)
	}
	bodies, err := ParseBundle(b, t.Width)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path(), err)
	}
	for _, body := range bodies {
		if _, err := Parse(body); err != nil {
			a.problem("entry %d: %v", a.next, err)
		}
		a.next++
		a.report.Entries++
		if err := a.push(ctx, 0, LeafHash(body)); err != nil {
			return err
		}
		a.checkpoints()
	}
	return nil
}

// push adds a hash to a level; 256 make a tile, whose root goes one up.
func (a *tileAudit) push(ctx context.Context, level int, h Hash) error {
	if level == len(a.levels) {
		a.levels = append(a.levels, nil)
	}
	a.levels[level] = append(a.levels[level], h)
	if len(a.levels[level]) < TileWidth {
		return nil
	}
	full := a.levels[level]
	if err := a.compare(ctx, level, full); err != nil {
		return err
	}
	above := fold(full)
	a.levels[level] = nil
	return a.push(ctx, level+1, above)
}

// compare holds hashes that were computed against the tile that the log serves of them.
func (a *tileAudit) compare(ctx context.Context, level int, hashes []Hash) error {
	first := a.next>>(tileHeight*level) - int64(len(hashes)) // of this level
	t := Tile{Level: level, N: first >> tileHeight, Width: len(hashes)}
	b, err := a.fetch(ctx, t.Path())
	if err != nil {
		return fmt.Errorf("%s: %w", t.Path(), err)
	}
	if len(b) != t.Width*tlog.HashSize {
		a.problem("%s has %d bytes, and not the %d of %d hashes", t.Path(), len(b), t.Width*tlog.HashSize, t.Width)
		return nil
	}
	for i, h := range hashes {
		if bytes.Equal(h[:], b[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			continue
		}
		from, to := (first+int64(i))<<(tileHeight*level), (first+int64(i)+1)<<(tileHeight*level)-1
		if level == 0 {
			a.problem("entry %d: its bundle gives leaf hash %s, and %s has another: one of the two was changed", from, h, t.Path())
		} else {
			a.problem("entries %d to %d give the hash %s, and %s has another", from, to, h, t.Path())
		}
	}
	return nil
}

// checkpoints compares those whose size the tree has now.
func (a *tileAudit) checkpoints() {
	for len(a.notes) > 0 && a.notes[0].Size <= a.next {
		c := a.notes[0]
		a.notes = a.notes[1:]
		if root := a.root(); root != c.Root {
			a.problem("the checkpoint of %d entries commits to root %s, and the entries give %s: among entries %d to %d one was changed, inserted, removed or moved",
				c.Size, c.Root, root, a.good, c.Size-1)
			continue
		}
		a.good = c.Size
	}
}

// root is that of all entries so far. A level's hashes are of complete subtrees, and what the levels below leave is the
// incomplete one after them.
func (a *tileAudit) root() Hash {
	var below []Hash
	for _, hashes := range a.levels {
		if all := slices.Concat(hashes, below); len(all) > 0 {
			below = []Hash{fold(all)}
		}
	}
	if len(below) == 0 {
		empty, _ := tlog.TreeHash(0, nil)
		return empty
	}
	return below[0]
}

// fold is the Merkle tree hash (RFC 6962 section 2.1) over nodes.
func fold(hashes []Hash) Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	k := 1
	for k*2 < len(hashes) {
		k *= 2
	}
	return tlog.NodeHash(fold(hashes[:k]), fold(hashes[k:]))
}
