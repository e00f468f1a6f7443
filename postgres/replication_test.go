package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestReplicationIsOfThePromotion: what follows a promotion is recorded in its transaction, or the promotion is not.
func TestReplicationIsOfThePromotion(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.release("v1")
	failing := errors.New("the queue is away")
	s.db.OnPromoted = func(context.Context, pgx.Tx, artifact.Promotion) error { return failing }
	_, err := s.promote("v1", "dev")
	require.ErrorIs(t, err, failing)
	require.True(t, s.current("dev").IsZero())

	s.db.OnPromoted = func(ctx context.Context, tx pgx.Tx, p artifact.Promotion) error {
		return s.db.QueueReplication(ctx, tx, artifact.Replication{Target: "edge", Repository: p.Repository, Digest: p.Digest, Environment: p.Environment, Version: p.Version})
	}
	s.mustPromote("v1", "dev")
	all, err := s.db.Replications(s.ctx, s.repository, artifact.Replication{}, 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, []any{"edge", v1, "dev", "v1", artifact.ReplicationWaiting}, []any{all[0].Target, all[0].Digest, all[0].Environment.String(), all[0].Version, all[0].State})

	done := all[0]
	done.State, done.Problem, done.Attempts = artifact.ReplicationFailed, "it is away", 3
	require.NoError(t, s.db.SaveReplication(s.ctx, done))
	all, err = s.db.Replications(s.ctx, artifact.Repository{}, artifact.Replication{}, 10)
	require.NoError(t, err)
	require.Equal(t, []any{artifact.ReplicationFailed, "it is away", 3}, []any{all[0].State, all[0].Problem, all[0].Attempts})

	t.Run("what refers to it later has it copied again", func(t *testing.T) {
		sbom := s.put("late SBOM", attached(v1))
		all, err := s.db.Replications(s.ctx, s.repository, artifact.Replication{}, 10)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, []any{artifact.ReplicationWaiting, "v1", ""}, []any{all[0].State, all[0].Version, all[0].Problem})
		closure, err := s.db.Closure(s.ctx, s.repository, v1)
		require.NoError(t, err)
		require.Contains(t, closure, v1)
		require.Contains(t, closure, sbom)
		require.Len(t, closure, 3, "the image, its signature and its SBOM")
	})
	t.Run("a rollback is copied as well", func(t *testing.T) {
		v2 := s.release("v2")
		s.mustPromote("v2", "dev")
		_, err := s.rollback("dev")
		require.NoError(t, err)
		all, err := s.db.Replications(s.ctx, s.repository, artifact.Replication{}, 10)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, v1, all[0].Digest, "the newest")
		require.Equal(t, v2, all[1].Digest)
	})
	require.NoError(t, s.db.Recall(s.ctx, s.repository, v1, "user:ada", "CVE", ""))
	why, err := s.db.RecalledIn(s.ctx, s.repository, v1)
	require.NoError(t, err)
	require.Len(t, why, 1)
}
