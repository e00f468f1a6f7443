package signer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/kms/provider"
)

// TestMain: this program is also, by another name, the one with the clients of each KMS.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "waybill-kms" {
		os.Exit(m.Run())
	}
	if err := provider.Run(os.Stdin, os.Stdout, "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// kmsProgram returns the path of that program.
func kmsProgram(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "waybill-kms")
	require.NoError(t, os.Symlink(self, path))
	return path
}
