package artifact

import (
	"cmp"
	"slices"
	"time"
)

// Severity of a finding, as Trivy names it, in lower case.
type Severity string

// Severities from none to worst; Unknown is what an advisory without one has.
const (
	Unknown  Severity = "unknown"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities in ascending order.
var Severities = []Severity{Unknown, Low, Medium, High, Critical}

// Rank orders severities; -1 for a word that is none.
func (s Severity) Rank() int {
	for i, known := range Severities {
		if s == known {
			return i
		}
	}
	return -1
}

// Finding is a vulnerability, secret or misconfiguration that the scanner reports.
type Finding struct {
	Class     string   `json:"class"` // vulnerability, secret, misconfiguration or license
	ID        string   `json:"id"`    // CVE-2024-24790, the rule of a secret or a misconfiguration, or a license
	Severity  Severity `json:"severity"`
	Package   string   `json:"package,omitempty"`
	Installed string   `json:"installed,omitempty"`
	Fixed     string   `json:"fixed,omitempty"`
	Title     string   `json:"title,omitempty"`
	URL       string   `json:"url,omitempty"`
	Path      string   `json:"path,omitempty"`
	Layer     Digest   `json:"layer,omitzero"` // diff id
	// LockFile says that a lock file names the package: it may not be installed.
	LockFile bool      `json:"lockFile,omitempty"`
	FoundAt  time.Time `json:"foundAt,omitzero"` // when it was first found in the image, and has been since
}

// The classes of findings.
const (
	ClassVulnerability    = "vulnerability"
	ClassSecret           = "secret"
	ClassMisconfiguration = "misconfiguration"
	ClassLicense          = "license"
)

// ScanState says how far a scan is; only Scanned is an answer.
type ScanState string

// The states of a scan. Fail closed: neither pending nor failed is ever clean.
const (
	ScanPending ScanState = "pending"
	Scanned     ScanState = "scanned"
	ScanFailed  ScanState = "failed"
)

// AdvisoryDatabase identifies the advisories a scan was matched with.
type AdvisoryDatabase struct {
	Digest     Digest    `json:"digest"` // of the imported archive
	Schema     int       `json:"schema"`
	UpdatedAt  time.Time `json:"updatedAt"` // when it was built, as its metadata says
	ImportedAt time.Time `json:"importedAt"`
	ImportedBy string    `json:"importedBy"`
}

// Scan is the newest scan of one image.
type Scan struct {
	Digest            Digest           `json:"digest"`
	State             ScanState        `json:"state"`
	Reason            string           `json:"reason,omitempty"` // of pending and failed
	ScannedAt         time.Time        `json:"scannedAt,omitzero"`
	DatabaseDigest    Digest           `json:"databaseDigest,omitzero"`
	DatabaseUpdatedAt time.Time        `json:"databaseUpdatedAt,omitzero"`
	Packages          []Package        `json:"packages,omitempty"`
	Findings          []Finding        `json:"findings,omitempty"`
	Counts            map[Severity]int `json:"counts,omitempty"` // of vulnerabilities

	Contents        []byte `json:"-"` // what the scanner needs to match again, opaque; kept, and not read by Scan
	Vulnerabilities Digest `json:"-"` // of those in Findings
}

// Rematch is an image whose stored contents another advisory database is to be matched with.
type Rematch struct {
	Digest          Digest
	Contents        []byte
	Vulnerabilities Digest // found by the database before
}

// SortFindings puts the worst first; what it leaves undecided is the same finding.
func SortFindings(all []Finding) {
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(b.Severity.Rank()-a.Severity.Rank(), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Installed, b.Installed), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Title, b.Title))
	})
}

// CountFindings counts vulnerabilities by severity.
func CountFindings(all []Finding) map[Severity]int {
	counts := map[Severity]int{}
	for _, f := range all {
		if f.Class == ClassVulnerability {
			counts[f.Severity]++
		}
	}
	return counts
}

// Worst returns the highest severity among vulnerabilities, and "" when there is none.
func (s Scan) Worst() Severity {
	worst := Severity("")
	for severity, n := range s.Counts {
		if n > 0 && severity.Rank() > worst.Rank() {
			worst = severity
		}
	}
	return worst
}
