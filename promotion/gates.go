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
	Reached    []artifact.Environment             // where it was promoted to and not recalled from
	Since      map[artifact.Environment]time.Time // of those: the last time
	KeyID      string                             // of the key that signed it
	KeyRefused string                             // why signatures of that key do not count: it was revoked, or is not the service's; "": they do
	Signature  artifact.Digest                    // of the artifact that carries its signature; zero: it is not signed
	Scans      []artifact.Scan                    // of the image, or of each image of an index
	Recalled   []string                           // who withdrew it, or a part of it, and why
	Approvals  []artifact.Approval                // that were not revoked, for any environment
	Pushers    []string                           // who pushed it, or a part of it, anywhere

	// Attested are, of each attestation that the stage asks for, the predicates of those that were verified.
	Attested [][]map[string]any
	Against  [][]string // likewise why others do not count
}

// Asked is who asks for a promotion, and when.
type Asked struct {
	Actor      string
	Repository artifact.Repository
	Digest     artifact.Digest
	Version    string
	Reason     string
	At         time.Time
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

// Unmet evaluates every gate of a stage and returns those that are not met, each with what would meet it. It is pure.
func (stage Stage) Unmet(e Evidence, a Asked) []artifact.Reason {
	var unmet []artifact.Reason
	add := func(gate string, awaits artifact.Awaited, format string, args ...any) {
		unmet = append(unmet, artifact.Reason{Rule: gate, Awaits: awaits, Message: fmt.Sprintf(format, args...)})
	}
	for _, why := range e.Recalled {
		add("recalled", "", "%s; promote another digest", why)
	}
	for _, earlier := range stage.Requires.After {
		if !contains(e.Reached, earlier) {
			add("after", artifact.AwaitsPeople, "it was not promoted to %s; promote it there first", earlier)
		}
	}
	unmet = append(unmet, stage.Requires.unsoaked(e, a.At)...)
	switch {
	case e.Signature.IsZero():
		add("signed", artifact.AwaitsWork, "it is not signed yet; signing follows a push by some seconds, so try again, or with --wait, or look at `waybill verdict` for why it is not")
	case e.KeyRefused != "":
		add("signed", artifact.AwaitsWork, "it is signed by key %.12s alone, which %s; it is signed again by the key in force if policy allows it still, so try again, or push it again", e.KeyID, e.KeyRefused)
	}
	if gate := stage.Requires.Scan; gate != nil {
		unmet = append(unmet, gate.unmet(e.Scans, a.At)...)
	}
	for i, gate := range stage.Requires.Attestations {
		var verified []map[string]any
		if i < len(e.Attested) {
			verified = e.Attested[i]
		}
		var against []string
		if i < len(e.Against) {
			against = e.Against[i]
		}
		unmet = append(unmet, gate.unmet(verified, against)...)
	}
	if gate := stage.Requires.Expression; gate != nil {
		unmet = append(unmet, gate.unmet(stage.Environment, e, a)...)
	}
	if gate := stage.Requires.Approvals; gate != nil {
		unmet = append(unmet, gate.unmet(stage.Environment, e, a.Actor)...)
	}
	return append(unmet, unmetFreezes(stage.Freezes, a.At)...)
}

// unsoaked says of the environments before how long the digest must stay there still.
func (r Requires) unsoaked(e Evidence, now time.Time) (reasons []artifact.Reason) {
	for _, earlier := range r.After {
		if r.Soak == 0 || !contains(e.Reached, earlier) { // not there at all: `after` says so
			continue
		}
		since := e.Since[earlier]
		if until := since.Add(r.Soak); until.After(now) {
			reasons = append(reasons, artifact.Reason{Rule: "soak", Awaits: artifact.AwaitsTime, Until: until.UTC(), Message: fmt.Sprintf("it is in %s since %s, and has to be for %s; promote it from %s on",
				earlier, since.UTC().Format(time.RFC3339), r.Soak, until.UTC().Format(time.RFC3339))})
		}
	}
	return reasons
}

func (g ScanGate) unmet(scans []artifact.Scan, now time.Time) (why []artifact.Reason) {
	add := func(awaits artifact.Awaited, format string, args ...any) {
		why = append(why, artifact.Reason{Rule: "scan", Awaits: awaits, Message: fmt.Sprintf(format, args...)})
	}
	if len(scans) == 0 {
		add("", "it has no image that was scanned; this environment wants %s", g)
	}
	for _, scan := range scans {
		of := ""
		if len(scans) > 1 {
			of = " of " + scan.Digest.Short()
		}
		switch {
		case scan.State != artifact.Scanned:
			add(artifact.AwaitsWork, "the scan%s is %s: %s", of, scan.State, scan.Reason)
			continue
		case g.MaxAge > 0 && now.Sub(scan.ScannedAt) > g.MaxAge:
			add(artifact.AwaitsWork, "the scan%s is %s old, over the %v allowed; import a newer advisory database to have it scanned again",
				of, now.Sub(scan.ScannedAt).Round(time.Minute), g.MaxAge)
		}
		if g.Severity != "" {
			if bad := g.severe(scan); len(bad) > 0 {
				add("", "the scan%s found %d of severity %s or worse: %s; fix them and build anew", of, len(bad), g.Severity, strings.Join(bad[:min(5, len(bad))], ", "))
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
