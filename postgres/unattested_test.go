package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestUnattested: what is allowed and lacks something is found, a page at a time, and what is denied, recalled, complete or
// just pushed is not.
func TestUnattested(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	types := artifact.PredicateTypes{SBOM: "bom", Scan: "scan", Provenance: "provenance", Verification: "summary"}
	attest := func(d artifact.Digest, predicate, name string) {
		t.Helper()
		_, err := s.db.Pool.Exec(s.ctx, `insert into attestations (repository, digest, predicate, name, key_id, policy_hash, signed_at, manifest, envelope)
			values ($1, $2, $3, $4, 'key-1', '', now(), $2, $2)`, s.repository, d, predicate, name)
		require.NoError(t, err)
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := s.db.Pool.Exec(s.ctx, sql, args...)
		require.NoError(t, err)
	}
	unsigned := s.put("unsigned", nil)
	scanless, complete, built, scanned := s.release("scanless"), s.release("complete"), s.release("built"), s.release("scanned")
	waits, promoted, recalled, denied := s.release("waits"), s.release("promoted"), s.release("recalled"), s.put("denied", nil)
	for _, d := range []artifact.Digest{complete, built, scanned, promoted, recalled} {
		attest(d, "scan", "")
	}
	for _, d := range []artifact.Digest{complete, built, promoted, recalled} {
		attest(d, "bom", "")
	}
	require.NoError(t, s.db.AwaitScan(s.ctx, s.repository, waits, "scan"))
	for _, d := range []artifact.Digest{complete, scanned} {
		exec(`insert into scans (digest, state, scanned_at, database_digest) values ($1, 'scanned', now(), $1)`, d)
	}
	exec(`update verdicts set outcome = 'deny' where digest = $1`, denied)
	exec(`insert into builds (key, repository, digest, state, provenance, started_by, ended_at) values ('k', $1, $2, 'done', '{}', 'user:ada', now())`, s.repository, built)
	s.mustPromote("promoted", "dev")
	s.mustPromote("complete", "dev")
	attest(complete, "summary", "dev")
	s.mustPromote("recalled", "dev")
	require.NoError(t, s.db.Recall(s.ctx, s.repository, recalled, "user:ada", "CVE", ""))

	find := func(age time.Duration) map[artifact.Digest]artifact.Unattested {
		t.Helper()
		found, after, pages := map[artifact.Digest]artifact.Unattested{}, artifact.Reference{}, 0
		for {
			all, last, err := s.db.Unattested(s.ctx, types, after, age, 2)
			require.NoError(t, err)
			for _, one := range all {
				require.NotContains(t, found, one.Digest)
				found[one.Digest] = one
			}
			if pages++; last.Digest.IsZero() {
				require.Equal(t, 5, pages, "9 digests")
				return found
			}
			after = last
		}
	}
	found := find(0)
	require.Len(t, found, 5)
	for _, d := range []artifact.Digest{unsigned, scanless, built, scanned} {
		require.True(t, found[d].Lacks)
		require.Empty(t, found[d].Environments)
	}
	require.False(t, found[promoted].Lacks)
	require.Equal(t, []artifact.Environment{parsed(t, artifact.ParseEnvironment, "dev")}, found[promoted].Environments)
	require.Empty(t, find(time.Hour), "what was just pushed and promoted has jobs of its own")
}
