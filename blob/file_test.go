package blob_test

import (
	"testing"

	"github.com/stretchr/testify/require"

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
