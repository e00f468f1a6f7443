package promotion

import (
	"os"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestGates(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/gates.yaml")
	require.NoError(t, err)
	type unmet struct {
		Gate, Says string
		Awaits     artifact.Awaited
		Until      time.Time
	}
	var cases []struct {
		Name      string
		Stage     map[string]any
		Ago       time.Duration
		Unsigned  bool
		Promoter  string
		Attested  [][]map[string]any
		Against   [][]string
		Approvals []struct {
			By, For string
			Role    artifact.Role
		}
		Unmet []unmet
	}
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.NotEmpty(t, cases)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	dev, prod := environment(t, "dev"), environment(t, "prod")
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			document, err := yaml.Marshal(map[string]any{"apiVersion": "waybill/v1", "kind": "Pipeline", "metadata": map[string]any{"name": "p"},
				"spec": map[string]any{"match": map[string]any{"repositories": []string{"**"}}, "environments": []any{map[string]any{"name": "dev"}, c.Stage}}})
			require.NoError(t, err)
			all, err := Parse("p.yaml", document)
			require.NoError(t, err)
			stage, ok := all[0].Stage(prod)
			require.True(t, ok)
			e := Evidence{Pushers: []string{"ci", "token:build/aaaaaaaaaaaa"}, Attested: c.Attested, Against: c.Against}
			if !c.Unsigned {
				e.Signature = digest("sig")
			}
			if c.Ago > 0 {
				e.Reached, e.Since = []artifact.Environment{dev}, map[artifact.Environment]time.Time{dev: now.Add(-c.Ago)}
			}
			for _, a := range c.Approvals {
				approval := artifact.Approval{Actor: a.By, Role: artifact.Approver, Environment: prod}
				if a.Role != "" {
					approval.Role = a.Role
				}
				if a.For != "" {
					approval.Environment = environment(t, a.For)
				}
				e.Approvals = append(e.Approvals, approval)
			}
			if c.Promoter == "" {
				c.Promoter = "ada"
			}
			got := stage.Unmet(e, Asked{Actor: c.Promoter, Reason: "CHG-1", At: now})
			require.Len(t, got, len(c.Unmet), "%v", got)
			for i, want := range c.Unmet {
				require.Equal(t, want, unmet{got[i].Rule, want.Says, got[i].Awaits, got[i].Until})
				require.Contains(t, got[i].Message, want.Says)
			}
		})
	}
}
