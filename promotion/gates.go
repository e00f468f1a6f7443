package promotion

import (
	"fmt"
	"strings"
	"time"

	"waybill/artifact"
)

// Evidence is what is known of a digest when its gates are evaluated.
type Evidence struct {
	Reached  []artifact.Environment // where it was promoted to and not recalled from
	Signed   bool                   // by the key in force
	Scans    []artifact.Scan        // of the image, or of each image of an index
	Recalled string                 // who withdrew it and why; "" when nobody did
}

// Unmet evaluates every gate of a stage and returns those that are not met, each with what would meet it. It is pure:
// now is a parameter.
func (s Stage) Unmet(e Evidence, now time.Time) []artifact.Reason {
	var unmet []artifact.Reason
	add := func(gate, format string, args ...any) {
		unmet = append(unmet, artifact.Reason{Rule: gate, Message: fmt.Sprintf(format, args...)})
	}
	if e.Recalled != "" {
		add("recalled", "%s; promote another digest", e.Recalled)
	}
	for _, earlier := range s.Requires.After {
		if !contains(e.Reached, earlier) {
			add("after", "it was not promoted to %s; promote it there first", earlier)
		}
	}
	if !e.Signed {
		add("signed", "it is not signed yet; signing follows a push by some seconds, so try again, or look at `waybill verdict` for why it is not")
	}
	if gate := s.Requires.Scan; gate != nil {
		for _, why := range gate.unmet(e.Scans, now) {
			add("scan", "%s", why)
		}
	}
	return unmet
}

func (g ScanGate) unmet(scans []artifact.Scan, now time.Time) []string {
	if len(scans) == 0 {
		return []string{"it has no image that was scanned; this environment wants " + g.String()}
	}
	var why []string
	for _, scan := range scans {
		of := ""
		if len(scans) > 1 {
			of = " of " + scan.Digest.Short()
		}
		switch {
		case scan.State != artifact.Scanned:
			why = append(why, fmt.Sprintf("the scan%s is %s: %s", of, scan.State, scan.Reason))
			continue
		case g.MaxAge > 0 && now.Sub(scan.ScannedAt) > g.MaxAge:
			why = append(why, fmt.Sprintf("the scan%s is %s old, over the %v allowed; import a newer advisory database to have it scanned again",
				of, now.Sub(scan.ScannedAt).Round(time.Minute), g.MaxAge))
		}
		if g.Severity != "" {
			if bad := g.severe(scan); len(bad) > 0 {
				why = append(why, fmt.Sprintf("the scan%s found %d of severity %s or worse: %s; fix them and build anew", of, len(bad), g.Severity, strings.Join(bad[:min(5, len(bad))], ", ")))
			}
		}
	}
	return why
}

func (g ScanGate) severe(scan artifact.Scan) []string {
	var bad []string
	for _, f := range scan.Findings {
		if f.Severity.Rank() >= g.Severity.Rank() {
			bad = append(bad, f.ID)
		}
	}
	return bad
}

func contains(all []artifact.Environment, e artifact.Environment) bool {
	for _, a := range all {
		if a == e {
			return true
		}
	}
	return false
}
