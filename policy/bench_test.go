package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// twenty is a policy of twenty rules, every kind among them.
const twenty = `[
    {rule: no-root-user, action: deny}, {rule: no-sshd, action: deny}, {rule: no-setuid, action: deny, with: {allow: [usr/bin/**]}},
    {rule: max-size, action: deny, with: {compressed: 500Mi, uncompressed: 2Gi, layers: 60, wasted: 100Mi, files: 100000}},
    {rule: max-severity, action: deny, with: {severity: critical, fixable: true, grace: 168h}}, {rule: no-secrets, action: deny},
    {rule: allowed-licenses, action: deny, with: {deny: [AGPL-*, SSPL-*], unknown: allow}}, {rule: require-labels, action: deny, with: {labels: {team: "[a-z]+"}}},
    {rule: allowed-bases, action: deny, with: {bases: [{name: none, layers: ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}], claimed: ["*@"]}},
    {rule: base-age, action: deny, with: {max: 30d}}, {rule: platforms, action: deny, with: {allow: [linux/*]}}, {rule: no-latest, action: deny},
    {rule: require-provenance, action: deny}, {rule: require-sbom, action: deny}, {rule: honest-config, action: deny}, {rule: no-foreign-layers, action: deny},
    {rule: expression, action: deny, with: {cel: "!image.config.exposedPorts.exists(p, p == '5005/tcp')"}},
    {rule: expression, action: deny, with: {cel: "facts.packages.all(p, p.name != 'telnetd')"}},
    {rule: expression, action: deny, with: {cel: "!findings.exists(f, f.rank >= 4 && f.fixed != '')"}},
    {rule: expression, action: deny, with: {cel: "image.config.labels['team'].matches('^[a-z]+$') && facts.layers.size() < 30"}}]`

// BenchmarkTwentyRules: twenty rules over the facts of 5,000 files, 120 packages and 100 findings, as a Debian image with
// an application has. It is meant to take less than a millisecond.
func BenchmarkTwentyRules(b *testing.B) {
	files := make([]artifact.File, 5000)
	for i := range files {
		files[i] = artifact.File{Path: "usr/lib/" + artifact.DigestOf([]byte{byte(i), byte(i >> 8)}).Hex(), Type: artifact.Regular, Mode: 0o644, Size: 1000}
	}
	for i := range 20 {
		files[i].Path, files[i].Mode = fmt.Sprintf("usr/bin/su%d", i), 0o4755
	}
	image := policy.Image{Subject: subject(b), Now: noon, Scan: artifact.Scan{State: artifact.Scanned},
		Referrers: []artifact.Descriptor{{ArtifactType: "application/vnd.cyclonedx+json"}, {Annotations: map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}}}}
	image.Subject.IsImage = true
	layers := []artifact.LayerFacts{{Files: files}}
	for i := range 120 {
		p := artifact.Package{Name: fmt.Sprint("lib", i), Version: "1", Type: "deb", Licenses: []string{"GPL-2.0-or-later OR MIT"}}
		layers[0].Packages, image.Scan.Packages = append(layers[0].Packages, p), append(image.Scan.Packages, p)
	}
	for i := range 100 {
		image.Scan.Findings = append(image.Scan.Findings, artifact.Finding{Class: "vulnerability", ID: fmt.Sprint("CVE-", i), Severity: artifact.High, Package: "lib1"})
	}
	made := noon.Add(-24 * time.Hour)
	image.Config.OS, image.Config.Architecture = "linux", "amd64"
	image.Config.Config.User, image.Config.Config.Labels = "1000", map[string]string{"team": "ops"}
	image.Config.Config.Env = []string{"PATH=/usr/bin"}
	image.Config.History = []artifact.History{{Created: &made, CreatedBy: "ADD rootfs.tar /"}}
	var err error
	image.Facts, err = artifact.Fold(layers, image.Config)
	require.NoError(b, err)
	rules := set(b, document("p", `{repositories: ["**"]}`, twenty))
	for b.Loop() {
		if v := rules.Evaluate(image); v.Outcome != artifact.Allow || len(v.Waiting()) > 0 {
			b.Fatal(v.Reasons)
		}
	}
}

// BenchmarkParse: what applying costs, and the first judgement after it.
func BenchmarkParse(b *testing.B) {
	src := []byte(document("p", `{repositories: ["**"]}`, twenty))
	for b.Loop() {
		if _, err := policy.Parse("p", src); err != nil {
			b.Fatal(err)
		}
	}
}
