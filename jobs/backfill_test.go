package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// backlog is what a Backfiller finds: digests in order, two to a page, until they are signed.
type backlog struct {
	*attestWorld

	all    []artifact.Unattested
	fails  map[artifact.Digest]error
	tried  []artifact.Digest
	signed map[artifact.Digest]bool
}

func (b *backlog) Unattested(_ context.Context, _ artifact.PredicateTypes, after artifact.Reference, _ time.Duration, _ int) (page []artifact.Unattested, last artifact.Reference, err error) {
	const n = 2
	rest := b.all[1+slices.IndexFunc(b.all, func(u artifact.Unattested) bool { return u.Digest == after.Digest }):]
	if len(rest) > n {
		last = rest[n-1].Reference
		rest = rest[:n]
	}
	for _, u := range rest {
		if !b.signed[u.Digest] {
			page = append(page, u)
		}
	}
	return page, last, nil
}

func (b *backlog) SignImage(_ context.Context, pass policy.Pass) error {
	d := pass.Digest()
	if b.tried = append(b.tried, d); b.fails[d] != nil {
		return b.fails[d]
	}
	b.signed[d] = true
	return nil
}

func newBacklog(t *testing.T) (*backlog, *Backfiller) {
	t.Helper()
	w := &attestWorld{t: t, scanned: true, sbom: []byte(`{}`), manifests: map[artifact.Digest]artifact.StoredManifest{}, made: map[string]json.RawMessage{}}
	b := &backlog{attestWorld: w, fails: map[artifact.Digest]error{}, signed: map[artifact.Digest]bool{}}
	for _, name := range []string{"1", "2", "3", "4", "5"} {
		d := artifact.DigestOf([]byte(name))
		w.manifests[d] = artifact.StoredManifest{Repository: w.repository(), Digest: d, IsImage: true}
		b.all = append(b.all, artifact.Unattested{Reference: artifact.Reference{Repository: w.repository(), Digest: d}, Lacks: true})
	}
	a := w.attester()
	s := &Signer{Judge: w, Service: b, Attest: a.Attest, Logger: slog.New(slog.DiscardHandler), Described: func(context.Context, artifact.Digest) error { return nil },
		Describe: func(context.Context, artifact.Repository, artifact.Digest) (bool, error) { return false, nil }}
	return b, &Backfiller{Signer: s, Attester: a, Store: b, Logger: slog.New(slog.DiscardHandler)}
}

// TestBackfill: all is signed and attested, a promotion too; what fails holds up nothing else, and is told in the end.
func TestBackfill(t *testing.T) {
	t.Parallel()
	b, f := newBacklog(t)
	b.fails[b.all[1].Digest] = errors.New("its layer is damaged")
	staging, err := artifact.ParseEnvironment("staging")
	require.NoError(t, err)
	b.all[4].Environments = []artifact.Environment{staging}
	b.promotion = &artifact.Promotion{ID: 1, Digest: b.all[4].Digest, Environment: staging, PolicyHash: artifact.DigestOf(nil)}
	var at backfilled
	again, err := f.turn(t.Context(), &at, time.Now())
	require.ErrorContains(t, err, "1 digests are not attested")
	require.False(t, again)
	require.Equal(t, backfilled{}, at, "the next begins anew")
	require.Len(t, b.tried, 5)
	require.Len(t, b.signed, 4)
	require.Contains(t, b.types(), "https://slsa.dev/verification_summary/v1 staging")

	clear(b.fails)
	_, err = f.turn(t.Context(), &at, time.Now())
	require.NoError(t, err)
	require.Len(t, b.tried, 6, "what was done is left alone")
	require.Len(t, b.signed, 5)
}

// TestBackfillGoesOn: while the key is away nothing else is tried, and then it goes on where it was.
func TestBackfillGoesOn(t *testing.T) {
	t.Parallel()
	b, f := newBacklog(t)
	b.fails[b.all[2].Digest] = artifact.Errorf(artifact.Unavailable, "the KMS does not answer")
	var at backfilled
	_, err := f.turn(t.Context(), &at, time.Now())
	require.ErrorAs(t, err, new(*river.JobSnoozeError))
	require.Equal(t, backfilled{Repository: b.repository(), Digest: b.all[1].Digest, Done: 2}, at)

	// As its row keeps it.
	row, err := json.Marshal(at)
	require.NoError(t, err)
	at = backfilled{}
	require.NoError(t, json.Unmarshal(row, &at))
	clear(b.fails)
	_, err = f.turn(t.Context(), &at, time.Now())
	require.NoError(t, err)
	var want []artifact.Digest
	for _, i := range []int{0, 1, 2, 2, 3, 4} {
		want = append(want, b.all[i].Digest)
	}
	require.Equal(t, want, b.tried)
}

// TestBackfillGivesWay: it waits while somebody pushes.
func TestBackfillGivesWay(t *testing.T) {
	t.Parallel()
	b, f := newBacklog(t)
	asked := 0
	f.Signer.Busy = func() bool {
		asked++
		require.LessOrEqual(t, len(b.signed), asked/3, "before each it asks until nobody pushes")
		return asked%3 != 0
	}
	_, err := f.turn(t.Context(), &backfilled{}, time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Len(t, b.signed, 5)
}
