package artifact

import "time"

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
	ID        string   `json:"id"`    // CVE-2024-24790, or the rule of a secret
	Severity  Severity `json:"severity"`
	Package   string   `json:"package,omitempty"`
	Installed string   `json:"installed,omitempty"`
	Fixed     string   `json:"fixed,omitempty"`
	Title     string   `json:"title,omitempty"`
	URL       string   `json:"url,omitempty"`
	Path      string   `json:"path,omitempty"`
	Layer     Digest   `json:"layer,omitzero"` // diff id
	// PublishedAt is when the advisory was, FirstSeenAt when a scan here first had it; zero where that is not known.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	FirstSeenAt time.Time `json:"firstSeenAt,omitzero"`
}

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
