package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

type scanStates struct {
	away  bool
	asked int
}

func (s *scanStates) AdvisoryDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return artifact.AdvisoryDatabase{UpdatedAt: testTime.Add(-2 * time.Hour)}, true, nil
}

func (s *scanStates) JavaDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return artifact.AdvisoryDatabase{}, false, nil
}

func (s *scanStates) ScanBacklog(context.Context) (artifact.ScanBacklog, error) {
	s.asked++
	if s.away {
		return artifact.ScanBacklog{}, errors.New("away")
	}
	return artifact.ScanBacklog{Pending: 3, Outdated: 7}, nil
}

// TestScanMetrics: a scrape tells ages and backlog, counts at most twice a minute, and goes without while the database is
// away.
func TestScanMetrics(t *testing.T) {
	t.Parallel()
	now, states := testTime, &scanStates{away: true}
	m := &scanMetrics{db: states, logger: slog.New(slog.DiscardHandler), now: func() time.Time { return now }}
	require.Zero(t, testutil.CollectAndCount(m))
	states.away = false
	const want = `
# HELP waybill_database_age_seconds Seconds since the database in force was built, by database: advisories or java. None where there is no such database.
# TYPE waybill_database_age_seconds gauge
waybill_database_age_seconds{database="advisories"} 7200
# HELP waybill_scans_open Images without an answer of the advisory database in force, by why: pending (never scanned), failed, or outdated (to be matched anew).
# TYPE waybill_scans_open gauge
waybill_scans_open{state="failed"} 0
waybill_scans_open{state="outdated"} 7
waybill_scans_open{state="pending"} 3
`
	require.NoError(t, testutil.CollectAndCompare(m, strings.NewReader(want)))
	now = now.Add(scrapeAgain - time.Second)
	require.Equal(t, 4, testutil.CollectAndCount(m))
	require.Equal(t, 2, states.asked, "what was counted is told again")
	now = now.Add(time.Second)
	require.Equal(t, 4, testutil.CollectAndCount(m))
	require.Equal(t, 3, states.asked)
}
