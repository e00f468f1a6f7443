package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"waybill/artifact"
)

// licenseRules are the parameters of allowed-licenses. Patterns are of SPDX ids, in any case: GPL-3.0-*, MIT.
type licenseRules struct {
	Allow   []string `yaml:"allow"`   // empty: all that deny does not name
	Deny    []string `yaml:"deny"`    // comes before allow
	Unknown action   `yaml:"unknown"` // what a package without a licence is: deny (the default), warn or allow
	Except  []string `yaml:"except"`  // patterns of packages that are not asked
}

const allow action = "allow"

// bindAllowedLicenses: every package is under a licence that may be here.
func bindAllowedLicenses(with Node, given bool) (check, error) {
	l, err := parameters[licenseRules](with, given)
	if err != nil {
		return nil, err
	}
	if len(l.Allow)+len(l.Deny) == 0 {
		return nil, with.Errorf("allowed-licenses wants allow, deny or both, such as with: {deny: [AGPL-*, SSPL-*]}")
	}
	if l.Unknown == "" {
		l.Unknown = deny
	}
	if l.Unknown != deny && l.Unknown != warn && l.Unknown != allow {
		return nil, with.At("$.unknown").Errorf("unknown is %q; want deny, warn or allow", l.Unknown)
	}
	for key, patterns := range map[string][]string{"allow": l.Allow, "deny": l.Deny, "except": l.Except} {
		for i, p := range patterns {
			if _, err := path.Match(p, ""); err != nil || p == "" || len(p) > 128 {
				return nil, with.At("$.%s[%d]", key, i).Errorf("pattern %q: want one such as GPL-3.0-* or MIT", p)
			}
			if key != "except" {
				patterns[i] = strings.ToLower(p)
			}
		}
	}
	return l.check, nil
}

func (l licenseRules) check(img Image) []finding {
	if why := notScanned(img); why != nil {
		return why
	}
	refused := map[string][]string{} // packages by why
	permitted := map[string]bool{}   // licences that were judged: packages by the hundred have the same
	add := func(p artifact.Package, why string) {
		refused[why] = append(refused[why], p.Name+" "+p.Version)
	}
	for _, p := range img.Scan.Packages {
		if anyMatch(l.Except, p.Name) {
			continue
		}
		licenses := stated(p.Licenses)
		if len(licenses) == 0 {
			add(p, "")
		}
		for _, license := range licenses {
			ok, judged := permitted[license]
			if !judged {
				ok = l.permits(license)
				permitted[license] = ok
			}
			if !ok {
				add(p, license)
			}
		}
	}
	var found []finding
	for _, license := range sortedKeys(refused) {
		packages := refused[license]
		names := strings.Join(packages[:min(5, len(packages))], ", ")
		if more := len(packages) - 5; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		switch {
		case license != "":
			found = append(found, finding{id: license, evidence: packages, message: fmt.Sprintf("the licence %s is not allowed here: %s; replace them, or have them excepted", shortened(license), names)})
		case l.Unknown != allow:
			found = append(found, finding{evidence: packages, warning: l.Unknown == warn, message: "no licence is known of " + names + "; except them by name, or set unknown"})
		}
	}
	return found
}

// stated drops what says that nothing is said (SPDX 2.3, section 3).
func stated(licenses []string) []string {
	return slices.DeleteFunc(slices.Clone(licenses), func(s string) bool {
		s = strings.ToLower(strings.TrimSpace(s))
		return s == "" || s == "unknown" || s == "noassertion" || s == "none"
	})
}

func anyMatch(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// permits judges one licence, or an expression of them (SPDX 2.3, annex D): of OR one must be permitted, of AND each.
// What cannot be read as an expression is judged by its whole text.
func (l licenseRules) permits(license string) bool {
	parsed, ok := parseLicense(license)
	if !ok {
		return l.permitsID(license)
	}
	return parsed.permitted(l.permitsID)
}

// permitsID judges an id, with its exception if it has one: GPL-2.0-only WITH Classpath-exception-2.0 matches by either.
func (l licenseRules) permitsID(id string) bool {
	id = strings.ToLower(strings.ReplaceAll(id, "/", "-")) // some write GPL-2/Artistic; a pattern's * ends at a slash
	bare, _, _ := strings.Cut(id, " with ")
	matches := func(patterns []string) bool { return anyMatch(patterns, id) || anyMatch(patterns, bare) }
	// An exception takes from what a licence asks, so that allowing it by name goes before denying what it is of.
	if bare != id && anyMatch(l.Allow, id) {
		return true
	}
	return !matches(l.Deny) && (len(l.Allow) == 0 || matches(l.Allow))
}
