// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
)

var (
	ctx     = context.Background()
	content = bytes.Repeat([]byte("waybill "), 100_000)
	digest  = artifact.DigestOf(content)
)

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("uploads", func(t *testing.T) { uploads(t, open) })
	t.Run("publishing", func(t *testing.T) { publishing(t, open) })
	t.Run("keeping", func(t *testing.T) { keeping(t, open) })
}

// commit makes an upload a blob.
func commit(t *testing.T, s blob.Store, id string, at blob.Progress, d artifact.Digest) {
	t.Helper()
	publish, err := s.Commit(ctx, id, at, d)
	require.NoError(t, err)
	require.NoError(t, publish())
}

// put stores a blob in one go.
func put(t *testing.T, s blob.Store, content []byte) artifact.Digest {
	t.Helper()
	at, err := s.Append(ctx, "f", blob.Progress{}, bytes.NewReader(content))
	require.NoError(t, err)
	commit(t, s, "f", at, artifact.DigestOf(content))
	return artifact.DigestOf(content)
}

func read(t *testing.T, s blob.Store, d artifact.Digest) []byte {
	t.Helper()
	file, size, err := s.Open(d)
	require.NoError(t, err)
	defer file.Close()
	b, err := io.ReadAll(file)
	require.NoError(t, err)
	require.Len(t, b, int(size))
	return b
}

func absent(t *testing.T, s blob.Store, d artifact.Digest) {
	t.Helper()
	_, _, err := s.Open(d)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

func all(t *testing.T, s blob.Store) (digests []artifact.Digest) {
	t.Helper()
	require.NoError(t, s.Walk(ctx, func(some []artifact.Digest) error { digests = append(digests, some...); return nil }))
	return digests
}

func uploads(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("in chunks", func(t *testing.T) {
		s := open(t)
		var at blob.Progress
		for start := 0; start < len(content); start += 300_001 {
			var err error
			at, err = s.Append(ctx, "1-2", at, bytes.NewReader(content[start:min(start+300_001, len(content))]))
			require.NoError(t, err)
		}
		absent(t, s, digest)
		commit(t, s, "1-2", at, digest)
		require.Equal(t, content, read(t, s, digest))
	})
	t.Run("failed in the middle, then resumed", func(t *testing.T) {
		s := open(t)
		broken := io.MultiReader(bytes.NewReader(content[:400_000]), iotest.ErrReader(errors.New("connection reset")))
		at, err := s.Append(ctx, "a", blob.Progress{}, broken)
		require.ErrorContains(t, err, "connection reset")
		require.EqualValues(t, 400_000, at.Offset)
		// An attempt that nobody acknowledged is dropped.
		_, err = s.Append(ctx, "a", at, bytes.NewReader([]byte("lost")))
		require.NoError(t, err)
		at, err = s.Append(ctx, "a", at, bytes.NewReader(content[400_000:]))
		require.NoError(t, err)
		commit(t, s, "a", at, digest)
		require.Equal(t, content, read(t, s, digest))
	})
	t.Run("a body that ends early is an error", func(t *testing.T) {
		s := open(t)
		_, err := s.Append(ctx, "a", blob.Progress{}, io.MultiReader(bytes.NewReader(content[:10]), iotest.ErrReader(io.ErrUnexpectedEOF)))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
	t.Run("another digest", func(t *testing.T) {
		s := open(t)
		at, err := s.Append(ctx, "a", blob.Progress{}, bytes.NewReader(content))
		require.NoError(t, err)
		other := artifact.DigestOf([]byte("other"))
		_, err = s.Commit(ctx, "a", at, other)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err))
		absent(t, s, other)
		absent(t, s, digest)
	})
	t.Run("sha512, empty, twice, dropped", func(t *testing.T) {
		s := open(t)
		sum := sha512.New()
		sum.Write(content)
		long := artifact.DigestFrom("sha512", sum)
		for range 2 {
			at, err := s.Append(ctx, "b", blob.Progress{}, bytes.NewReader(content))
			require.NoError(t, err)
			commit(t, s, "b", at, long)
		}
		require.Equal(t, content, read(t, s, long))
		for range 2 {
			require.NoError(t, s.SetAside(long))
			require.NoError(t, s.Drop(long))
			absent(t, s, long)
		}
		commit(t, s, "c", blob.Progress{}, artifact.DigestOf(nil))
		require.Empty(t, read(t, s, artifact.DigestOf(nil)))
		require.NoError(t, s.Cancel("never"))
	})
	t.Run("hostile ids", func(t *testing.T) {
		s := open(t)
		for _, id := range []string{"", "../../etc/passwd", "a/b", "."} {
			_, err := s.Append(ctx, id, blob.Progress{}, bytes.NewReader(content))
			require.Equal(t, artifact.NotFound, artifact.KindOf(err), id)
		}
	})
}

func publishing(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("nobody sees a blob before it is published", func(t *testing.T) {
		s := open(t)
		at, err := s.Append(ctx, "a", blob.Progress{}, bytes.NewReader(content))
		require.NoError(t, err)
		publish, err := s.Commit(ctx, "a", at, digest)
		require.NoError(t, err)
		absent(t, s, digest)
		require.Empty(t, all(t, s))
		for range 2 {
			require.NoError(t, publish())
			require.Equal(t, content, read(t, s, digest))
		}
		require.NoError(t, s.SetAside(digest))
		require.NoError(t, s.Drop(digest))
		require.Equal(t, artifact.NotFound, artifact.KindOf(publish()), "it was collected meanwhile")
		absent(t, s, digest)
	})
	t.Run("an upload that was collected is never made of zeros", func(t *testing.T) {
		s := open(t)
		at, err := s.Append(ctx, "a", blob.Progress{}, bytes.NewReader(content))
		require.NoError(t, err)
		publish, err := s.Commit(ctx, "a", at, digest)
		require.NoError(t, err)
		require.NoError(t, s.Cancel("a"))
		require.Equal(t, artifact.NotFound, artifact.KindOf(publish()))
		for range 2 { // the second time there is what Append has made anew
			_, err = s.Commit(ctx, "a", at, digest)
			require.Equal(t, artifact.NotFound, artifact.KindOf(err))
			_, err = s.Append(ctx, "a", at, bytes.NewReader(nil))
			require.Equal(t, artifact.NotFound, artifact.KindOf(err))
		}
		absent(t, s, digest)
	})
	t.Run("a push replaces what is there", func(t *testing.T) {
		s := open(t)
		put(t, s, content)
		file, _, err := s.Open(digest)
		require.NoError(t, err)
		defer file.Close()
		before, err := file.Stat()
		require.NoError(t, err)
		put(t, s, content)
		again, _, err := s.Open(digest)
		require.NoError(t, err)
		defer again.Close()
		after, err := again.Stat()
		require.NoError(t, err)
		require.False(t, os.SameFile(before, after), "whatever happened to the bytes that were there")
		old, err := io.ReadAll(file)
		require.NoError(t, err)
		require.Equal(t, content, old, "who reads goes on reading")
	})
}

func keeping(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("set aside, put back, dropped, in quarantine", func(t *testing.T) {
		s := open(t)
		other := put(t, s, []byte("other"))
		put(t, s, content)
		require.NoError(t, s.SetAside(digest))
		absent(t, s, digest)
		require.Equal(t, []artifact.Digest{other}, all(t, s))
		aside, err := s.Aside()
		require.NoError(t, err)
		require.Equal(t, []artifact.Digest{digest}, aside)
		for range 2 {
			require.NoError(t, s.PutBack(digest))
			require.Equal(t, content, read(t, s, digest))
		}

		require.NoError(t, s.SetAside(digest))
		put(t, s, content)
		require.NoError(t, s.PutBack(digest))
		require.Equal(t, content, read(t, s, digest))
		aside, err = s.Aside()
		require.NoError(t, err)
		require.Empty(t, aside, "the blob that came meanwhile stays")

		for _, end := range []func(artifact.Digest) error{s.Drop, s.Quarantine} {
			put(t, s, content)
			require.NoError(t, s.SetAside(digest))
			for range 2 {
				require.NoError(t, end(digest))
			}
			require.NoError(t, s.PutBack(digest))
			absent(t, s, digest)
			aside, err = s.Aside()
			require.NoError(t, err)
			require.Empty(t, aside)
			require.Equal(t, []artifact.Digest{other}, all(t, s))
		}
	})
	t.Run("uploads are listed", func(t *testing.T) {
		s := open(t)
		before := time.Now().Add(-time.Minute)
		_, err := s.Append(ctx, "1-2", blob.Progress{}, bytes.NewReader(content))
		require.NoError(t, err)
		put(t, s, content)
		var ids []string
		require.NoError(t, s.Uploads(func(id string, size int64, changed time.Time) error {
			require.EqualValues(t, len(content), size)
			require.WithinRange(t, changed, before, time.Now().Add(time.Minute))
			ids = append(ids, id)
			return nil
		}))
		require.Equal(t, []string{"1-2"}, ids)
	})
}
