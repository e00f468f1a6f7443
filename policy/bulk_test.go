package policy_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// TestMany: a judge of many comes to what a judge of one comes to, whatever the images share.
func TestMany(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	w := &world{policies: []policy.Versioned{{Document: parsed[0], Version: 1}}, manifests: map[artifact.Digest]artifact.StoredManifest{},
		blobs: map[artifact.Digest][]byte{}, facts: map[artifact.Digest]artifact.LayerFacts{}}
	repository := subject(t).Repository
	layer := func(name string, files ...artifact.File) artifact.Descriptor {
		d := artifact.Descriptor{MediaType: artifact.MediaTypeLayerGzip, Digest: artifact.DigestOf([]byte(name)), Size: 1}
		w.facts[d.Digest] = artifact.LayerFacts{Digest: d.Digest, DiffID: artifact.DigestOf([]byte("tar of " + name)), Files: files,
			Contents: map[string]string{"etc/passwd": "app:x:1000:1000::/:/bin/sh\nadmin:x:0:0::/:/bin/sh\n"}}
		return d
	}
	passwd := artifact.File{Path: "etc/passwd", Type: artifact.Regular}
	daemon := artifact.File{Path: "usr/sbin/sshd", Type: artifact.Regular, Mode: 0o755}
	plain, withDaemon := layer("base", passwd), layer("base with sshd", passwd, daemon)
	removed := layer("without sshd", artifact.File{Path: "usr/sbin/sshd", Type: artifact.Whiteout})
	var all []artifact.StoredManifest
	for i := range 60 {
		base := []artifact.Descriptor{plain, withDaemon}[i%2]
		layers := []artifact.Descriptor{base, layer(fmt.Sprint("program ", i), artifact.File{Path: fmt.Sprint("app", i), Type: artifact.Regular})}
		if i%3 == 0 {
			layers = append(layers, removed)
		}
		diffIDs := ""
		for n, l := range layers {
			if n > 0 {
				diffIDs += ","
			}
			diffIDs += `"` + w.facts[l.Digest].DiffID.String() + `"`
		}
		config := fmt.Appendf(nil, `{"config":{"User":%q},"rootfs":{"type":"layers","diff_ids":[%s]}}`, []string{"app", "admin", "1000"}[i%3], diffIDs)
		w.blobs[artifact.DigestOf(config)] = config
		all = append(all, artifact.StoredManifest{Repository: repository, Digest: artifact.DigestOf(fmt.Append(nil, i)), IsImage: true, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest,
			Config: &artifact.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: artifact.DigestOf(config), Size: int64(len(config))}, Layers: layers}})
	}
	judge := policy.NewJudge(policy.JudgeConfig{Facts: w, Contents: w, Policies: w})
	many := judge.Many(w, w)
	want, errs := judge.JudgeManifests(context.Background(), all)
	outcomes := map[artifact.Outcome]int{}
	for i := range all {
		require.NoError(t, errs[i])
		outcomes[want[i].Outcome]++
	}
	require.NotZero(t, outcomes[artifact.Allow])
	require.NotZero(t, outcomes[artifact.Deny])
	for range 3 {
		got, errs := many.JudgeManifests(context.Background(), all)
		for i := range all {
			require.NoError(t, errs[i])
			require.Equal(t, want[i].VerdictRecord, got[i].VerdictRecord, i)
		}
	}
	many.Forget()
	got, _ := many.JudgeManifests(context.Background(), all)
	require.Equal(t, want[0].VerdictRecord, got[0].VerdictRecord)
}
