package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// deny refuses a push by a tag.
func (w *town) deny(name string, change func(*artifact.Push)) artifact.Digest {
	w.t.Helper()
	p := push(w.t, w.db, w.repository, name, func(p *artifact.Push) {
		p.Config = []byte("{}")
		p.Verdict.Outcome, p.Verdict.Reasons = artifact.Deny, []artifact.Reason{{Rule: "no-root-user", Message: "it runs as root"}}
		if change != nil {
			change(p)
		}
	})
	require.NoError(w.t, w.db.SaveDenied(w.ctx, p))
	return p.Digest
}

// TestDeniedPush: what was denied is told of with what it was and what was found in it, is no manifest of the repository, and
// is forgotten as a denial when it is taken in later.
func TestDeniedPush(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	d := w.deny("bad", nil)
	got, err := w.db.DeniedPush(w.ctx, w.repository, d)
	require.NoError(t, err)
	require.True(t, got.Kept())
	require.Equal(t, "no-root-user", got.Verdict.Reasons[0].Rule)
	require.Equal(t, "bad", got.Reference)
	require.Equal(t, "token:ci", got.Actor)
	require.Len(t, got.Manifest.Manifest.Layers, 1)
	require.Equal(t, "{}", string(got.Config))
	entries, err := w.db.Entries(w.ctx, got.LedgerIndex, 1)
	require.NoError(t, err)
	require.Equal(t, "push.denied", entries[0].Kind)

	_, err = w.db.Manifest(w.ctx, w.repository, d)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err), "it is nothing that can be pulled")
	_, err = w.db.ResolveTag(w.ctx, w.repository, parsed(t, artifact.ParseTag, "bad"))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	tagged, ok, err := w.db.DeniedTag(w.ctx, w.repository, parsed(t, artifact.ParseTag, "bad"))
	require.NoError(t, err)
	require.True(t, ok && tagged == d)
	_, ok, err = w.db.DeniedTag(w.ctx, w.repository, parsed(t, artifact.ParseTag, "other"))
	require.NoError(t, err)
	require.False(t, ok)
	recent, err := w.db.DeniedPushes(w.ctx, w.repository, 10)
	require.NoError(t, err)
	require.Len(t, recent, 1)
	require.Equal(t, d, recent[0].Digest)

	short, err := w.db.DeniedByPrefix(w.ctx, w.repository, d.Hex()[:12])
	require.NoError(t, err)
	require.Equal(t, []artifact.Digest{d}, short)

	// By another policy it is taken in.
	w.put("bad", nil)
	short, err = w.db.DeniedByPrefix(w.ctx, w.repository, d.Hex()[:12])
	require.NoError(t, err)
	require.Empty(t, short)
	_, err = w.db.DeniedPush(w.ctx, w.repository, d)
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	recent, err = w.db.DeniedPushes(w.ctx, w.repository, 10)
	require.NoError(t, err)
	require.Empty(t, recent)
	_, err = w.db.DeniedPush(w.ctx, w.repository, artifact.DigestOf([]byte("never")))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

// TestDeniedScan: findings of what was denied are kept by its digest.
func TestDeniedScan(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	p := push(t, w.db, w.repository, "bad", nil)
	p.Verdict.Outcome = artifact.Deny
	p.Scan = &artifact.Scan{Digest: p.Digest, State: artifact.Scanned, ScannedAt: w.now(), DatabaseDigest: artifact.DigestOf([]byte("db")), DatabaseUpdatedAt: w.now(),
		Findings: []artifact.Finding{{Class: artifact.ClassVulnerability, ID: "CVE-2024-24790", Severity: artifact.Critical}}}
	require.NoError(t, w.db.SaveDenied(w.ctx, p))
	scan, err := w.db.Scan(w.ctx, p.Digest)
	require.NoError(t, err)
	require.Equal(t, artifact.Scanned, scan.State)
	require.Len(t, scan.Findings, 1)
	affected, _, err := w.db.Affected(w.ctx, "CVE-2024-24790", artifact.Digest{}, 10)
	require.NoError(t, err)
	require.Empty(t, affected, "no repository has it")
}

// TestDeniedIsBounded: an outsized manifest is not kept, its verdict is.
func TestDeniedIsBounded(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	d := w.deny("large", func(p *artifact.Push) { p.Config = make([]byte, 1<<20) })
	got, err := w.db.DeniedPush(w.ctx, w.repository, d)
	require.NoError(t, err)
	require.False(t, got.Kept())
	require.Equal(t, artifact.Deny, got.Verdict.Outcome)
}

// TestLists: a page of tags and of promotions is the part of all that was asked for, and what is counted of what runs is what
// is told of it.
func TestLists(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for i := range 5 {
		w.lands(fmt.Sprintf("v%d", i), "1000")
		w.mustPromote(fmt.Sprintf("v%d", i), "dev")
	}
	tags, all, err := w.db.TagPage(w.ctx, w.repository, "V", 1, 2)
	require.NoError(t, err)
	require.Equal(t, 6, all, "five, and the environment")
	require.Equal(t, "v0 v1", tags[0].Name.String()+" "+tags[1].Name.String())
	history, all, err := w.db.HistoryPage(w.ctx, w.repository, 1, 2)
	require.NoError(t, err)
	require.Equal(t, 5, all)
	require.Equal(t, "v3 v2", history[0].Version+" "+history[1].Version)

	w.enforce(strict)
	status, err := w.db.Status(w.ctx)
	require.NoError(t, err)
	some, err := w.db.StatusOf(w.ctx, []artifact.Repository{w.repository})
	require.NoError(t, err)
	require.Equal(t, asJSON(t, status), asJSON(t, some))
	none, err := w.db.StatusOf(w.ctx, []artifact.Repository{parsed(t, artifact.ParseRepository, "shop/other")})
	require.NoError(t, err)
	require.Empty(t, none)
	scan := artifact.Scan{Digest: status[0].Digest, State: artifact.Scanned, ScannedAt: w.now(), DatabaseDigest: artifact.DigestOf([]byte("db")), DatabaseUpdatedAt: w.now()}
	for _, severe := range []bool{false, true} {
		scan.Counts = map[artifact.Severity]int{artifact.Low: 3}
		if severe {
			scan.Counts[artifact.High] = 1
		}
		require.NoError(t, w.db.SaveScan(w.ctx, scan))
		cells, err := w.db.Cells(w.ctx)
		require.NoError(t, err)
		require.Equal(t, []artifact.Cell{{Repository: w.repository, Environment: status[0].Environment, Digest: status[0].Digest, Version: "v4", Since: cells[0].Since, Severe: severe}}, cells)
	}
	// What another replica did is told of by the database.
	_, err = w.db.Pool.Exec(w.ctx, `with denied as (update verdicts set outcome = 'deny' where digest = $1) select pg_notify('board', '')`, status[0].Digest)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		cells, err := w.db.Cells(w.ctx)
		return err == nil && cells[0].Denied
	}, 30*time.Second, 10*time.Millisecond)
}
