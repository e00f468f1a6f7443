package promotion

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a zone is the same wherever the server runs

	"github.com/robfig/cron/v3"

	"waybill/artifact"
)

// Freeze is a window that comes again and again, in which nothing is promoted to an environment. It begins when the
// clocks of a time zone show what Cron says, and lasts For.
type Freeze struct {
	Cron     string
	For      time.Duration
	Timezone string

	schedule *cron.SpecSchedule // in wall-clock time: its location is UTC whatever the zone is
	zone     *time.Location
}

// Bounds of a freeze. Windows that touch or overlap are one, and one that has no end for maxFrozen has none.
const (
	maxCron   = 100 // bytes
	maxFor    = 92 * 24 * time.Hour
	maxFrozen = 366 * 24 * time.Hour
)

// NewFreeze compiles a window: five fields of cron, or @hourly, @daily, @weekly, @monthly or @yearly; an IANA time zone,
// UTC when it is empty.
func NewFreeze(spec string, length time.Duration, timezone string) (Freeze, error) {
	f := Freeze{Cron: strings.Join(strings.Fields(spec), " "), For: length, Timezone: timezone}
	invalid := func(format string, args ...any) (Freeze, error) {
		return Freeze{}, artifact.Errorf(artifact.Invalid, format, args...)
	}
	// The library takes a zone before the fields; here it has a key of its own.
	if len(spec) > maxCron || strings.Contains(spec, "=") {
		return invalid("cron %.100q: want five fields, such as 0 16 * * 5, and the time zone as timezone", spec)
	}
	schedule, err := cron.ParseStandard(f.Cron)
	if err != nil {
		return invalid("cron %.100q: %v; want five fields, such as 0 16 * * 5", spec, err)
	}
	var ok bool
	if f.schedule, ok = schedule.(*cron.SpecSchedule); !ok {
		return invalid("cron %.100q: a window begins at times of the clock; want five fields, such as 0 16 * * 5", spec)
	}
	f.schedule.Location = time.UTC
	if length < time.Minute || length > maxFor {
		return invalid("for is %s; a window lasts a minute at least and %d days at most", length, maxFor/(24*time.Hour))
	}
	if f.Timezone == "" {
		f.Timezone = "UTC"
	}
	if f.zone, err = time.LoadLocation(f.Timezone); err != nil || strings.EqualFold(f.Timezone, "local") {
		return invalid("timezone %.60q is not known; want one such as Europe/Berlin or UTC", timezone)
	}
	if f.schedule.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return invalid("cron %.100q never comes", spec)
	}
	return f, nil
}

// Until returns when the window that holds at an instant ends, with those that follow it without a gap; ok is false when
// none holds. The zero time is an end that is not in sight.
//
// On the day on which clocks are put forward, a window that begins in the hour that is left out begins as that hour
// would; on the day on which they are put back, one that begins in the hour that is shown twice begins at both.
func (f Freeze) Until(now time.Time) (end time.Time, ok bool) {
	for _, start := range f.starts(now.Add(-f.For), now) {
		if until := start.Add(f.For); !start.After(now) && until.After(now) && until.After(end) {
			end, ok = until, true
		}
	}
	if !ok {
		return time.Time{}, false
	}
	for from := now; ; {
		longer := end
		for _, start := range f.starts(from, end) {
			if until := start.Add(f.For); !start.After(end) && until.After(longer) {
				longer = until
			}
		}
		if longer.Equal(end) {
			return end.In(f.zone), true
		}
		if longer.Sub(now) > maxFrozen {
			return time.Time{}, true
		}
		from, end = end.Add(-time.Minute), longer
	}
}

// starts returns instants at which a window begins: all between from and to, and maybe some around these.
func (f Freeze) starts(from, to time.Time) []time.Time {
	const slack = 3 * time.Hour // more than any clock is ever put back or forward at once
	wall := func(t time.Time) time.Time {
		_, offset := t.In(f.zone).Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	last := wall(to).Add(slack)
	// A window a minute, over 92 days, would be a hundred thousand starts; the first and the last of a dense run say as much.
	var all []time.Time
	for at := f.schedule.Next(wall(from).Add(-slack)); !at.IsZero() && !at.After(last) && len(all) < maxStarts; at = f.schedule.Next(at) {
		all = append(all, f.instants(at)...)
	}
	if len(all) >= maxStarts { // what is left is nearer to the end, which decides
		for at := f.schedule.Next(wall(to).Add(-2 * slack)); !at.IsZero() && !at.After(last); at = f.schedule.Next(at) {
			all = append(all, f.instants(at)...)
		}
	}
	return all
}

const maxStarts = 5000

// instants are those at which the zone's clocks show a time: one, two when they are put back over it, and when they are
// put forward over it the one at which they are.
func (f Freeze) instants(wall time.Time) []time.Time {
	_, before := wall.Add(-24 * time.Hour).In(f.zone).Zone()
	_, after := wall.Add(24 * time.Hour).In(f.zone).Zone()
	var all []time.Time
	for i, offset := range []int{before, after} {
		at := wall.Add(-time.Duration(offset) * time.Second)
		if _, there := at.In(f.zone).Zone(); there == offset && (i == 0 || before != after) {
			all = append(all, at)
		}
	}
	if len(all) == 0 {
		_, changed := wall.Add(-time.Duration(max(before, after)) * time.Second).In(f.zone).ZoneBounds()
		all = append(all, changed)
	}
	return all
}

// unmet says of the freezes that hold when they end; the zero time: that is not in sight.
func unmetFreezes(all []Freeze, now time.Time) (reasons []artifact.Reason) {
	for _, f := range all {
		end, frozen := f.Until(now)
		switch {
		case !frozen:
		case end.IsZero():
			reasons = append(reasons, artifact.Reason{Rule: "freeze", Message: fmt.Sprintf("it is frozen by %s, whose windows follow each other without end; change the pipeline", f)})
		default:
			reasons = append(reasons, artifact.Reason{Rule: "freeze", Awaits: artifact.AwaitsTime, Until: end.UTC(),
				Message: fmt.Sprintf("it is frozen until %s by %s; promote it then", end.Format("Monday 2006-01-02T15:04Z07:00"), f)})
		}
	}
	return reasons
}

// String is the window as it was written.
func (f Freeze) String() string { return fmt.Sprintf("%s for %s in %s", f.Cron, f.For, f.Timezone) }
