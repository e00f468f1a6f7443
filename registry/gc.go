package registry

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"waybill/artifact"
)

// Files is where bytes lie, for those who look after them; blob.Store is one (its contract is there).
type Files interface {
	Open(digest artifact.Digest) (*os.File, int64, error)
	Walk(ctx context.Context, visit func([]artifact.Digest) error) error
	Uploads(visit func(id string, size int64, changed time.Time) error) error
	Cancel(id string) error

	SetAside(digest artifact.Digest) error
	PutBack(digest artifact.Digest) error
	Drop(digest artifact.Digest) error
	Quarantine(digest artifact.Digest) error
	Aside() ([]artifact.Digest, error)
}

// KnownBlobs tells files that have a row from files that have none.
type KnownBlobs interface {
	// KnownBlobs returns which of the digests have a row.
	KnownBlobs(ctx context.Context, digests []artifact.Digest) ([]artifact.Digest, error)
	// Alone runs f while no push is between the bytes and the row of a digest. known asks whether there is a row; its
	// error may mean that f is no longer alone, and that it has to leave things as it found them.
	Alone(ctx context.Context, digest artifact.Digest, f func(known func() (bool, error)) error) error
	// Only lets one of all replicas do a thing at a time; while another does it, Conflict.
	Only(ctx context.Context, thing string) (release func(), err error)
}

// GarbageRows finds and deletes the rows that nothing needs and that are of a certain age, by the clock of whoever keeps
// them. It waits for no push.
type GarbageRows interface {
	KnownBlobs
	// GarbageLinks tells of the blobs that no manifest of their repository needs; UnlinkGarbage takes them from there.
	GarbageLinks(ctx context.Context, age time.Duration, each func(artifact.BlobLink)) error
	UnlinkGarbage(ctx context.Context, age time.Duration, each func(artifact.BlobLink)) error
	// GarbageBlobs tells of the blobs that no repository has, or would have after UnlinkGarbage; ForgetGarbage deletes
	// their rows, and tells of each when its row is gone for certain, until each fails.
	GarbageBlobs(ctx context.Context, age time.Duration, each func(artifact.StoredBlob)) error
	ForgetGarbage(ctx context.Context, age time.Duration, each func(artifact.StoredBlob) error) error
	// ExpiredUploads returns uploads that nobody has continued; ExpireUpload forgets one, unless somebody has since.
	ExpiredUploads(ctx context.Context, age time.Duration) ([]string, error)
	ExpireUpload(ctx context.Context, id string, age time.Duration) (bool, error)
	KnownUploads(ctx context.Context, ids []string) ([]string, error)
}

// CollectorConfig names everything a collector needs.
type CollectorConfig struct {
	Files  Files
	Rows   GarbageRows
	Grace  time.Duration // how long what nothing needs is kept
	Logger *slog.Logger
	Now    func() time.Time // the clock of the files' times
}

// Collector removes what nothing needs, while pushes and pulls go on. It goes from names to bytes, and each step leaves
// less than the one before needs:
//
//  1. uploads that nobody continues: the row, then the bytes;
//  2. blobs in repositories none of whose manifests needs them: the link;
//  3. blobs that no repository has: the row, and then, under the digest's lock, the bytes;
//  4. bytes without a row, which a crash left after a step of a push or of a collection.
//
// So a row never outlives its bytes, and whatever is killed at any point, the next collection ends it.
type Collector struct {
	cfg CollectorConfig
}

// NewCollector returns a collector.
func NewCollector(cfg CollectorConfig) *Collector { return &Collector{cfg: cfg} }

// Collected is what a collection removed, or would.
type Collected struct {
	DryRun  bool   `json:"dryRun"`
	Uploads Tally  `json:"uploads" doc:"Uploads that nobody continued"`
	Links   Tally  `json:"links" doc:"Blobs taken from repositories whose manifests do not need them; this alone frees nothing"`
	Blobs   Tally  `json:"blobs" doc:"Blobs that no repository has"`
	Files   Tally  `json:"files" doc:"Files without a row, which a crash left"`
	Freed   int64  `json:"freedBytes"`
	Items   []Item `json:"items" doc:"What it was, up to 1000"`
}

// Tally is how many there are, and how many bytes they have together.
type Tally struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
}

// Item is one thing that a collection removed, or would.
type Item struct {
	Kind       string              `json:"kind" enum:"upload,link,blob,file"`
	Name       string              `json:"name"` // digest, or id of an upload
	Repository artifact.Repository `json:"repository,omitzero"`
	Bytes      int64               `json:"bytes"`
}

// collection is what only one does at a time.
const collection = "garbage collection"

// maxItems bounds a list for people.
const maxItems = 1000

func (c *Collected) add(to *Tally, item Item) {
	to.Count++
	to.Bytes += item.Bytes
	if to != &c.Links {
		c.Freed += item.Bytes
	}
	if len(c.Items) < maxItems {
		c.Items = append(c.Items, item)
	}
}

// Collect removes garbage that is older than the grace period; a dry run only says what it would remove. One collection
// runs at a time, else Conflict. An error does not undo what was removed until then.
func (c *Collector) Collect(ctx context.Context, dryRun bool) (Collected, error) {
	done := Collected{DryRun: dryRun, Items: []Item{}}
	if dryRun {
		return done, errors.Join(c.uploads(ctx, &done), c.tell(ctx, &done), c.orphans(ctx, &done))
	}
	release, err := c.cfg.Rows.Only(ctx, collection)
	if err != nil {
		return done, err
	}
	defer release()
	err = errors.Join(c.uploads(ctx, &done), c.links(ctx, &done), c.blobs(ctx, &done), c.leftovers(ctx), c.orphans(ctx, &done))
	if done.Freed > 0 || done.Links.Count > 0 {
		c.cfg.Logger.Info("garbage collected", "freed", done.Freed, "blobs", done.Blobs.Count, "links", done.Links.Count, "uploads", done.Uploads.Count, "files", done.Files.Count)
	}
	return done, err
}

// uploads drops those that nobody has continued, and bytes of uploads that have no row: of a blob that came in one
// request, which was cut off. Bytes that still come keep both.
func (c *Collector) uploads(ctx context.Context, done *Collected) error {
	stale, active := map[string]int64{}, map[string]bool{}
	before := c.cfg.Now().Add(-c.cfg.Grace)
	err := c.cfg.Files.Uploads(func(id string, size int64, changed time.Time) error {
		if changed.Before(before) {
			stale[id] = size
		} else {
			active[id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	expired, err := c.cfg.Rows.ExpiredUploads(ctx, c.cfg.Grace)
	if err != nil {
		return err
	}
	for _, id := range expired {
		if active[id] {
			continue
		}
		gone := done.DryRun
		if !gone {
			if gone, err = c.cfg.Rows.ExpireUpload(ctx, id, c.cfg.Grace); err != nil {
				return err
			}
		}
		if gone {
			if err := c.cancel(done, id, stale[id]); err != nil {
				return err
			}
		}
		delete(stale, id)
	}
	return c.cutOff(ctx, done, stale)
}

// cutOff drops those of the uploads that have no row.
func (c *Collector) cutOff(ctx context.Context, done *Collected, stale map[string]int64) error {
	ids := slices.Sorted(maps.Keys(stale))
	known, err := c.cfg.Rows.KnownUploads(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if slices.Contains(known, id) {
			continue
		}
		if err := c.cancel(done, id, stale[id]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Collector) cancel(done *Collected, id string, size int64) error {
	done.add(&done.Uploads, Item{Kind: "upload", Name: id, Bytes: size})
	if done.DryRun {
		return nil
	}
	return c.cfg.Files.Cancel(id)
}

// tell is links and blobs of a dry run.
func (c *Collector) tell(ctx context.Context, done *Collected) error {
	return errors.Join(
		c.cfg.Rows.GarbageLinks(ctx, c.cfg.Grace, done.link),
		c.cfg.Rows.GarbageBlobs(ctx, c.cfg.Grace, func(b artifact.StoredBlob) {
			done.add(&done.Blobs, Item{Kind: "blob", Name: b.Digest.String(), Bytes: b.Size})
		}))
}

func (c *Collected) link(l artifact.BlobLink) {
	c.add(&c.Links, Item{Kind: "link", Name: l.Digest.String(), Repository: l.Repository, Bytes: l.Size})
}

func (c *Collector) links(ctx context.Context, done *Collected) error {
	return c.cfg.Rows.UnlinkGarbage(ctx, c.cfg.Grace, done.link)
}

// blobs deletes rows and then drops the bytes. Bytes that are left by a crash, or that a push has come to use, are
// orphans or have a new row.
func (c *Collector) blobs(ctx context.Context, done *Collected) error {
	return c.cfg.Rows.ForgetGarbage(ctx, c.cfg.Grace, func(b artifact.StoredBlob) error {
		dropped, err := c.drop(ctx, b.Digest)
		if dropped {
			done.add(&done.Blobs, Item{Kind: "blob", Name: b.Digest.String(), Bytes: b.Size})
		}
		return err
	})
}

// drop removes bytes that have no row. The digest's lock keeps pushes of it away; but the lock goes with the database
// connection, and a process that was stopped in the middle does not notice. So the bytes are set aside first, and are
// dropped only when the lock is known to have held until then: what is set aside, no push can have come to count on.
func (c *Collector) drop(ctx context.Context, digest artifact.Digest) (dropped bool, err error) {
	err = c.cfg.Rows.Alone(ctx, digest, func(known func() (bool, error)) error {
		if is, err := known(); err != nil || is {
			return err
		}
		if err := c.cfg.Files.SetAside(digest); err != nil {
			return err
		}
		if is, err := known(); err != nil || is {
			return errors.Join(err, c.cfg.Files.PutBack(digest))
		}
		dropped = true
		return c.cfg.Files.Drop(digest)
	})
	return dropped, err
}

// leftovers ends what a collection or a check that was killed had set aside.
func (c *Collector) leftovers(ctx context.Context) error {
	aside, err := c.cfg.Files.Aside()
	for _, digest := range aside {
		err = errors.Join(err, c.cfg.Rows.Alone(ctx, digest, func(known func() (bool, error)) error {
			is, err := known()
			if err != nil {
				return err
			}
			if is {
				return c.cfg.Files.PutBack(digest)
			}
			return c.cfg.Files.Drop(digest)
		}))
	}
	return err
}

// orphans drops files without a row. The lock alone would make that safe at any age; the grace period is for people,
// who may be putting back a database from a copy.
func (c *Collector) orphans(ctx context.Context, done *Collected) error {
	before := c.cfg.Now().Add(-c.cfg.Grace)
	return walkOrphans(ctx, c.cfg.Files, c.cfg.Rows, func(digest artifact.Digest) error {
		file, size, err := c.cfg.Files.Open(digest)
		if err != nil {
			return nil // it went meanwhile
		}
		info, err := file.Stat()
		file.Close()
		if err != nil || !info.ModTime().Before(before) {
			return err
		}
		dropped := done.DryRun
		if !dropped {
			dropped, err = c.drop(ctx, digest)
		}
		if dropped {
			done.add(&done.Files, Item{Kind: "file", Name: digest.String(), Bytes: size})
		}
		return err
	})
}

// walkOrphans visits the blobs that had no row when they were looked for; a push may just be about to write it.
func walkOrphans(ctx context.Context, files Files, rows KnownBlobs, visit func(artifact.Digest) error) error {
	return files.Walk(ctx, func(some []artifact.Digest) error {
		known, err := rows.KnownBlobs(ctx, some)
		if err != nil {
			return err
		}
		has := make(map[artifact.Digest]bool, len(known))
		for _, d := range known {
			has[d] = true
		}
		for _, d := range some {
			if !has[d] {
				if err := visit(d); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
