package builder

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestProvenance(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("base/debian")
	require.NoError(t, err)
	at := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	digest := artifact.DigestOf([]byte("x"))
	const commit, tree = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct {
		source Source
		want   string // the dependency
		told   string // the parameter
	}{
		"commit and tree": {Source{URI: "https://git.example.com/shop", Commit: commit, Tree: tree}, `,{"name":"source","uri":"https://git.example.com/shop","digest":{"gitCommit":"` + commit + `","gitTree":"` + tree + `"}}`,
			`{"uri":"https://git.example.com/shop","commit":"` + commit + `","tree":"` + tree + `"}`},
		"a name for a commit": {Source{URI: "https://git.example.com/shop", Commit: "v1.2"}, "", `{"uri":"https://git.example.com/shop","commit":"v1.2"}`},
		"unknown":             {Source{}, "", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := built{Builder: map[string]any{"id": "https://waybill.dev/builder/native"}, Request: Request{Dockerfile: "Dockerfile", Args: map[string]string{"VERSION": "1"}, Source: c.source},
				Platform: "linux/amd64", Key: digest, Context: digest, Dockerfile: digest,
				Bases: map[string]artifact.Reference{"base/debian:12": {Repository: repository, Digest: digest}}, Started: at, Ended: at.Add(time.Second)}.provenance()
			require.NoError(t, err)
			require.JSONEq(t, `{"buildDefinition":{"buildType":"https://waybill.dev/build-types/dockerfile/v1","externalParameters":{"args":{"VERSION":"1"},"dockerfile":"Dockerfile","platform":"linux/amd64",
				"source":`+c.told+`,"target":""},"internalParameters":{"key":"`+digest.String()+`"},"resolvedDependencies":[{"name":"context","digest":{"sha256":"`+digest.Hex()+`"}},
				{"name":"Dockerfile","digest":{"sha256":"`+digest.Hex()+`"}},{"name":"base/debian:12","uri":"pkg:oci/base/debian@`+digest.String()+`","digest":{"sha256":"`+digest.Hex()+`"}}`+c.want+`]},
				"runDetails":{"builder":{"id":"https://waybill.dev/builder/native"},"metadata":{"finishedOn":"2026-10-01T12:00:01Z","invocationId":"`+digest.String()+`","startedOn":"2026-10-01T12:00:00Z"}}}`, string(raw))
		})
	}
}
