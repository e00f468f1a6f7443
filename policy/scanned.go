package policy

import "waybill/artifact"

// notScanned says why findings cannot be counted on; nil when they can. What was not scanned is never clean.
func notScanned(img Image) []finding {
	scan := img.Scan
	switch {
	case scan.State == artifact.Scanned && (scan.Digest.IsZero() || scan.Digest == img.Subject.Digest):
		return nil
	case scan.State == artifact.Scanned:
		return []finding{{message: "the scan at hand is of another image, " + scan.Digest.String() + "; push the image again"}}
	case scan.State == artifact.ScanFailed:
		return []finding{{message: "the image could not be scanned: " + scan.Reason + "; an image that cannot be scanned is not taken for clean"}}
	case scan.Reason != "":
		return []finding{{message: "the image is not scanned yet: " + scan.Reason}}
	}
	return []finding{{message: "the image is not scanned yet; without an advisory database no scan ends, and an admin imports one with `waybill db import FILE`"}}
}

// rulesOnScans ask what the scanner found: no other rule wants a scan looked up.
var rulesOnScans = []string{"max-severity", "no-secrets", "allowed-licenses", "expression"}

// Classes of findings, as artifact.Finding has them.
const (
	classVulnerability    = "vulnerability"
	classSecret           = "secret"
	classMisconfiguration = "misconfiguration"
	classLicense          = "license"
)

var classes = []string{classVulnerability, classSecret, classMisconfiguration, classLicense}
