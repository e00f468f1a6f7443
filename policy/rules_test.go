package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// ruleCase is one line of a rule's table: parameters, an image, and parts of what the rule says of it, in order. A
// warning is written "~part", what denies a promotion only "+part".
type ruleCase struct {
	Name      string
	With      any
	Action    string
	Error     string // part of why the parameters are refused; there is no image then
	Kind      string // image (the default), index or artifact
	Tags      []string
	Manifest  artifact.Manifest
	Config    artifact.ImageConfig
	Layers    []artifact.LayerFacts
	Foreign   []string
	Scan      artifact.Scan
	Referrers []artifact.Descriptor
	Signed    policy.Signed // the answer to whatever the rule asks of signatures
	NoTime    bool
	Reasons   []string
}

// noon is when every case is judged.
var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (c ruleCase) policy(rule string) string {
	if c.Action == "" {
		c.Action = "deny"
	}
	src := map[string]any{"rule": rule, "action": c.Action}
	if c.With != nil {
		src["with"] = c.With
	}
	one, _ := json.Marshal(src)
	types := ""
	if c.Kind == "artifact" {
		types = ", mediaTypes: ['**']"
	}
	return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  match: {repositories: ['**']" + types + "}\n  rules:\n    - " + string(one) + "\n"
}

func (c ruleCase) verdict(t *testing.T, set policy.Set) policy.Verdict {
	t.Helper()
	img := policy.Image{Subject: subject(t), Config: c.Config, Foreign: c.Foreign, Scan: c.Scan, Referrers: c.Referrers, Now: noon}
	if c.NoTime {
		img.Now = time.Time{}
	}
	img.Subject.Manifest, img.Subject.IsImage = c.Manifest, c.Kind == ""
	for _, text := range c.Tags {
		tag, err := artifact.ParseTag(text)
		require.NoError(t, err)
		img.Subject.Tags, img.Names = append(img.Subject.Tags, tag), append(img.Names, tag)
	}
	img.Signed = map[string]policy.Signed{}
	for _, q := range set.Questions(img.Subject.Repository) {
		img.Signed[q.ID()] = c.Signed
	}
	switch c.Kind {
	case "index":
		img.Subject.Manifest.MediaType = artifact.MediaTypeIndex
		return set.Index(img.Subject, nil)
	case "artifact":
		return set.Artifact(img.Subject)
	}
	for _, l := range c.Layers {
		for i := range l.Files {
			if l.Files[i].Type == "" {
				l.Files[i].Type = artifact.Regular
			}
		}
	}
	var err error
	img.Facts, err = artifact.Fold(c.Layers, c.Config)
	require.NoError(t, err)
	return set.Evaluate(img)
}

// TestRules runs the table of each rule.
func TestRules(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/rules/*.yaml")
	require.NoError(t, err)
	require.Greater(t, len(files), 15)
	for _, file := range files {
		rule := strings.TrimSuffix(filepath.Base(file), ".yaml")
		src, err := os.ReadFile(file)
		require.NoError(t, err)
		src, err = yaml.YAMLToJSON(src)
		require.NoError(t, err, file)
		var cases []ruleCase
		decoder := json.NewDecoder(strings.NewReader(string(src)))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&cases), file)
		for _, c := range cases {
			t.Run(rule+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				c.run(t, rule)
			})
		}
	}
}

func (c ruleCase) run(t *testing.T, rule string) {
	t.Helper()
	parsed, err := policy.Parse("p.yaml", []byte(c.policy(rule)))
	if c.Error != "" {
		require.ErrorContains(t, err, c.Error)
		require.Regexp(t, `^p\.yaml:7:\d+: `, err.Error(), "where it is")
		require.Equal(t, artifact.Invalid, artifact.KindOf(err))
		return
	}
	require.NoError(t, err)
	set := policy.NewSet([]policy.Versioned{{Document: parsed[0], Version: 1}})
	v := c.verdict(t, set)
	require.Len(t, v.Reasons, len(c.Reasons), "%v", v.Reasons)
	denied, waiting := false, false
	for i, want := range c.Reasons {
		part := strings.TrimLeft(want, "~+")
		require.Contains(t, v.Reasons[i].Message, part)
		require.Equal(t, want != part, v.Reasons[i].Warning, v.Reasons[i].Message)
		require.Equal(t, rule == "no-latest" || want == part && len(c.Tags) > 0 && strings.HasPrefix(rule, "require-"), v.Reasons[i].Tag != "")
		require.Equal(t, v.Reasons[i].Promotion && len(set.Questions(subject(t).Repository)) > 0, v.Reasons[i].Signature, "Waybill does not sign what lacks somebody else's signature")
		require.Equal(t, strings.HasPrefix(want, "+"), v.Reasons[i].Promotion)
		denied, waiting = denied || want == part, waiting || strings.HasPrefix(want, "+")
	}
	pass, err := v.Pass()
	require.Equal(t, denied, err != nil)
	require.Equal(t, !denied && !slices.ContainsFunc(v.Reasons, func(r artifact.Reason) bool { return r.Signature }), pass.Signs())
	_, err = v.Promotion()
	require.Equal(t, denied || waiting, err != nil)
}

// TestEscaped: what a name that is no UTF-8 is written as in facts is another name in the image.
func TestEscaped(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("p", policy.Baseline())
	require.NoError(t, err)
	set := policy.NewSet([]policy.Versioned{{Document: parsed[0], Version: 1}})
	var config artifact.ImageConfig
	config.Config.User, config.Config.Entrypoint = `app\xff`, []string{`/run\xff`}
	passwd := artifact.Escape("app\xff:x:1000:1000::/:/bin/sh\n" + `app\xff:x:0:0::/:/bin/sh`)
	v := ruleCase{Config: config, Layers: []artifact.LayerFacts{{Contents: map[string]string{"etc/passwd": passwd}, Files: []artifact.File{
		{Path: "etc/passwd"}, {Path: artifact.Escape("run\xff"), Mode: 0o755}, {Path: artifact.Escape(`run\xff`), Mode: 0o755, Marks: []artifact.Mark{artifact.MarkRunsSSHD}},
	}}}}.verdict(t, set)
	require.Len(t, v.Reasons, 2)
	require.Contains(t, v.Reasons[0].Message, "runs as root")
	require.Contains(t, v.Reasons[1].Message, "starts an ssh daemon")
	config.Config.User, config.Config.Entrypoint = "1000\x00", nil
	require.Contains(t, ruleCase{Config: config}.verdict(t, set).Reasons[0].Message, "spaces or control characters")
}

// TestEveryRuleHasATable: a rule that nobody wrote cases for does not ship.
func TestEveryRuleHasATable(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse("p", []byte(ruleCase{}.policy("?")))
	_, list, ok := strings.Cut(err.Error(), "known are ")
	require.True(t, ok)
	for rule := range strings.SplitSeq(list, ", ") {
		require.FileExists(t, "testdata/rules/"+rule+".yaml")
		manual, err := os.ReadFile("../docs/policy.md")
		require.NoError(t, err)
		require.Contains(t, string(manual), "`"+rule+"`", "docs/policy.md describes each rule")
	}
}
