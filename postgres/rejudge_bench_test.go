package postgres_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// BenchmarkRejudge: the verdicts of 10,000 images under a new policy, from facts in PostgreSQL. They are on 20 bases of 4,000
// files, in 200 repositories, each with two layers of 40 files of its own.
func BenchmarkRejudge(b *testing.B) {
	const images, bases, repositories = 10_000, 20, 200
	w := newTown(b)
	w.many10k(b, images, bases, repositories)
	w.rejudge()
	policies := []string{strict, lax}
	b.ReportMetric(0, "ns/op")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		w.enforce(policies[i%2])
		b.StartTimer()
		began, used := time.Now(), processorTime(b)
		n := w.rejudgeIn(100)
		require.Equal(b, images, n)
		b.ReportMetric(time.Since(began).Seconds(), "s/10k")
		b.ReportMetric((processorTime(b) - used).Seconds(), "cpu-s/10k") // of this process, not of PostgreSQL
	}
}

func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func (w *town) rejudgeIn(pages int) (n int) {
	for {
		page, err := w.db.NextToJudge(w.ctx, 1, pages)
		require.NoError(w.t, err)
		if len(page) == 0 {
			return n
		}
		verdicts, errs := w.many.JudgeManifests(w.ctx, page)
		for _, err := range errs {
			require.NoError(w.t, err)
		}
		_, err = w.db.SaveJudged(w.ctx, verdicts)
		require.NoError(w.t, err)
		last := page[len(page)-1]
		require.NoError(w.t, w.db.Judged(w.ctx, 1, artifact.Reference{Repository: last.Repository, Digest: last.Digest}))
		n += len(page)
	}
}

func (w *town) many10k(b *testing.B, images, bases, repositories int) {
	layer := func(name string, files int) artifact.LayerFacts {
		facts := artifact.LayerFacts{Format: artifact.FactsFormat, Digest: artifact.DigestOf([]byte(name)), DiffID: artifact.DigestOf([]byte("tar of " + name)), Compressed: 1000, Uncompressed: 3000}
		for i := range files {
			if i%20 == 0 {
				facts.Files = append(facts.Files, artifact.File{Path: fmt.Sprintf("usr/share/%s/%d", facts.Digest.Hex()[:8], i/20), Type: artifact.Dir, Mode: 0o755})
			}
			facts.Files = append(facts.Files, artifact.File{Path: fmt.Sprintf("usr/share/%s/%d/file-%d.dat", facts.Digest.Hex()[:8], i/20, i), Type: artifact.Regular, Mode: 0o644, Size: 1000})
		}
		return facts
	}
	save := func(facts artifact.LayerFacts) artifact.LayerFacts {
		require.NoError(b, w.db.SaveLayer(w.ctx, facts, "test", []byte("{}")))
		return facts
	}
	var base []artifact.LayerFacts
	for i := range bases {
		base = append(base, save(layer(fmt.Sprint("base ", i), 4000)))
	}
	var names [][]any
	for r := range repositories {
		names = append(names, []any{fmt.Sprintf("team%03d/service", r)})
	}
	_, err := w.db.Pool.CopyFrom(w.ctx, pgx.Identifier{"repositories"}, []string{"name"}, pgx.CopyFromRows(names))
	require.NoError(b, err)
	var manifests, verdicts [][]any
	for i := range images {
		layers := []artifact.LayerFacts{base[i%bases], save(layer(fmt.Sprint("dependencies ", i), 40)), save(layer(fmt.Sprint("program ", i), 40))}
		config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":"%d"},"rootfs":{"type":"layers","diff_ids":[%q,%q,%q]}}`, i%3, layers[0].DiffID, layers[1].DiffID, layers[2].DiffID)
		w.blobs[artifact.DigestOf(config)] = config
		body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[`, artifact.MediaTypeManifest, artifact.MediaTypeConfig, artifact.DigestOf(config), len(config))
		for n, l := range layers {
			if n > 0 {
				body = append(body, ',')
			}
			body = fmt.Appendf(body, `{"mediaType":%q,"digest":%q,"size":1000}`, artifact.MediaTypeLayerGzip, l.Digest)
		}
		body = append(body, "]}"...)
		digest, repository := artifact.DigestOf(body).String(), names[i%repositories][0]
		manifests = append(manifests, []any{repository, digest, artifact.MediaTypeManifest, true, false, body, "token:ci"})
		verdicts = append(verdicts, []any{repository, digest, "allow", "[]", digest, []string{"baseline@1"}, "token:ci"})
	}
	_, err = w.db.Pool.CopyFrom(w.ctx, pgx.Identifier{"manifests"}, []string{"repository", "digest", "media_type", "is_image", "is_index", "body", "pushed_by"}, pgx.CopyFromRows(manifests))
	require.NoError(b, err)
	_, err = w.db.Pool.CopyFrom(w.ctx, pgx.Identifier{"verdicts"}, []string{"repository", "digest", "outcome", "reasons", "policy_hash", "policies", "actor"}, pgx.CopyFromRows(verdicts))
	require.NoError(b, err)
	_, err = w.db.Pool.Exec(w.ctx, `analyze manifests, verdicts, layer_facts`)
	require.NoError(b, err)
}
