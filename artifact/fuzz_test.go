package artifact_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// FuzzImageConfig: a config is refused or parsed, and its texts make reasons that can be shown.
func FuzzImageConfig(f *testing.F) {
	f.Add([]byte(`{"config":{"User":"1000"},"rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("a", 64)+`"]},"history":[{"created_by":"x"}]}`), 1)
	f.Add([]byte(`{}`), 0)
	f.Fuzz(func(t *testing.T, body []byte, layers int) {
		config, err := artifact.ParseImageConfig(body, layers)
		if err != nil {
			return
		}
		require.Len(t, config.RootFS.DiffIDs, layers)
		r := artifact.Reason{Message: config.Config.User, Evidence: config.Config.Entrypoint}.Bounded()
		require.NotContains(t, r.Message, "\x00")
		require.LessOrEqual(t, len(r.Evidence), 20)
	})
}
