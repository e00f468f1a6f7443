package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
)

// TestBuildChanges: who follows a build at another replica is told what it says and when it ends; who builds it, that it is to.
func TestBuildChanges(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.db.OnBuild = func(context.Context, pgx.Tx, string) error { return nil }
	other, err := postgres.Open(t.Context(), postgres.Config{URL: s.db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	defer other.Close()
	run := postgres.BuildRun{Build: artifact.Build{ID: "RUN", Repository: s.repository, Key: artifact.DigestOf([]byte("key"))}, Request: []byte(`{}`), Context: artifact.DigestOf([]byte("context")).String()}
	_, err = s.db.AddBuildRun(t.Context(), run)
	require.NoError(t, err)
	next, leave := other.BuildChanges("RUN")
	defer leave()
	cancelled, leaveToo := other.BuildCancelled("RUN")
	defer leaveToo()
	told := func(what string, next func() <-chan struct{}, change func() error) {
		t.Helper()
		heard := next()
		require.NoError(t, change())
		select {
		case <-heard:
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody was told of %s", what)
		}
	}
	told("who builds it", next, func() error { _, _, err := s.db.ClaimBuildRun(t.Context(), "RUN", "me"); return err })
	told("what it says", next, func() error { _, err := s.db.AppendBuildLog(t.Context(), "RUN", []byte("{}")); return err })
	told("its end", cancelled, func() error { return s.db.CancelBuildRun(t.Context(), "RUN", "ada") })
	told("its state", next, func() error {
		run.State = artifact.BuildCancelled
		return s.db.EndBuildRun(t.Context(), "me", run.Build)
	})
}
