package jobs_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/jobs"
)

func TestNextPull(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339, "2026-11-21T"+text+":00Z")
		require.NoError(t, err)
		return parsed
	}
	for _, c := range []struct{ what, last, problem, now, want string }{
		{"one that went well holds until the next period of six hours", "13:00", "", "14:00", "18:10"},
		{"one that failed is tried again", "13:00", "it is away", "13:04", "13:10"},
		{"none was yet", "", "", "13:04", "13:14"},
		{"it is due", "05:00", "", "13:04", "13:14"},
	} {
		last := artifact.AdvisoryPull{Problem: c.problem}
		if c.last != "" {
			last.At = at(c.last)
		}
		require.Equal(t, at(c.want), jobs.NextPull(last, 6*time.Hour, at(c.now)), c.what)
	}
}
