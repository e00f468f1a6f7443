package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"waybill/artifact"
)

// Duration is a time that may pass, written 168h, 90m or 30d.
type Duration time.Duration

// maxDuration is more than anybody waits, and far from what overflows.
const maxDuration = Duration(100 * 365 * 24 * time.Hour)

// ParseDuration parses strictly: above 0, of Go's units or whole days.
func ParseDuration(text string) (Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int64
		if n, err = strconv.ParseInt(days, 10, 16); err == nil {
			d = time.Duration(n) * 24 * time.Hour
		}
	}
	if err != nil || d <= 0 || Duration(d) > maxDuration {
		return 0, artifact.Errorf(artifact.Invalid, "duration %.60q: want one above 0, such as 168h or 30d", text)
	}
	return Duration(d), nil
}

// UnmarshalYAML is ParseDuration of a scalar; its error knows where that stands.
func (d *Duration) UnmarshalYAML(n ast.Node) (err error) {
	if *d, err = ParseDuration(n.GetToken().Value); err != nil {
		return &yaml.SyntaxError{Message: err.Error(), Token: n.GetToken()}
	}
	return nil
}

// String writes whole days as such, and else hours and minutes.
func (d Duration) String() string {
	day := Duration(24 * time.Hour)
	switch {
	case d >= day:
		return fmt.Sprintf("%d d", d/day)
	case d >= Duration(time.Hour):
		return fmt.Sprintf("%d h", d/Duration(time.Hour))
	}
	return time.Duration(d).Round(time.Second).String()
}

// age returns how long ago something was. ok is false when that cannot be told: no moment to count from, none to count
// to, or one that is yet to come.
func age(of, now time.Time) (d Duration, ok bool) {
	if now.IsZero() || of.Unix() <= 0 || of.After(now) {
		return 0, false
	}
	return Duration(now.Sub(of)), true
}
