package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// severityLimits are the parameters of max-severity.
type severityLimits struct {
	Severity artifact.Severity `yaml:"severity"` // this one and worse deny
	Fixable  bool              `yaml:"fixable"`  // only what has a fix counts
	Grace    Duration          `yaml:"grace"`    // so long after its advisory was published a finding is a warning
	Classes  []string          `yaml:"classes"`  // default: vulnerability
	Unrated  bool              `yaml:"unrated"`  // what nobody has rated counts as the worst
}

// bindMaxSeverity: nothing that bad is known of the image.
func bindMaxSeverity(with Node, given bool) (check, error) {
	limits, err := parameters[severityLimits](with, given)
	if err != nil {
		return nil, err
	}
	if limits.Severity.Rank() < 0 {
		return nil, with.At("$.severity").Errorf("severity is %q; want unknown, low, medium, high or critical: that one and what is worse denies", limits.Severity)
	}
	for i, class := range limits.Classes {
		if !slices.Contains(classes, class) {
			return nil, with.At("$.classes[%d]", i).Errorf("class %q is none; want %s", class, strings.Join(classes, ", "))
		}
	}
	if len(limits.Classes) == 0 {
		limits.Classes = []string{classVulnerability}
	}
	return limits.check, nil
}

func (l severityLimits) check(img Image) []finding {
	if why := notScanned(img); why != nil {
		return why
	}
	var counted []artifact.Finding
	for _, f := range img.Scan.Findings {
		if slices.Contains(l.Classes, f.Class) && l.counts(f) {
			counted = append(counted, f)
		}
	}
	slices.SortStableFunc(counted, func(a, b artifact.Finding) int { return l.rank(b) - l.rank(a) })
	var found []finding
	for _, f := range counted {
		found = append(found, l.finding(f, img))
	}
	return found
}

// rank is a severity's; one that is no known word is taken for the worst.
func (l severityLimits) rank(f artifact.Finding) int {
	if r := f.Severity.Rank(); r > 0 || r == 0 && !l.Unrated {
		return r
	}
	return artifact.Critical.Rank()
}

func (l severityLimits) counts(f artifact.Finding) bool {
	return !f.VEX.Resolved() && l.rank(f) >= l.Severity.Rank() && (!l.Fixable || f.Fixed != "" || f.Class != classVulnerability)
}

func (l severityLimits) finding(f artifact.Finding, img Image) finding {
	message := fmt.Sprintf("%s (%s)", f.ID, f.Severity)
	if f.Package != "" {
		message += fmt.Sprintf(" in %s %s", f.Package, f.Installed)
	}
	if f.Path != "" {
		message += " at /" + strings.TrimPrefix(f.Path, "/")
	}
	switch {
	case f.Class == classVulnerability && f.Fixed != "":
		message += ", fixed in " + f.Fixed + "; update it, or the base image that brings it"
	case f.Class == classVulnerability:
		message += ", for which there is no fix yet; remove it, or have it waived"
	case f.Title != "":
		message += ": " + f.Title
	}
	since := f.PublishedAt
	if since.IsZero() {
		since = f.FoundAt
	}
	// A grace that cannot be counted is over.
	if passed, ok := age(since, img.Now); l.Grace > 0 && ok && passed < l.Grace {
		return finding{id: f.ID, message: fmt.Sprintf("%s; it denies in %s", message, l.Grace-passed), evidence: evidence(f), warning: true}
	}
	return finding{id: f.ID, message: message, evidence: evidence(f)}
}

func evidence(f artifact.Finding) []string {
	all := []string{f.ID}
	for _, text := range []string{f.Package, f.Path} {
		if text != "" {
			all = append(all, text)
		}
	}
	return all
}
