package blob_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/blob"
	"waybill/blob/blobtest"
)

func TestFile(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := blob.NewFile(t.TempDir())
		require.NoError(t, err)
		return s
	})
}

// TestPowerCut: a part of an upload was acknowledged and not synced. After a power cut its file is as long as the row says, and not
// what it was; who goes on with it is told, and no blob has other bytes than its digest says.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	first, rest := bytes.Repeat([]byte("first"), 5000), []byte("and the rest")
	digest := artifact.DigestOf(append(bytes.Clone(first), rest...))
	for name, c := range map[string]struct {
		cut    func(t *testing.T, path string)
		wanted artifact.Kind
	}{
		"nothing was lost": {func(*testing.T, string) {}, ""},
		"zeros": {func(t *testing.T, path string) {
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = file.WriteAt(make([]byte, 4096), 4096)
			require.NoError(t, err)
			require.NoError(t, file.Close())
		}, artifact.Invalid},
		"the end": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 4096)) }, artifact.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, id := t.TempDir(), "0e4bd2a6-0d6a-4a4f-8d3b-1f1a9d1f3c11"
			before, err := blob.NewFile(root)
			require.NoError(t, err)
			at, err := before.Append(t.Context(), id, blob.Progress{}, bytes.NewReader(first))
			require.NoError(t, err)
			c.cut(t, filepath.Join(root, "uploads", id))

			after, err := blob.NewFile(root)
			require.NoError(t, err)
			var publish func() error
			if at, err = after.Append(t.Context(), id, at, bytes.NewReader(rest)); err == nil {
				publish, err = after.Commit(t.Context(), id, at, digest)
			}
			require.Equal(t, c.wanted, artifact.KindOf(err), "%v", err)
			if c.wanted != "" {
				return
			}
			require.NoError(t, err)
			require.NoError(t, publish())
			file, size, err := after.Open(digest)
			require.NoError(t, err)
			require.NoError(t, file.Close())
			require.EqualValues(t, len(first)+len(rest), size)
		})
	}
}
