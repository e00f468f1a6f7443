// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
)

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	ctx := context.Background()
	content := bytes.Repeat([]byte("waybill "), 100_000)
	digest := artifact.DigestOf(content)

	read := func(t *testing.T, s blob.Store, d artifact.Digest) []byte {
		file, size, err := s.Open(d)
		require.NoError(t, err)
		defer file.Close()
		b, err := io.ReadAll(file)
		require.NoError(t, err)
		require.Len(t, b, int(size))
		return b
	}
	absent := func(t *testing.T, s blob.Store, d artifact.Digest) {
		_, _, err := s.Open(d)
		require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	}

	t.Run("in chunks", func(t *testing.T) {
		s := open(t)
		var at blob.Progress
		for start := 0; start < len(content); start += 300_001 {
			var err error
			at, err = s.Append(ctx, "1-2", at, bytes.NewReader(content[start:min(start+300_001, len(content))]))
			require.NoError(t, err)
		}
		absent(t, s, digest)
		require.NoError(t, s.Commit(ctx, "1-2", at, digest))
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
		require.NoError(t, s.Commit(ctx, "a", at, digest))
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
		require.Equal(t, artifact.Invalid, artifact.KindOf(s.Commit(ctx, "a", at, other)))
		absent(t, s, other)
		absent(t, s, digest)
	})
	t.Run("sha512, empty, twice, removed", func(t *testing.T) {
		s := open(t)
		sum := sha512.New()
		sum.Write(content)
		long := artifact.DigestFrom("sha512", sum)
		for range 2 {
			at, err := s.Append(ctx, "b", blob.Progress{}, bytes.NewReader(content))
			require.NoError(t, err)
			require.NoError(t, s.Commit(ctx, "b", at, long))
		}
		require.Equal(t, content, read(t, s, long))
		require.NoError(t, s.Remove(long))
		require.NoError(t, s.Remove(long))
		absent(t, s, long)
		require.NoError(t, s.Commit(ctx, "c", blob.Progress{}, artifact.DigestOf(nil)))
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
