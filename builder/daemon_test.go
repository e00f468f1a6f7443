package builder

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMissingDaemonSaysWhose: on whose machine BuildKit is looked for is said, and what to do about it there.
func TestMissingDaemonSaysWhose(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := FindDaemon(DaemonConfig{})
	require.ErrorContains(t, err, "buildkitd is not on the server's PATH")
	require.ErrorContains(t, err, "builder.buildkit.address")
	_, err = FindDaemon(DaemonConfig{Here: true})
	require.ErrorContains(t, err, "buildkitd is not on this machine's PATH")
	require.ErrorContains(t, err, "--builder")
}
