package policy_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
	"waybill/policy"
)

type imageCase struct {
	Name       string
	User       string
	Passwd     []string // of each layer that has one
	Layers     [][]artifact.File
	Contents   map[string]string // of the first of Layers
	Words      int               // that CMD has, each another
	Daemons    int               // files of that name
	Package    string
	Entrypoint []string
	Port       string
	Compressed int64
	Reasons    yaml.MapSlice
}

func (c imageCase) image(t *testing.T) policy.Image {
	t.Helper()
	var config artifact.ImageConfig
	config.Config.User, config.Config.Entrypoint = c.User, c.Entrypoint
	if c.Port != "" {
		config.Config.ExposedPorts = map[string]struct{}{c.Port: {}}
	}
	layers := []artifact.LayerFacts{{Compressed: c.Compressed}}
	for _, passwd := range c.Passwd {
		layers = append(layers, artifact.LayerFacts{Files: []artifact.File{{Path: "etc/passwd", Type: artifact.Regular}}, Contents: map[string]string{"etc/passwd": passwd}})
	}
	for i := range c.Words {
		config.Config.Cmd = append(config.Config.Cmd, fmt.Sprint("w", i))
	}
	for i := range c.Daemons {
		layers[0].Files = append(layers[0].Files, artifact.File{Path: fmt.Sprintf("%d/bin/sshd", i), Type: artifact.Regular, Mode: 0o755})
	}
	contents := c.Contents
	for _, files := range c.Layers {
		for i := range files {
			if files[i].Type == "" {
				files[i].Type = artifact.Regular
			}
		}
		layers = append(layers, artifact.LayerFacts{Files: files, Contents: contents})
		contents = nil
	}
	if c.Package != "" {
		layers = append(layers, artifact.LayerFacts{Files: []artifact.File{{Path: "var/lib/dpkg/status", Type: artifact.Regular}},
			Packages: []artifact.Package{{Name: c.Package, Type: "deb", File: "var/lib/dpkg/status"}}})
	}
	facts, err := artifact.Fold(layers, config)
	require.NoError(t, err)
	return policy.Image{Subject: subject(t), Config: config, Facts: facts}
}

func subject(t testing.TB) artifact.Subject {
	t.Helper()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	return artifact.Subject{Repository: repository, Digest: artifact.DigestOf([]byte("image"))}
}

func baseline(t testing.TB) policy.Set {
	t.Helper()
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	return policy.NewSet([]policy.Versioned{{Document: parsed[0], Version: 1}})
}

// TestBaseline runs the table of testdata/cases.yaml: each image has exactly the reasons that stand there.
func TestBaseline(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/cases.yaml")
	require.NoError(t, err)
	var cases []imageCase
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.Greater(t, len(cases), 30)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			v := baseline(t).Evaluate(c.image(t))
			if c.Daemons > 0 {
				require.Len(t, v.Reasons, 21, "the ledger keeps them for ever")
				v.Reasons = v.Reasons[20:]
			}
			require.Len(t, v.Reasons, len(c.Reasons), "%v", v.Reasons)
			denials := 0
			for i, want := range c.Reasons {
				rule, warning := strings.CutPrefix(want.Key.(string), "~")
				rule, _, _ = strings.Cut(rule, "/")
				require.Equal(t, rule, v.Reasons[i].Rule)
				require.Equal(t, warning, v.Reasons[i].Warning)
				require.Contains(t, v.Reasons[i].Message, want.Value)
				require.Equal(t, "baseline", v.Reasons[i].Policy)
				if !warning {
					denials++
				}
			}
			pass, err := v.Pass()
			if denials > 0 {
				require.Equal(t, artifact.Deny, v.Outcome)
				require.Equal(t, artifact.Denied, artifact.KindOf(err))
				require.False(t, pass.Valid())
				return
			}
			require.NoError(t, err)
			require.Equal(t, v.Digest, pass.Digest())
			require.Equal(t, v.PolicyHash, pass.PolicyHash())
			require.Equal(t, []string{"baseline@1"}, pass.Policies())
		})
	}
}

// TestNoPass: whatever its fields say, a verdict that no evaluation made gives no pass; nor does the zero Pass count.
func TestNoPass(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := policy.Verdict{VerdictRecord: artifact.VerdictRecord{Digest: artifact.DigestOf([]byte("x")),
			Outcome: artifact.Outcome(rapid.SampledFrom([]string{"allow", "deny", "pending", ""}).Draw(t, "outcome"))}}
		v.Repository, _ = artifact.ParseRepository("shop/returns")
		if pass, err := v.Pass(); err == nil || pass.Valid() {
			t.Fatalf("a made-up verdict passed: %+v", v)
		}
	})
	require.False(t, policy.Pass{}.Valid())
	s := subject(t)
	_, err := baseline(t).Pending(s, "not inspected yet").Pass()
	require.Error(t, err)
	_, err = baseline(t).Uninspectable(s, "a bomb").Pass()
	require.Error(t, err)
	v := policy.NewSet(nil).Evaluate(policy.Image{Subject: s})
	require.Equal(t, artifact.Deny, v.Outcome, "no policy, no pass")
	require.Contains(t, v.Reasons[0].Message, "no policy applies")
	allowed := baseline(t).Artifact(s)
	allowed.Outcome = artifact.Deny // a changed outcome does not pass either
	_, err = allowed.Pass()
	require.Error(t, err)
}

func TestParse(t *testing.T) {
	t.Parallel()
	document := func(spec string) string {
		return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - " + spec + "\n"
	}
	for what, c := range map[string]struct{ src, want string }{
		"unknown rule":                    {document("{rule: no-rot, action: deny}"), "p.yaml:7:14: rule \"no-rot\" is not known; known are allowed-bases, "},
		"unknown key":                     {document("{rule: no-sshd, acton: deny}"), "p.yaml:7:"},
		"unknown parameter":               {document("{rule: max-size, action: deny, with: {compresed: 1Mi}}"), "p.yaml:7:"},
		"no parameters":                   {document("{rule: max-size, action: deny}"), "wants at least one of"},
		"bad size":                        {document("{rule: max-size, action: deny, with: {compressed: 1Q}}"), "want a whole number above 0"},
		"negative size":                   {document("{rule: max-size, action: deny, with: {compressed: -1Mi}}"), "want a whole number above 0"},
		"bad action":                      {document("{rule: no-sshd, action: maybe}"), "want deny or warn"},
		"parameters to one that has none": {document("{rule: no-sshd, action: deny, with: {x: 1}}"), "no parameters"},
		"no match":                        {"apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec: {rules: []}\n", "repositories is empty"},
		"bad pattern":                     {"apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec: {match: {repositories: ['[']}, rules: []}\n", "pattern"},
		"another version":                 {"apiVersion: waybill/v2\nkind: Policy\nmetadata: {name: p}\n", "want waybill/v1"},
		"a bad name":                      {"apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: P!}\n", "metadata.name"},
		"an alias":                        {"a: &a [x]\nb: *a\n", "aliases"},
		"nothing":                         {"# nothing\n", "no document"},
		"no YAML":                         {"{", "p.yaml:"},
	} {
		_, err := policy.Parse("p.yaml", []byte(c.src))
		require.ErrorContains(t, err, c.want, what)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), what)
	}
	one, err := policy.Parse("p", []byte(document("{rule: max-size, action: warn, with: {compressed: 1Mi}}")))
	require.NoError(t, err)
	other, err := policy.Parse("p", []byte(strings.ReplaceAll(document("{rule: max-size,  action: \"warn\", with: {compressed: 1Mi}} # a comment"), "'", `"`)))
	require.NoError(t, err)
	require.Equal(t, one[0].Hash(), other[0].Hash(), "the hash is of the meaning")
}

func FuzzParse(f *testing.F) {
	f.Add(policy.Baseline())
	f.Fuzz(func(t *testing.T, src []byte) {
		if _, err := policy.Parse("p", src); err != nil && artifact.KindOf(err) == "" {
			t.Fatalf("an error without a kind: %v", err)
		}
	})
}

// world is the judge's surroundings: manifests, configs and facts by digest.
type world struct {
	policies  []policy.Versioned
	manifests map[artifact.Digest]artifact.StoredManifest
	blobs     map[artifact.Digest][]byte
	facts     map[artifact.Digest]artifact.LayerFacts
	referrers map[artifact.Digest][]artifact.Descriptor
}

func newWorld(policies ...policy.Versioned) *world {
	return &world{policies: policies, manifests: map[artifact.Digest]artifact.StoredManifest{}, blobs: map[artifact.Digest][]byte{},
		facts: map[artifact.Digest]artifact.LayerFacts{}, referrers: map[artifact.Digest][]artifact.Descriptor{}}
}

func (w *world) Policies(context.Context) ([]policy.Versioned, error) { return w.policies, nil }

func (w *world) Manifest(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	m, ok := w.manifests[d]
	if !ok {
		return m, artifact.Errorf(artifact.NotFound, "no manifest")
	}
	return m, nil
}

func (w *world) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	return w.blobs[d], nil
}

func (w *world) Scan(_ context.Context, s artifact.Subject, _ bool) (artifact.Scan, bool, error) {
	return artifact.Scan{Digest: s.Digest, State: artifact.ScanPending}, true, nil
}

func (w *world) Layer(_ context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	facts, ok := w.facts[d.Digest]
	if !ok && d.IsForeign() {
		return facts, artifact.Errorf(artifact.NotFound, "it is not here")
	} else if !ok {
		return facts, artifact.Errorf(artifact.Denied, "cannot be inspected: a bomb")
	}
	return facts, nil
}

// image adds an image of one layer; its config says that the layer holds diffID.
func (w *world) image(name, user string, diffID artifact.Digest) artifact.Descriptor {
	config := []byte(`{"config":{"User":"` + user + `"},"rootfs":{"type":"layers","diff_ids":["` + diffID.String() + `"]}}`)
	d := artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: artifact.DigestOf([]byte(name)), Size: 1}
	w.blobs[artifact.DigestOf(config)] = config
	w.manifests[d.Digest] = artifact.StoredManifest{Digest: d.Digest, IsImage: true, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest,
		Config: &artifact.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: artifact.DigestOf(config), Size: int64(len(config))},
		Layers: []artifact.Descriptor{{MediaType: artifact.MediaTypeLayerGzip, Digest: artifact.DigestOf([]byte("layer of " + name)), Size: 1}}}}
	w.facts[artifact.DigestOf([]byte("layer of "+name))] = artifact.LayerFacts{DiffID: artifact.DigestOf([]byte("plain"))}
	return d
}

func TestJudge(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	w := newWorld(policy.Versioned{Document: parsed[0], Version: 1})
	judge := policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w})
	plain := artifact.DigestOf([]byte("plain"))
	good, bad := w.image("good", "1000", plain), w.image("bad", "root", plain)
	lying := w.image("lying", "1000", artifact.DigestOf([]byte("another")))
	bomb := w.image("bomb", "1000", plain)
	delete(w.facts, artifact.DigestOf([]byte("layer of bomb")))
	foreign := w.image("foreign", "1000", plain)
	w.manifests[foreign.Digest].Manifest.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	delete(w.facts, artifact.DigestOf([]byte("layer of foreign")))
	index := func(name string, children ...artifact.Descriptor) artifact.Digest {
		d := artifact.DigestOf([]byte(name))
		w.manifests[d] = artifact.StoredManifest{Digest: d, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeIndex, Manifests: children}}
		return d
	}
	// Each level names the one below twice, which is judged once, and many of its own.
	wide, explosion := good, artifact.Digest{}
	for _, name := range []string{"x", "xx", "xxx"} {
		children := []artifact.Descriptor{wide, wide}
		for i := range 180 {
			children = append(children, w.image(name+strconv.Itoa(i), "1000", plain))
		}
		explosion = index(name, children...)
		wide = artifact.Descriptor{MediaType: artifact.MediaTypeIndex, Digest: explosion, Size: 1}
	}
	high := w.manifests[good.Digest]
	high.Manifest.Layers = make([]artifact.Descriptor, artifact.MaxLayers+1)
	tower := artifact.DigestOf([]byte("tower"))
	high.Digest = tower
	w.manifests[tower] = high
	arm := bad
	arm.Platform = &artifact.Platform{OS: "linux", Architecture: "arm64"}
	loop := artifact.Descriptor{MediaType: artifact.MediaTypeIndex, Digest: artifact.DigestOf([]byte("loop")), Size: 1}
	for what, c := range map[string]struct {
		digest artifact.Digest
		want   string // "" is allowed
	}{
		"an image":                   {good.Digest, ""},
		"an index":                   {index("multi", good), ""},
		"an index with a bad image":  {index("mixed", good, arm), "linux/arm64"},
		"an index of what is absent": {index("absent", artifact.Descriptor{Digest: artifact.DigestOf([]byte("nowhere"))}), "not here"},
		"a bad image, deeper":        {index("deep", artifact.Descriptor{MediaType: artifact.MediaTypeIndex, Digest: index("lower", good, arm), Size: 1}), "linux/arm64"},
		"an index of itself":         {index("loop", loop), "nested deeper"},
		"a config that lies":         {lying.Digest, "diff_ids say"},
		"a layer that is a bomb":     {bomb.Digest, "cannot be inspected: a bomb"},
		"a layer elsewhere":          {foreign.Digest, "lies elsewhere"},
		"indexes of indexes":         {explosion, "more than 500 manifests"},
		"more layers than run":       {tower, "no runtime stacks more"},
	} {
		v, err := judge.JudgeStored(ctx, subject(t).Repository, c.digest)
		require.NoError(t, err, what)
		if c.want == "" {
			require.Equal(t, artifact.Allow, v.Outcome, "%s: %v", what, v.Reasons)
			continue
		}
		require.Equal(t, artifact.Deny, v.Outcome, what)
		require.Contains(t, v.Reasons[0].Message+v.Reasons[0].Platform, c.want, what)
	}
	_, err = judge.JudgeStored(ctx, subject(t).Repository, artifact.DigestOf([]byte("nowhere")))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	w.policies = nil
	v, err := judge.JudgeStored(ctx, subject(t).Repository, good.Digest)
	require.NoError(t, err)
	require.Equal(t, artifact.Deny, v.Outcome)
}

// TestAlways: what denies without any policy may be made a warning by one, and by all that match.
func TestAlways(t *testing.T) {
	t.Parallel()
	source := func(action string) string {
		return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: " + action + "}\nspec:\n  match: {repositories: ['**']}\n  rules:\n    - {rule: honest-config, action: " + action + "}\n"
	}
	image := policy.Image{Subject: subject(t), Lies: []string{"layer 1 lies"}}
	image.Config.Config.User = "1000"
	for _, c := range []struct {
		policies []string
		want     artifact.Outcome
	}{{[]string{"warn"}, artifact.Allow}, {[]string{"deny"}, artifact.Deny}, {[]string{"warn", "deny"}, artifact.Deny}} {
		var all []policy.Versioned
		for _, action := range c.policies {
			parsed, err := policy.Parse("p.yaml", []byte(source(action)))
			require.NoError(t, err)
			all = append(all, policy.Versioned{Document: parsed[0], Version: 1})
		}
		v := policy.NewSet(all).Evaluate(image)
		require.Equal(t, c.want, v.Outcome, c.policies)
		require.Len(t, v.Reasons, len(c.policies))
	}
	v := baseline(t).Evaluate(image)
	require.Equal(t, artifact.Deny, v.Outcome)
	require.Equal(t, "honest-config", v.Reasons[0].Rule)
	image.Lies, image.Foreign = nil, []string{"layer 1 lies elsewhere"}
	require.Equal(t, artifact.Deny, baseline(t).Evaluate(image).Outcome)
}

// BenchmarkEvaluate: a policy over the facts of 5,000 files.
func BenchmarkEvaluate(b *testing.B) {
	files := make([]artifact.File, 5000)
	for i := range files {
		files[i] = artifact.File{Path: "usr/lib/" + artifact.DigestOf([]byte{byte(i), byte(i >> 8)}).Hex(), Type: artifact.Regular, Mode: 0o644, Size: 1000}
	}
	var config artifact.ImageConfig
	config.Config.User = "1000"
	facts, err := artifact.Fold([]artifact.LayerFacts{{Files: files}}, config)
	require.NoError(b, err)
	img := policy.Image{Subject: subject(b), Config: config, Facts: facts}
	set := baseline(b)
	for b.Loop() {
		if set.Evaluate(img).Outcome != artifact.Allow {
			b.Fatal("denied")
		}
	}
}
