package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"waybill/artifact"
)

// CheckedRows reads what rows say of blobs, and marks those whose bytes are damaged.
type CheckedRows interface {
	KnownBlobs
	// Blobs returns at most n blobs after a digest; the zero digest is before all.
	Blobs(ctx context.Context, after artifact.Digest, n int) ([]artifact.StoredBlob, error)
	CountBlobs(ctx context.Context) (count, bytes int64, err error)
	BlobRepositories(ctx context.Context, digest artifact.Digest) ([]artifact.Repository, error)
	// QuarantineBlob marks a blob as damaged until somebody has pushed it again.
	QuarantineBlob(ctx context.Context, digest artifact.Digest) error
}

// CheckerConfig names everything a checker needs.
type CheckerConfig struct {
	Files  Files
	Rows   CheckedRows
	Logger *slog.Logger
	Now    func() time.Time
}

// Checker compares the bytes of every blob with their digest, and files with rows, while pushes and pulls go on.
type Checker struct {
	cfg CheckerConfig
}

// NewChecker returns a checker.
func NewChecker(cfg CheckerConfig) *Checker { return &Checker{cfg: cfg} }

// Damage is what is wrong with a blob.
type Damage string

// The kinds of damage.
const (
	DamageMissing     Damage = "missing"     // there is a row and no file
	DamageUnknown     Damage = "unknown"     // there is a file and no row; a crash leaves such, and a collection removes it
	DamageBytes       Damage = "bytes"       // the file's bytes have another digest, or cannot be read
	DamageSize        Damage = "size"        // the file has another size than the row says
	DamageQuarantined Damage = "quarantined" // an earlier check found it damaged, and nobody has pushed it since
)

// Finding is one blob that is not as it should be.
type Finding struct {
	Damage       Damage                `json:"damage" enum:"missing,unknown,bytes,size,quarantined"`
	Digest       artifact.Digest       `json:"digest"`
	Size         int64                 `json:"size" doc:"Bytes, as the row says, or the file where there is no row"`
	Detail       string                `json:"detail"`
	Repositories []artifact.Repository `json:"repositories,omitempty" doc:"That have the blob, up to 100"`
	Quarantined  bool                  `json:"quarantined" doc:"It is in quarantine: nobody is served it, and its next push repairs it"`
}

// CheckProgress is how much a check has read, of how much there was when it began.
type CheckProgress struct {
	Blobs   int64 `json:"blobs"`
	Bytes   int64 `json:"bytes"`
	OfBlobs int64 `json:"ofBlobs"`
	OfBytes int64 `json:"ofBytes"`
}

// Checked is what a check came to. OK is true only when it found nothing.
type Checked struct {
	OK       bool  `json:"ok"`
	Blobs    int64 `json:"blobs"` // that were read
	Bytes    int64 `json:"bytes"`
	Findings int64 `json:"findings"`
}

// CheckReport is told what a check finds and how far it is, as it goes.
type CheckReport struct {
	Found    func(Finding)
	Progress func(CheckProgress)
}

// check is one run of a Checker.
type check struct {
	CheckerConfig
	ctx        context.Context //nolint:containedctx // of the one call that this value lives for
	quarantine bool
	report     CheckReport
	at         CheckProgress
	told       time.Time
	findings   int64
}

// Check reads every blob. When it is asked to, it puts what is damaged into quarantine. One check runs at a time, else
// Conflict.
func (c *Checker) Check(ctx context.Context, quarantine bool, report CheckReport) (Checked, error) {
	release, err := c.cfg.Rows.Only(ctx, "a check of the blobs")
	if err != nil {
		return Checked{}, err
	}
	defer release()
	run := &check{CheckerConfig: c.cfg, ctx: ctx, quarantine: quarantine, report: report}
	if run.at.OfBlobs, run.at.OfBytes, err = c.cfg.Rows.CountBlobs(ctx); err != nil {
		return Checked{}, err
	}
	var unknown []artifact.Digest
	err = walkOrphans(ctx, c.cfg.Files, c.cfg.Rows, func(d artifact.Digest) error { unknown = append(unknown, d); return nil })
	if err == nil {
		err = run.rows()
	}
	if err == nil && len(unknown) > 0 {
		err = run.unknown(unknown)
	}
	return Checked{OK: run.findings == 0, Blobs: run.at.Blobs, Bytes: run.at.Bytes, Findings: run.findings}, err
}

// rows checks every blob that has a row.
func (c *check) rows() error {
	var last artifact.Digest
	for {
		some, err := c.Rows.Blobs(c.ctx, last, 500)
		if err != nil || len(some) == 0 {
			return err
		}
		for _, b := range some {
			if err := c.row(b); err != nil {
				return err
			}
			c.at.Blobs++
			c.tell()
		}
		last = some[len(some)-1].Digest
	}
}

func (c *check) row(b artifact.StoredBlob) error {
	if b.Quarantined {
		return c.found(Finding{Damage: DamageQuarantined, Digest: b.Digest, Size: b.Size, Quarantined: true,
			Detail: "it was found damaged before, and nobody has pushed it since"})
	}
	damage, detail, looked, err := c.look(b.Digest, b.Size)
	if err != nil || damage == "" {
		return err
	}
	return c.confirm(Finding{Damage: damage, Digest: b.Digest, Size: b.Size, Detail: detail}, looked)
}

// look reads a blob's file; a size below zero is any. looked is the very file that was read, nil when there is none.
func (c *check) look(digest artifact.Digest, size int64) (damage Damage, detail string, looked os.FileInfo, err error) {
	file, got, err := c.Files.Open(digest)
	if artifact.KindOf(err) == artifact.NotFound {
		return DamageMissing, "its file is gone", nil, nil
	} else if err != nil {
		return "", "", nil, err
	}
	defer file.Close()
	if looked, err = file.Stat(); err != nil {
		return "", "", nil, err
	}
	if size >= 0 && got != size {
		return DamageSize, fmt.Sprintf("its file has %d bytes instead of %d", got, size), looked, nil
	}
	sum := artifact.NewHash(digest.Algorithm())
	_, err = io.Copy(sum, &counted{r: file, check: c})
	switch {
	case c.ctx.Err() != nil:
		return "", "", nil, c.ctx.Err()
	case err != nil:
		return DamageBytes, "its file cannot be read: " + err.Error(), looked, nil
	}
	if real := artifact.DigestFrom(digest.Algorithm(), sum); real != digest {
		return DamageBytes, fmt.Sprintf("its bytes are %s", real), looked, nil
	}
	return "", "", looked, nil
}

// confirm tells what was found, if it is so still when no push and no collection can be at it, and quarantines it: first
// the row is marked, then the file moved. Whatever is killed in between, nobody is served bytes that are not of the
// digest, and a push repairs it.
func (c *check) confirm(f Finding, looked os.FileInfo) error {
	still := false
	err := c.Rows.Alone(c.ctx, f.Digest, func(known func() (bool, error)) error {
		if is, err := known(); err != nil || !is || !c.same(f.Digest, looked) {
			return err
		}
		still = true
		if !c.quarantine {
			return nil
		}
		if err := c.Rows.QuarantineBlob(c.ctx, f.Digest); err != nil {
			return err
		}
		f.Quarantined = true
		return c.isolate(f.Digest, known)
	})
	if err != nil || !still {
		return err
	}
	return c.found(f)
}

// isolate moves a damaged file to the quarantine, for people to look at. See Collector.drop for why it is set aside.
func (c *check) isolate(digest artifact.Digest, known func() (bool, error)) error {
	if err := c.Files.SetAside(digest); err != nil {
		return err
	}
	if _, err := known(); err != nil {
		return errors.Join(err, c.Files.PutBack(digest))
	}
	return c.Files.Quarantine(digest)
}

// same reports whether a blob's file is the one that was looked at, and not one that was pushed since.
func (c *check) same(digest artifact.Digest, looked os.FileInfo) bool {
	file, _, err := c.Files.Open(digest)
	if err != nil {
		return looked == nil && artifact.KindOf(err) == artifact.NotFound
	}
	defer file.Close()
	now, err := file.Stat()
	return err == nil && looked != nil && os.SameFile(now, looked)
}

// unknown looks again at the files that had no row, while no collection is between a row and its file.
func (c *check) unknown(all []artifact.Digest) error {
	release, err := c.Rows.Only(c.ctx, collection)
	for artifact.KindOf(err) == artifact.Conflict {
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-time.After(100 * time.Millisecond):
			release, err = c.Rows.Only(c.ctx, collection)
		}
	}
	if err != nil {
		return err
	}
	defer release()
	for _, d := range all {
		if err := c.file(d); err != nil {
			return err
		}
	}
	return nil
}

// file looks at a file that had no row. One whose bytes are not of its name goes to the quarantine; any other waits for
// the next collection.
func (c *check) file(digest artifact.Digest) error {
	damage, detail, looked, err := c.look(digest, -1)
	if err != nil || looked == nil {
		return err // a collection took it
	}
	f := Finding{Damage: DamageUnknown, Digest: digest, Size: looked.Size(), Detail: "no row knows its file; `waybill gc` removes it when it is old enough"}
	if damage != "" {
		f.Damage, f.Detail = damage, "no row knows its file, and "+detail
	}
	still := false
	err = c.Rows.Alone(c.ctx, digest, func(known func() (bool, error)) error {
		if is, err := known(); err != nil || is || !c.same(digest, looked) {
			return err
		}
		still = true
		if !c.quarantine || damage == "" {
			return nil
		}
		f.Quarantined = true
		return c.isolate(digest, known)
	})
	if err != nil || !still {
		return err
	}
	return c.found(f)
}

func (c *check) found(f Finding) (err error) {
	if f.Repositories, err = c.Rows.BlobRepositories(c.ctx, f.Digest); err != nil {
		return err
	}
	c.findings++
	c.Logger.Warn("blob is not as it should be", "digest", f.Digest, "damage", f.Damage, "detail", f.Detail, "quarantined", f.Quarantined)
	c.report.Found(f)
	return nil
}

// tell tells the progress, once a second at most.
func (c *check) tell() {
	if now := c.Now(); now.Sub(c.told) >= time.Second {
		c.told = now
		c.report.Progress(c.at)
	}
}

// counted tells a check's progress as it reads, and ends with its context.
type counted struct {
	r     io.Reader
	check *check
}

func (r *counted) Read(p []byte) (int, error) {
	if err := r.check.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	r.check.at.Bytes += int64(n)
	r.check.tell()
	return n, err
}
