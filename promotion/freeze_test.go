package promotion

import (
	"os"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestFreeze(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/freezes.yaml")
	require.NoError(t, err)
	var cases []struct {
		Name, Cron, Timezone, Until, Error string
		For                                time.Duration
		At                                 time.Time
	}
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.NotEmpty(t, cases)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			f, err := NewFreeze(c.Cron, c.For, c.Timezone)
			if c.Error != "" {
				require.ErrorContains(t, err, c.Error)
				require.Equal(t, artifact.Invalid, artifact.KindOf(err))
				return
			}
			require.NoError(t, err)
			end, frozen := f.Until(c.At)
			require.Equal(t, c.Until != "", frozen, "%s", end)
			switch {
			case c.Until == "never":
				require.Zero(t, end)
				require.Empty(t, unmetFreezes([]Freeze{f}, c.At)[0].Awaits, "there is nothing to wait for")
			case frozen:
				require.Equal(t, c.Until, end.UTC().Format(time.RFC3339))
				unmet := unmetFreezes([]Freeze{f}, c.At)
				require.Len(t, unmet, 1)
				require.Equal(t, artifact.AwaitsTime, unmet[0].Awaits)
				_, still := f.Until(unmet[0].Until)
				require.False(t, still, "at the end that is told it is over")
			default:
				require.Empty(t, unmetFreezes([]Freeze{f}, c.At))
			}
		})
	}
}

// TestFreezeOfEveryMinute holds the windows of a year in a zone with summer time against a clock that is read each quarter
// of an hour.
func TestFreezeOfEveryMinute(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/New_York")
	require.NoError(t, err)
	f, err := NewFreeze("15 1 * * *", 30*time.Minute, "America/New_York")
	require.NoError(t, err)
	for at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() == 2026; at = at.Add(15 * time.Minute) {
		_, frozen := f.Until(at)
		local := at.In(zone)
		require.Equal(t, local.Hour() == 1 && (local.Minute() == 15 || local.Minute() == 30), frozen, "%s", local)
	}
}

func FuzzFreeze(f *testing.F) {
	f.Add("0 16 * * 5", int64(64*time.Hour), "Europe/Berlin", int64(1795255200))
	f.Add("*/7 1-3,5 1,29 2 1-5", int64(time.Hour), "", int64(0))
	f.Fuzz(func(t *testing.T, spec string, length int64, zone string, at int64) {
		w, err := NewFreeze(spec, time.Duration(length), zone)
		if err != nil {
			if artifact.KindOf(err) != artifact.Invalid {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		now := time.Unix(at%(1<<33), 0)
		if end, frozen := w.Until(now); frozen && !end.IsZero() && !end.After(now) {
			t.Fatalf("%s: at %s it is frozen until %s", w, now, end)
		}
	})
}
