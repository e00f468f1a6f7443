package policy_test

import (
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/policy"
)

// TestDiff: see testdata/diff.yaml.
func TestDiff(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/diff.yaml")
	require.NoError(t, err)
	var cases []struct{ Name, From, To, Want string }
	require.NoError(t, yaml.Unmarshal(src, &cases))
	require.NotEmpty(t, cases)
	for _, c := range cases {
		changes, err := policy.Diff([]byte(c.From), []byte(c.To))
		require.NoError(t, err, c.Name)
		got := []string{}
		for _, change := range changes {
			got = append(got, change.String())
		}
		require.Equal(t, strings.TrimSpace(c.Want), strings.Join(got, "\n"), c.Name)
	}
	_, err = policy.Diff([]byte("a: ["), nil)
	require.Error(t, err)
}

func FuzzDiff(f *testing.F) {
	f.Add(policy.Baseline(), []byte("spec: {rules: [{rule: a}, {rule: a}, 3]}"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		same, err := policy.Diff(a, a)
		if err == nil {
			require.Empty(t, same)
		}
		_, _ = policy.Diff(a, b)
	})
}
