package blob_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
)

// FuzzUpload: however bytes are cut into chunks, and whatever a row says of how far an upload is, what is published under a
// digest are the bytes of that digest.
func FuzzUpload(f *testing.F) {
	f.Add([]byte("hello, world"), []byte{3, 0, 5}, int64(0), []byte(nil), false)
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 9), []byte{64, 64, 1}, int64(64), []byte("sha\x03"), false)
	f.Add([]byte("x"), []byte{}, int64(-1), []byte("sha\x03xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), true)
	f.Add([]byte(""), []byte{}, int64(1), []byte(nil), true)
	f.Fuzz(func(t *testing.T, content, cuts []byte, offset int64, state []byte, sha512 bool) {
		s, err := blob.NewFile(t.TempDir())
		require.NoError(t, err)
		ctx := context.Background()
		want := artifact.DigestOf(content)
		if sha512 {
			sum := artifact.NewHash("sha512")
			sum.Write(content)
			want = artifact.DigestFrom("sha512", sum)
		}
		var at blob.Progress
		rest := content
		for _, cut := range cuts {
			n := min(int(cut), len(rest))
			if at, err = s.Append(ctx, "1", at, bytes.NewReader(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if at, err = s.Append(ctx, "1", at, bytes.NewReader(rest)); err != nil {
			t.Fatal(err)
		}
		require.Equal(t, int64(len(content)), at.Offset)

		// A row that lies is refused, or what it leads to is not published.
		lie := blob.Progress{Offset: offset, State: state}
		if publish, err := s.Commit(ctx, "1", lie, want); err == nil {
			require.NoError(t, publish())
			published(t, s, want, content)
			return
		}
		if publish, err := s.Commit(ctx, "1", at, want); err == nil { // unless the lie was noticed and the upload dropped
			require.NoError(t, publish())
			published(t, s, want, content)
		}
	})
}

func published(t *testing.T, s *blob.File, d artifact.Digest, content []byte) {
	t.Helper()
	file, size, err := s.Open(d)
	require.NoError(t, err)
	defer file.Close()
	b, err := io.ReadAll(file)
	require.NoError(t, err)
	require.Equal(t, int64(len(content)), size)
	require.True(t, bytes.Equal(content, b))
}
