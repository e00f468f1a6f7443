package promotion

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// Evidence is what is known of a digest when its gates are evaluated.
type Evidence struct {
	Reached   []artifact.Environment // where it was promoted to and not recalled from
	KeyID     string                 // of the key that signed it
	Signature artifact.Digest        // of the artifact that carries its signature; zero: it is not signed
	Scans     []artifact.Scan        // of the image, or of each image of an index
	Recalled  []string               // who withdrew it, or a part of it, and why
}

// digests is what a ledger entry names of the evidence.
func (e Evidence) digests() []artifact.Digest {
	var all []artifact.Digest
	add := func(d artifact.Digest) {
		if !d.IsZero() && !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	add(e.Signature)
	for _, scan := range e.Scans {
		add(scan.DatabaseDigest)
	}
	return all
}

// Unmet evaluates every gate of a stage and returns those that are not met, each with what would meet it. keyID is that
// of the signing key in force; "" takes a signature by any of the service's keys. It is pure: now is a parameter.
func (s Stage) Unmet(e Evidence, keyID string, now time.Time) []artifact.Reason {
	var unmet []artifact.Reason
	add := func(gate, format string, args ...any) {
		unmet = append(unmet, artifact.Reason{Rule: gate, Message: fmt.Sprintf(format, args...)})
	}
	for _, why := range e.Recalled {
		add("recalled", "%s; promote another digest", why)
	}
	for _, earlier := range s.Requires.After {
		if !contains(e.Reached, earlier) {
			add("after", "it was not promoted to %s; promote it there first", earlier)
		}
	}
	switch {
	case e.Signature.IsZero():
		add("signed", "it is not signed yet; signing follows a push by some seconds, so try again, or look at `waybill verdict` for why it is not")
	case keyID != "" && e.KeyID != keyID:
		add("signed", "it is signed by key %s, which is no longer in force; push it again to have it signed by %s", e.KeyID, keyID)
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

// severe counts vulnerabilities and secrets. Licenses and misconfigurations are graded by another measure, and for rules of
// their own; what VEX resolved is none.
func (g ScanGate) severe(scan artifact.Scan) []string {
	var bad []string
	for _, f := range scan.Findings {
		if f.Class == artifact.ClassLicense || f.Class == artifact.ClassMisconfiguration || f.VEX.Resolved() {
			continue
		}
		if f.Severity.Rank() < 0 || f.Severity.Rank() >= g.Severity.Rank() { // a word that is none is no proof of harmlessness
			bad = append(bad, f.ID)
		}
	}
	return bad
}

func contains(all []artifact.Environment, e artifact.Environment) bool {
	return slices.Contains(all, e)
}
