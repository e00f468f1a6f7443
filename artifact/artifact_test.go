package artifact_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestParse runs the tables of testdata/parse.yaml: what each parser takes, and what it refuses.
func TestParse(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/parse.yaml")
	require.NoError(t, err)
	var tables map[string]struct{ Good, Bad []string }
	require.NoError(t, yaml.UnmarshalWithOptions(src, &tables, yaml.Strict()))
	parsers := map[string]func(string) (string, error){
		"digest":      func(s string) (string, error) { d, err := artifact.ParseDigest(s); return d.String(), err },
		"repository":  func(s string) (string, error) { r, err := artifact.ParseRepository(s); return r.String(), err },
		"tag":         func(s string) (string, error) { t, err := artifact.ParseTag(s); return t.String(), err },
		"environment": func(s string) (string, error) { e, err := artifact.ParseEnvironment(s); return e.String(), err },
		"reference":   func(s string) (string, error) { r, err := artifact.ParseReference(s); return r.String(), err },
	}
	require.Len(t, tables, len(parsers))
	for what, table := range tables {
		parse := parsers[what]
		require.NotNil(t, parse, what)
		require.NotEmpty(t, table.Good)
		require.NotEmpty(t, table.Bad)
		for _, s := range table.Good {
			got, err := parse(s)
			require.NoError(t, err, "%s %q", what, s)
			require.Equal(t, s, got)
		}
		for _, s := range table.Bad {
			_, err := parse(s)
			require.Equal(t, artifact.Invalid, artifact.KindOf(err), "%s %q: %v", what, s, err)
		}
	}
}

func TestDigestText(t *testing.T) {
	t.Parallel()
	d := artifact.DigestOf([]byte("waybill"))
	b, err := json.Marshal(map[artifact.Digest]artifact.Digest{d: {}})
	require.NoError(t, err)
	require.JSONEq(t, `{"`+d.String()+`":""}`, string(b))
	var back map[artifact.Digest]artifact.Digest
	require.NoError(t, json.Unmarshal(b, &back))
	require.Contains(t, back, d)
	require.Error(t, json.Unmarshal([]byte(`"sha256:1"`), &d))
	var scanned artifact.Digest
	require.NoError(t, scanned.Scan(nil))
	require.True(t, scanned.IsZero())
	require.Error(t, scanned.Scan(42))
}

func TestMatchGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"**", "shop/returns", true}, {"**", "a", true}, {"shop/**", "shop/returns", true}, {"shop/**", "shop", true},
		{"shop/**", "shopping/x", false}, {"shop/*", "shop/a/b", false}, {"shop/*", "shop/a", true},
		{"**/returns", "a/b/returns", true}, {"**/returns", "returns", true}, {"shop/re*", "shop/returns", true},
		{"a/**/b/**/c", "a/x/b/y/z/c", true}, {"[", "x", false}, {"", "x", false},
	} {
		require.Equal(t, c.want, artifact.MatchGlob(c.pattern, c.name), "%s ~ %s", c.pattern, c.name)
	}
	// Hostile pattern: answers at once.
	artifact.MatchGlob(strings.Repeat("**/", 2000)+"x", strings.Repeat("a/", 100)+"y")
}

func TestIsImage(t *testing.T) {
	t.Parallel()
	config := []byte(`{"rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("a", 64) + `"]}}`)
	manifest := func(configType string, layers ...string) artifact.Manifest {
		m := artifact.Manifest{MediaType: artifact.MediaTypeManifest, Config: &artifact.Descriptor{MediaType: configType}}
		for _, l := range layers {
			m.Layers = append(m.Layers, artifact.Descriptor{MediaType: l})
		}
		return m
	}
	require.True(t, manifest(artifact.MediaTypeConfig, artifact.MediaTypeLayerGzip).IsImage(config))
	require.True(t, manifest(artifact.MediaTypeDockerConfig).IsImage([]byte("{}")))
	require.True(t, manifest("application/vnd.harmless", artifact.MediaTypeLayerGzip).IsImage(config), "a config by another name")
	require.True(t, manifest("application/vnd.harmless", "application/vnd.harmless").IsImage(config), "layers by another name")
	for _, odd := range []string{string(config) + "x", string(config) + "{}", `{"rootfs":{"diff_ids":["x"]},"ROOTFS":{"diff_ids":[]}}`, `{"rootfs":{"diff_ids":["x"],"Diff_IDs":[]}}`,
		`{"rootfs":{"\u0064iff_ids":["x"]},"ROOTF\u017f":{"\u0064iff_ids":[]}}`, `{"rootfs":{"diff_ids":["x"]},"rootfs":null}`, `{"RootFS":{"diff_ids":["x"]}}`, `{"rootfs":{"diff_ids":["x"]},"rootfs":"x"}`, `{"rootfs":{"diff_ids":["x"]},"rootfs":{"diff_ids":0}}`} {
		require.True(t, manifest("application/octet-stream", artifact.MediaTypeLayerGzip).IsImage([]byte(odd)), odd)
	}
	require.False(t, manifest("application/octet-stream").IsImage([]byte(`{"a":1,"A":2}`)))
	require.False(t, manifest("application/octet-stream").IsImage([]byte(`"rootfs"`)))
	require.False(t, manifest("application/octet-stream").IsImage(nil))
	require.False(t, manifest("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip").IsImage([]byte(`{"name":"x"}`)))
	signature := manifest(artifact.MediaTypeConfig, "application/vnd.dev.cosign.simplesigning.v1+json")
	require.True(t, signature.IsImage(config), "runtimes unpack layers of any type")
	require.True(t, signature.ClaimsStatements())
	require.False(t, manifest(artifact.MediaTypeConfig).ClaimsStatements())
	require.False(t, manifest(artifact.MediaTypeConfig, "application/vnd.dev.cosign.simplesigning.v1+json", artifact.MediaTypeLayerGzip).ClaimsStatements(),
		"a signature with a layer that unpacks")
}

func TestIsCosign(t *testing.T) {
	t.Parallel()
	zeros := "sha256-" + strings.Repeat("0", 64)
	for text, want := range map[string]bool{
		zeros + ".sig": true, zeros + ".att": true, zeros + ".sbom": true, zeros: false, zeros + ".": false, zeros + ".sig.x": false, zeros + ".txt": false,
		"sha256-00.sig": false, "v1.sig": false, "md5-" + strings.Repeat("0", 64) + ".sig": false,
	} {
		tag, err := artifact.ParseTag(text)
		require.NoError(t, err)
		require.Equal(t, want, tag.IsCosign(), text)
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	layer := func(content, signature string) artifact.Descriptor {
		return artifact.Descriptor{Digest: artifact.DigestOf([]byte(content)), Annotations: map[string]string{"signature": signature}}
	}
	have := artifact.Manifest{Layers: []artifact.Descriptor{layer("a", "1"), layer("b", "1")}}
	require.Empty(t, have.Lacks(have))
	require.Empty(t, have.Lacks(artifact.Manifest{}))
	require.Equal(t, have.Layers, artifact.Manifest{}.Lacks(have))
	other := artifact.Manifest{Layers: []artifact.Descriptor{layer("b", "1"), layer("a", "2"), layer("c", "1")}}
	require.Equal(t, other.Layers[1:], have.Lacks(other), "one payload signed by two keys is two signatures")
}

// TestAmbiguousManifest: what one client reads as this and another as that is no manifest.
func TestAmbiguousManifest(t *testing.T) {
	t.Parallel()
	d := `{"mediaType":"x","digest":"sha256:` + strings.Repeat("0", 64) + `","size":2}`
	for name, body := range map[string]string{
		"config":         `{"schemaVersion":2,"config":` + d + `,"Config":` + d + `,"layers":[]}`,
		"layers":         `{"schemaVersion":2,"config":` + d + `,"layers":[` + d + `],"LAYERS":[]}`,
		"digest in list": `{"schemaVersion":2,"config":` + d + `,"layers":[{"mediaType":"x","digest":"sha256:` + strings.Repeat("1", 64) + `","Digest":"sha256:` + strings.Repeat("0", 64) + `","size":2}]}`,
		"platform":       `{"schemaVersion":2,"mediaType":"` + artifact.MediaTypeIndex + `","manifests":[{"mediaType":"x","digest":"sha256:` + strings.Repeat("0", 64) + `","size":2,"platform":{"os":"linux","OS":"windows","architecture":"amd64"}}]}`,
		"twice":          `{"schemaVersion":2,"config":` + d + `,"config":` + d + `,"layers":[]}`,
	} {
		_, err := artifact.ParseManifest("", []byte(body))
		require.ErrorContains(t, err, "it has both", name)
	}
	_, err := artifact.ParseManifest(artifact.MediaTypeManifest, []byte(`{"schemaVersion":2,"config":`+d+`,"layers":[],"annotations":{"a":"1","A":"2"}}`))
	require.NoError(t, err, "annotations are told apart by case")
}

func TestMalformedManifest(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{``: "the body is empty", `{"schemaVersion":2`: "the body is cut off", `"x"`: "the body is of type string; want an object", `[1]`: "the body is of type array; want an object",
		`{"schemaVersion":2,"layers":{}}`: "layers is of type object; want an array", `{"schemaVersion":"2"}`: "schemaVersion is of type string; want a number"} {
		_, err := artifact.ParseManifest(artifact.MediaTypeManifest, []byte(body))
		require.ErrorContains(t, err, want, body)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err))
	}
}

// TestFollows: what speaks for an image goes where that goes; a chart does not.
func TestFollows(t *testing.T) {
	t.Parallel()
	for config, follows := range map[string]bool{artifact.MediaTypeEmpty: true, artifact.MediaTypeConfig: true, "application/spdx+json": true,
		"application/vnd.cncf.helm.config.v1+json": false, "application/vnd.wasm.config.v0+json": false, "application/x": false} {
		require.Equal(t, follows, artifact.Manifest{Config: &artifact.Descriptor{MediaType: config}}.Follows(), config)
	}
	require.False(t, artifact.Manifest{MediaType: artifact.MediaTypeIndex}.Follows())
}

func TestRoles(t *testing.T) {
	t.Parallel()
	repository, _ := artifact.ParseRepository("shop/returns")
	other, _ := artifact.ParseRepository("bank/ledger")
	production, _ := artifact.ParseEnvironment("production")
	staging, _ := artifact.ParseEnvironment("staging")
	pusher := artifact.Principal{Role: artifact.Pusher, Repositories: []string{"shop/**"}}
	require.True(t, pusher.Can(artifact.ActionPush, repository))
	require.False(t, pusher.Can(artifact.ActionPush, other))
	require.False(t, pusher.Can(artifact.ActionDelete, repository))
	require.False(t, artifact.Principal{}.Can(artifact.ActionPull, repository))
	require.False(t, artifact.Principal{Role: artifact.Deployer}.Can(artifact.ActionPull, repository), "only the gate lets a deployer pull")
	require.False(t, artifact.Principal{Role: artifact.Auditor}.Can(artifact.ActionPull, repository))
	promoter := artifact.Principal{Role: artifact.Promoter, Environments: []artifact.Environment{staging}}
	require.True(t, promoter.CanPromote(repository, staging))
	require.False(t, promoter.CanPromote(repository, production))
	require.True(t, artifact.Principal{Role: artifact.Promoter}.CanPromote(repository, production))
}

func FuzzParseManifest(f *testing.F) {
	f.Add(artifact.MediaTypeManifest, []byte(`{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:`+strings.Repeat("0", 64)+`","size":2},"layers":[]}`))
	f.Add(artifact.MediaTypeIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add("", []byte(`{}{}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m, err := artifact.ParseManifest(contentType, body)
		if err != nil {
			if artifact.KindOf(err) == "" {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		for _, d := range append(m.Blobs(), m.Manifests...) {
			if d.Digest.IsZero() || d.Size < 0 {
				t.Fatalf("a descriptor without digest or size: %+v", d)
			}
		}
	})
}

func FuzzParseReference(f *testing.F) {
	f.Add("shop/returns:v456@sha256:" + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, s string) {
		if ref, err := artifact.ParseReference(s); err == nil && ref.String() != s {
			t.Fatalf("%q became %q", s, ref)
		}
	})
}
