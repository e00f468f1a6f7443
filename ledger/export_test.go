package ledger_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/ledger"
)

func TestListing(t *testing.T) {
	t.Parallel()
	signer := newSigner(t)
	files := []ledger.ExportedFile{{Path: "b c", Size: 2, SHA256: sha256.Sum256([]byte("b"))}, {Path: "a", Size: 1, SHA256: sha256.Sum256([]byte("a"))}}
	signed, err := signer.SignListing(files)
	require.NoError(t, err)
	got, err := ledger.OpenListing(signed, signer.PublicKey())
	require.NoError(t, err)
	require.Equal(t, []ledger.ExportedFile{files[1], files[0]}, got)

	_, err = ledger.OpenListing(signed, newSigner(t).PublicKey())
	require.Error(t, err)
	_, err = ledger.OpenListing(strings.Replace(signed, " 1 a", " 2 a", 1), signer.PublicKey())
	require.Error(t, err)
	_, err = ledger.OpenCheckpoint(signed, signer.PublicKey())
	require.Error(t, err, "no checkpoint")
	checkpoint, err := signer.Sign(7, ledger.Hash{})
	require.NoError(t, err)
	_, err = ledger.OpenListing(checkpoint, signer.PublicKey())
	require.ErrorContains(t, err, "no listing of an export")
	_, err = signer.SignListing([]ledger.ExportedFile{{Path: "a\nb"}})
	require.Error(t, err)
}
