package artifact_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestAmbiguousConfig: of two keys that differ in case only, runtimes do not agree on which counts, nor on whether one
// counts that is spelt in another case.
func TestAmbiguousConfig(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"os": "linux", "config": {"User": "1000"}}`:                              "",
		`{"config": {"user": "1000"}}`:                                             `it has "user", which`, // root to who heeds the case
		`{"Config": {"User": "1000"}}`:                                             `it has "Config", which`,
		`{"config": {"u\u017fer": "1000"}}`:                                        "it has \"u\u017fer\", which",
		`{"config": {"user": null}, "OS": "linux"}`:                                "which some runtimes take for",
		`{"config": null, "Hostname": "x", "container_config": {"user": "0"}}`:     "", // nobody reads those
		`{"config": {"Healthcheck": {"test": ["CMD", "x"]}}}`:                      `it has "test", which`,
		`{"config": {"Healthcheck": null}}`:                                        "",
		`{"config": {"Labels": {"a": "1", "A": "2"}}}`:                             "", // labels have any key
		`{"x": {"a": 1, "A": 2}}`:                                                  "", // nobody reads that
		`{"config": {"User": "1000", "user": "0"}}`:                                `it has both "User" and "user"`,
		`{"config": {"User": "1000", "User": "0"}}`:                                `it has both "User" and "User"`,
		`{"config": {"User": "1000", "u\u017fer": "0"}}`:                           "it has both \"User\" and \"u\u017fer\"",
		`{"config": {"User": "1000"}, "Config": {"User": "0"}}`:                    `it has both "config" and "Config"`,
		`{"rootfs": {"diff_ids": [], "DIFF_IDS": []}, "config": {"User": "1000"}}`: `it has both "diff_ids" and "DIFF_IDS"`,
	} {
		_, err := artifact.ParseImageConfig([]byte(body), 0)
		if want == "" {
			require.NoError(t, err, body)
			continue
		}
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), body)
		require.ErrorContains(t, err, want, body)
	}
}
