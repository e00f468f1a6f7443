package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/postgres"
	"waybill/registry"
)

var errKilled = errors.New("killed")

// killer ends a process, as it were, at its nth step: before the step is done or right after. Nothing is done from then on.
type killer struct {
	at    int
	after bool
	steps int
	dead  bool
}

func (k *killer) step(do func() error) error {
	if k.dead {
		return errKilled
	}
	k.steps++
	if k.steps != k.at {
		return do()
	}
	if k.after {
		_ = do()
	}
	k.dead = true
	return errKilled
}

// mortalFiles and mortalRows are the real ones, with steps that a killer may end.
type mortalFiles struct {
	*blob.File
	*killer
}

func (f mortalFiles) SetAside(d artifact.Digest) error {
	return f.step(func() error { return f.File.SetAside(d) })
}

func (f mortalFiles) PutBack(d artifact.Digest) error {
	return f.step(func() error { return f.File.PutBack(d) })
}

func (f mortalFiles) Drop(d artifact.Digest) error {
	return f.step(func() error { return f.File.Drop(d) })
}

func (f mortalFiles) Quarantine(d artifact.Digest) error {
	return f.step(func() error { return f.File.Quarantine(d) })
}

func (f mortalFiles) Cancel(id string) error {
	return f.step(func() error { return f.File.Cancel(id) })
}

func (f mortalFiles) Append(ctx context.Context, id string, at blob.Progress, r io.Reader) (next blob.Progress, err error) {
	err = f.step(func() error { next, err = f.File.Append(ctx, id, at, r); return err })
	return next, err
}

func (f mortalFiles) Commit(ctx context.Context, id string, at blob.Progress, d artifact.Digest) (func() error, error) {
	var publish func() error
	err := f.step(func() (err error) { publish, err = f.File.Commit(ctx, id, at, d); return err })
	return func() error { return f.step(publish) }, err
}

func (f mortalFiles) Open(d artifact.Digest) (*os.File, int64, error) {
	if f.dead {
		return nil, 0, errKilled
	}
	return f.File.Open(d)
}

type mortalRows struct {
	*postgres.DB
	*killer
}

func (r mortalRows) SaveBlob(ctx context.Context, repository artifact.Repository, d artifact.Digest, size int64, upload string, publish func() error) error {
	return r.step(func() error { return r.DB.SaveBlob(ctx, repository, d, size, upload, publish) })
}

func (r mortalRows) Alone(ctx context.Context, d artifact.Digest, f func(known func() (bool, error)) error) error {
	return r.DB.Alone(ctx, d, func(known func() (bool, error)) error {
		return f(func() (is bool, err error) {
			err = r.step(func() error { is, err = known(); return err })
			return is, err
		})
	})
}

func (r mortalRows) UnlinkGarbage(ctx context.Context, age time.Duration, each func(artifact.BlobLink)) error {
	return r.step(func() error { return r.DB.UnlinkGarbage(ctx, age, each) })
}

func (r mortalRows) ForgetGarbage(ctx context.Context, age time.Duration, each func(artifact.StoredBlob) error) error {
	return r.step(func() error {
		return r.DB.ForgetGarbage(ctx, age, func(b artifact.StoredBlob) error {
			return r.step(func() error { return each(b) })
		})
	})
}

func (r mortalRows) ExpireUpload(ctx context.Context, id string, age time.Duration) (expired bool, err error) {
	err = r.step(func() error { expired, err = r.DB.ExpireUpload(ctx, id, age); return err })
	return expired, err
}

func (r mortalRows) QuarantineBlob(ctx context.Context, d artifact.Digest) error {
	return r.step(func() error { return r.DB.QuarantineBlob(ctx, d) })
}

// atEveryStep runs f with a process that is killed at its first step, its second and so on, until f ends in peace.
func atEveryStep(t *testing.T, least int, f func(t *testing.T, k *killer, name string) error) {
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			k := &killer{at: at, after: after}
			err := f(t, k, fmt.Sprintf("killed at step %d, after it: %v", at, after))
			if !k.dead {
				require.NoError(t, err)
				require.Greater(t, at, least)
				break
			}
			require.ErrorIs(t, err, errKilled)
		}
	}
}

// TestCollectionKilled: whatever a collection was at, no row is without its bytes, and the next one ends the work.
func TestCollectionKilled(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	atEveryStep(t, 12, func(t *testing.T, k *killer, name string) error {
		kept := s.push(shop, name, "kept "+name, "shared "+name)
		s.delete(shop, s.push(shop, "gone "+name, "gone "+name, "shared "+name))
		s.orphan("orphan " + name)
		s.orphan("aside " + name)
		require.NoError(t, s.files.SetAside(digestOf("aside "+name)))
		s.put(shop, "aside too "+name)
		s.upload("given up " + name)
		s.age()

		collector := registry.NewCollector(registry.CollectorConfig{Files: mortalFiles{s.files, k}, Rows: mortalRows{s.db, k}, Grace: time.Hour,
			Logger: slog.New(slog.DiscardHandler), Now: time.Now})
		_, err := collector.Collect(s.ctx, false)
		s.sound()
		s.put(other, "aside "+name)
		s.put(other, "gone "+name)

		_, again := s.collector(time.Hour).Collect(s.ctx, false)
		require.NoError(t, again)
		s.requireContents("{}", "kept "+name, "shared "+name, "aside "+name, "gone "+name)
		uploads, readErr := os.ReadDir(s.uploadFile(""))
		require.NoError(t, readErr)
		require.Empty(t, uploads)
		aside, asideErr := s.files.Aside()
		require.NoError(t, asideErr)
		require.Empty(t, aside)

		s.delete(shop, kept) // clean for the next step
		s.age()
		_, again = s.collector(time.Hour).Collect(s.ctx, false)
		require.NoError(t, again)
		s.requireContents()
		return err
	})
}

// TestPushKilled: whatever a push was at, a blob is there with row and bytes, or not at all; a second push succeeds, and
// a collection leaves nothing else.
func TestPushKilled(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	atEveryStep(t, 4, func(t *testing.T, k *killer, name string) error {
		cfg := s.Registry
		mortal := s.config()
		mortal.Bytes, mortal.Blobs = mortalFiles{s.files, k}, mortalRows{s.db, k}
		s.Registry = registry.New(mortal)
		_, err := s.PutBlob(s.ctx, pusher, shop, bytes.NewReader([]byte(name)), digestOf(name))
		s.Registry = cfg
		s.sound()
		_, statErr := s.StatBlob(s.ctx, reader, shop, digestOf(name))
		if err == nil {
			require.NoError(t, statErr)
		}
		s.age()
		if statErr != nil {
			_, again := s.collector(time.Hour).Collect(s.ctx, false)
			require.NoError(t, again)
			s.requireContents()
		}
		s.put(shop, name)
		s.requireContents(name)
		s.age()
		_, again := s.collector(time.Hour).Collect(s.ctx, false)
		require.NoError(t, again)
		s.requireContents()
		return err
	})
}
