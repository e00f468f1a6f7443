package registry_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
	"waybill/registry"
)

func TestCollectsBlobsThatNothingNeeds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	kept := s.push(shop, "kept", "shared", "only kept")
	gone := s.push(shop, "gone", "shared", "only gone")
	elsewhere := s.push(other, "elsewhere", "shared", "only gone")
	s.put(shop, "never in a manifest")
	everything := []string{"{}", "shared", "only kept", "only gone", "never in a manifest"}

	require.Zero(t, s.collect().Links.Count, "all of it is young")
	s.age()
	s.delete(shop, gone)
	done := s.collect()
	require.Equal(t, registry.Tally{Count: 1, Bytes: 19}, done.Links)
	require.Equal(t, registry.Tally{Count: 1, Bytes: 19}, done.Blobs)
	require.EqualValues(t, 19, done.Freed)
	require.True(t, s.holds(shop, "only gone"), "what the deleted manifest needed has its own grace period")
	s.requireContents(everything[:4]...)

	s.age()
	done = s.collect()
	require.EqualValues(t, 1, done.Links.Count)
	require.Zero(t, done.Blobs.Count, "another repository has it")
	require.False(t, s.holds(shop, "only gone"))
	s.requireContents(everything[:4]...)

	s.delete(other, elsewhere)
	s.age()
	done = s.collect()
	require.EqualValues(t, 3, done.Links.Count)
	require.Equal(t, registry.Tally{Count: 1, Bytes: 9}, done.Blobs)
	s.requireContents("{}", "shared", "only kept")
	_, err := s.GetManifest(s.ctx, reader, artifact.Reference{Repository: shop, Digest: kept})
	require.NoError(t, err)

	s.delete(shop, kept)
	s.age()
	s.collect()
	s.requireContents()
}

// TestGraceBeginsAnew: whatever tells a pusher that a blob is here keeps it here.
func TestGraceBeginsAnew(t *testing.T) {
	t.Parallel()
	for what, again := range map[string]func(s *store) error{
		"pushed again": func(s *store) error { s.put(shop, "layer"); return nil },
		"mounted": func(s *store) error {
			mounted, err := s.Mount(s.ctx, pusher, shop, other, digestOf("layer"))
			require.True(t, mounted)
			return err
		},
		"asked for": func(s *store) error {
			_, err := s.StatBlob(s.ctx, pusher, shop, digestOf("layer"))
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.put(shop, "layer")
			s.put(other, "layer")
			s.age()
			require.NoError(t, again(s))
			require.EqualValues(t, 1, s.collect().Links.Count)
			require.True(t, s.holds(shop, "layer"))
			s.requireContents("layer")
			_, err := s.StatBlob(s.ctx, reader, shop, digestOf("layer"))
			require.NoError(t, err)

			s.age()
			_, err = s.StatBlob(s.ctx, reader, shop, digestOf("layer"))
			require.NoError(t, err)
			s.collect()
			s.requireContents()
			_, err = s.StatBlob(s.ctx, pusher, shop, digestOf("layer"))
			require.Equal(t, artifact.NotFound, artifact.KindOf(err), "who only reads keeps nothing")
			mounted, err := s.Mount(s.ctx, pusher, shop, other, digestOf("layer"))
			require.NoError(t, err)
			require.False(t, mounted)
		})
	}
}

func TestCollectsUploads(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	empty, given := s.upload(""), s.upload("given up")
	// One that came in a single request, which was cut off, has no row.
	_, err := s.files.Append(s.ctx, "cut-off", registry.Progress{}, bytes.NewReader([]byte("half")))
	require.Error(t, err, "an id is hexadecimal")
	_, err = s.files.Append(s.ctx, "0ff", registry.Progress{}, bytes.NewReader([]byte("half")))
	require.NoError(t, err)
	s.age()
	running := s.upload("one chunk that takes")
	s.ageRows() // its row is as old as its last chunk's end; its bytes still come
	young := s.upload("young")
	long := s.upload("its bytes are long here, and it was asked to go on")
	require.NoError(t, os.Chtimes(s.uploadFile(long.ID), time.Now().Add(-2*time.Hour), time.Now().Add(-2*time.Hour)))

	done := s.collect()
	require.Equal(t, registry.Tally{Count: 3, Bytes: 12}, done.Uploads)
	require.EqualValues(t, 12, done.Freed)
	for _, u := range []artifact.Upload{empty, given} {
		_, err := s.Upload(s.ctx, pusher, shop, u.ID)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
		_, err = s.Append(s.ctx, pusher, shop, u.ID, nil, bytes.NewReader([]byte("more")))
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
	for _, u := range []artifact.Upload{running, young, long} {
		_, err := s.FinishUpload(s.ctx, pusher, shop, u.ID, nil, bytes.NewReader([]byte("!")), digestOf("nonsense"))
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), "its bytes are here, and are not nonsense")
	}
	left, err := os.ReadDir(s.uploadFile(""))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestUploadInUse: an upload that is collected under the feet of its client, whatever the client does next, ends with
// an error and never with a blob of other bytes.
func TestUploadInUse(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	u := s.upload("zeros must not come of this")
	require.NoError(t, os.Remove(s.uploadFile(u.ID)))
	for range 2 {
		_, err := s.FinishUpload(s.ctx, pusher, shop, u.ID, nil, bytes.NewReader(nil), digestOf("zeros must not come of this"))
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}
	s.requireContents()
}

func TestCollectsFilesWithoutARow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.push(shop, "image", "layer")
	old := s.orphan("left by a crash")
	s.age()
	s.orphan("a restore is under way")
	require.NoError(t, os.WriteFile(s.root+"/sha256/README", []byte("not ours"), 0o600))
	require.NoError(t, os.WriteFile(s.root+"/sha256/"+old.Hex()[:2]+"/README", []byte("not ours"), 0o600))

	done := s.collect()
	require.Equal(t, registry.Tally{Count: 1, Bytes: 15}, done.Files)
	require.EqualValues(t, 15, done.Freed)
	require.Len(t, s.blobFiles(), 3)
	require.NotContains(t, s.blobFiles(), old)
	require.FileExists(t, s.root+"/sha256/README")
}

// TestEndsWhatWasSetAside: a collection was killed, or lost its lock, with a blob set aside.
func TestEndsWhatWasSetAside(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.put(shop, "needed after all")
	s.put(shop, "pushed again meanwhile")
	s.orphan("garbage")
	for _, c := range []string{"needed after all", "pushed again meanwhile", "garbage"} {
		require.NoError(t, s.files.SetAside(digestOf(c)))
	}
	s.put(shop, "pushed again meanwhile")
	s.collect()
	s.requireContents("needed after all", "pushed again meanwhile")
	aside, err := s.files.Aside()
	require.NoError(t, err)
	require.Empty(t, aside)
}

func TestOneCollectionAtATime(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	release, err := s.db.Only(s.ctx, "garbage collection")
	require.NoError(t, err)
	_, err = s.collector(0).Collect(s.ctx, false)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	_, err = s.collector(0).Collect(s.ctx, true)
	require.NoError(t, err)
	release()
	_, err = s.collector(0).Collect(s.ctx, false)
	require.NoError(t, err)
}

// TestWhoCameFirst: a manifest is stored between a collection's look and its deletion, and the other way round.
func TestManifestAndCollectionWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.put(shop, string(config))
	layer := s.put(shop, "layer")
	s.age()
	body := manifestOf("late", layer)
	ref := artifact.Reference{Repository: shop, Digest: artifact.DigestOf(body)}

	// A push holds the rows that its manifest needs: the collection passes over them.
	tx, err := s.db.Pool.Begin(s.ctx)
	require.NoError(t, err)
	_, err = tx.Exec(s.ctx, "select from repository_blobs for share")
	require.NoError(t, err)
	done, err := s.collector(time.Hour).Collect(s.ctx, false)
	require.NoError(t, err)
	require.Zero(t, done.Links.Count)
	require.NoError(t, tx.Rollback(s.ctx))

	// A collection holds them: the push finds them gone, says so, and stores nothing.
	tx, err = s.db.Pool.Begin(s.ctx)
	require.NoError(t, err)
	_, err = tx.Exec(s.ctx, "delete from repository_blobs where digest = $1", layer.Digest)
	require.NoError(t, err)
	answer := make(chan error)
	go func() {
		_, err := s.PutManifest(s.ctx, pusher, ref, artifact.MediaTypeManifest, body, nil)
		answer <- err
	}()
	s.awaitLock()
	require.NoError(t, tx.Commit(s.ctx))
	err = <-answer
	require.ErrorContains(t, err, "push it again")
	_, err = s.GetManifest(s.ctx, reader, ref)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

// awaitLock waits until some statement waits for a lock.
func (s *store) awaitLock() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var n int
		require.NoError(s.t, s.db.Pool.QueryRow(s.ctx, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").Scan(&n))
		return n > 0
	}, 10*time.Second, time.Millisecond)
}

// TestPushAndCollectionWaitForEachOther: a push that is between bytes and row keeps the collection from the bytes.
func TestPushAndCollectionWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.orphan("layer")
	s.age()
	entered, goOn, pushed, collected := make(chan struct{}), make(chan struct{}), make(chan error), make(chan error)
	go func() {
		pushed <- s.db.SaveBlob(s.ctx, shop, digestOf("layer"), 5, "", func() error { close(entered); <-goOn; return nil })
	}()
	<-entered
	go func() {
		_, err := s.collector(time.Hour).Collect(s.ctx, false)
		collected <- err
	}()
	s.awaitLock()
	close(goOn)
	require.NoError(t, <-pushed)
	require.NoError(t, <-collected)
	s.requireContents("layer")
}

// forgetful is a database that lost the lock of a collection, and its connection, while the process stood still.
type forgetful struct {
	*postgres.DB
	meanwhile func()
}

func (r forgetful) Alone(ctx context.Context, d artifact.Digest, f func(known func() (bool, error)) error) error {
	asked := 0
	return f(func() (is bool, err error) {
		if asked++; asked > 1 {
			return false, errors.New("the connection is gone")
		}
		known, err := r.KnownBlobs(ctx, []artifact.Digest{d})
		r.meanwhile()
		return len(known) > 0, err
	})
}

// TestLockLost: a collection that has lost its lock without noticing takes nothing from who pushed meanwhile.
func TestLockLost(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.orphan("layer")
	s.age()
	_, err := s.collectorOn(forgetful{s.db, func() { s.put(shop, "layer") }}, time.Hour).Collect(s.ctx, false)
	require.ErrorContains(t, err, "the connection is gone")
	s.requireContents("layer")
	aside, err := s.files.Aside()
	require.NoError(t, err)
	require.Empty(t, aside)
}
