package registry_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestArrivesBeforeOthers: a blob is told of as soon as it is complete, by whichever way it came, while others are still
// under way and no manifest names it.
func TestArrivesBeforeOthers(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t), t.Context()
	slow, quick, chunked := []byte("a layer that takes its time"), []byte("one that does not"), []byte("one in two pieces")
	under, err := w.StartUpload(ctx, w.pusher, w.shop)
	require.NoError(t, err)
	under, err = w.Append(ctx, w.pusher, w.shop, under.ID, nil, bytes.NewReader(slow[:5]))
	require.NoError(t, err)
	require.Empty(t, w.arrived)

	w.blob(artifact.MediaTypeLayerGzip, quick)
	require.Equal(t, []artifact.Digest{artifact.DigestOf(quick)}, w.arrived)
	u, err := w.StartUpload(ctx, w.pusher, w.shop)
	require.NoError(t, err)
	u, err = w.Append(ctx, w.pusher, w.shop, u.ID, nil, bytes.NewReader(chunked[:3]))
	require.NoError(t, err)
	require.Len(t, w.arrived, 1)
	_, err = w.FinishUpload(ctx, w.pusher, w.shop, u.ID, nil, bytes.NewReader(chunked[3:]), artifact.DigestOf(chunked))
	require.NoError(t, err)
	require.Equal(t, []artifact.Digest{artifact.DigestOf(quick), artifact.DigestOf(chunked)}, w.arrived)

	_, err = w.FinishUpload(ctx, w.pusher, w.shop, under.ID, nil, bytes.NewReader(slow[5:]), artifact.DigestOf([]byte("another")))
	require.Error(t, err, "its bytes are others")
	require.Len(t, w.arrived, 2)
}
