package policy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestWords: every kind of rule says what it asks, and what its parameters make of that.
func TestWords(t *testing.T) {
	t.Parallel()
	for kind := range known {
		require.NotEmpty(t, asks[kind], kind)
	}
	for kind := range parameterWords {
		require.Contains(t, known, kind)
	}
	all, err := Parse("test", []byte(`{apiVersion: waybill/v1, kind: Policy, metadata: {name: strict}, spec: {match: {repositories: ["shop/**"], platforms: [linux/*],
		except: [shop/lab/**, {repositories: ["shop/**"], platforms: [windows/*]}, {mediaTypes: [application/vnd.oci.image.index.v1+json]}]}, rules: [
		{rule: no-root-user, action: deny},
		{rule: max-size, action: warn, name: slim, with: {compressed: 500Mi, layers: 60}},
		{rule: max-severity, action: deny, with: {severity: high, fixable: true, grace: 7d}},
		{rule: allowed-licenses, action: deny, with: {deny: [AGPL-*, SSPL-*], unknown: warn}},
		{rule: require-labels, action: deny, with: {labels: {maintainer: '', team: 'shop|bank'}}},
		{rule: no-latest, action: deny},
		{rule: base-age, action: deny, with: {max: 30d}},
		{rule: require-provenance, action: deny, with: {keys: [waybill], sources: ["https://git.example.com/*"]}},
		{rule: expression, action: deny, with: {cel: "image.config.user\n!= ''", message: no user}}]}}`))
	require.NoError(t, err)
	w := all[0].Words()
	require.Equal(t, []string{"shop/**"}, w.Repositories)
	require.Equal(t, []string{"shop/lab/**", "platform windows/* in shop/**", "media type application/vnd.oci.image.index.v1+json"}, w.Except)
	require.Equal(t, artifact.RespondBlock, w.WhenPromotedTurnsBad)
	require.Equal(t, RuleWords{Name: "slim", Rule: "max-size", Action: "warn", Asks: "The image is not bloated.", More: []string{"At most 500 MiB as it is pulled.", "At most 60 layers."}}, w.Rules[1])
	more := map[string][]string{}
	for _, r := range w.Rules {
		more[r.Name] = r.More
	}
	require.Empty(t, more["no-root-user"])
	require.Equal(t, []string{"Nothing of severity high or worse.", "A vulnerability without a fix does not count.", "For 7 d after its advisory was published, a finding is a warning."}, more["max-severity"])
	require.Equal(t, []string{"Never AGPL-* or SSPL-*.", "A package without a licence is a warning."}, more["allowed-licenses"])
	require.Equal(t, []string{"maintainer is there.", "team is there, and fits shop|bank."}, more["require-labels"])
	require.Equal(t, []string{"Such as latest."}, more["no-latest"])
	require.Equal(t, []string{"At most 30 d."}, more["base-age"])
	require.Equal(t, []string{"Signed by Waybill's own key.", "From https://git.example.com/*."}, more["require-provenance"])
	require.Equal(t, []string{"image.config.user != ''", "Else: no user"}, more["expression"])
}
