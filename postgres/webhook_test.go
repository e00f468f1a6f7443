package postgres_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
)

// TestQueueDeliveries: every entry is told of once, or, when that failed, again.
func TestQueueDeliveries(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.release("v1")
	s.mustPromote("v1", "dev")
	message := func(index int64, e ledger.Entry) ([]artifact.Delivery, error) {
		if e.Kind != ledger.KindPromotion {
			return nil, nil
		}
		return []artifact.Delivery{{ID: "msg_" + strconv.FormatInt(index, 10), Webhook: "chat", Type: e.Kind, Body: "{}"}}, nil
	}
	broken := errors.New("no job")
	_, err := s.db.QueueDeliveries(s.ctx, message, func(context.Context, pgx.Tx, []string) error { return broken })
	require.ErrorIs(t, err, broken)
	var told []string
	insert := func(_ context.Context, _ pgx.Tx, ids []string) error { told = append(told, ids...); return nil }
	for {
		n, err := s.db.QueueDeliveries(s.ctx, message, insert)
		require.NoError(t, err)
		if n == 0 {
			break
		}
	}
	require.Len(t, told, 1)
	d, err := s.db.Delivery(s.ctx, told[0])
	require.NoError(t, err)
	require.Equal(t, artifact.DeliveryWaiting, d.State)
	d.State, d.Attempts, d.Status, d.Problem = artifact.DeliveryFailed, 3, 500, "it answered 500"
	require.NoError(t, s.db.SaveDelivery(s.ctx, d))
	s.mustPromote("v1", "staging")
	_, err = s.db.QueueDeliveries(s.ctx, message, insert)
	require.NoError(t, err)
	require.Len(t, told, 2)
	all, err := s.db.Deliveries(s.ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, told[1], all[0].ID, "newest first")
	require.Equal(t, 500, all[1].Status)
	_, err = s.db.Delivery(s.ctx, "msg_none")
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}
