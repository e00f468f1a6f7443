package artifact

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
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
	Class     string      `json:"class"` // vulnerability, secret, misconfiguration or license
	ID        string      `json:"id"`    // CVE-2024-24790, the rule of a secret or a misconfiguration, or a license
	Severity  Severity    `json:"severity"`
	Package   string      `json:"package,omitempty"`
	Installed string      `json:"installed,omitempty"`
	Fixed     string      `json:"fixed,omitempty"`
	Title     string      `json:"title,omitempty"`
	URL       string      `json:"url,omitempty"`
	PURL      string      `json:"purl,omitempty"` // of the package
	Path      string      `json:"path,omitempty"`
	Layer     Digest      `json:"layer,omitzero"` // diff id
	VEX       *Assessment `json:"vex,omitempty"`  // what somebody who is trusted says of it; set at evaluation, not stored
	// LockFile says that a lock file names the package: it may not be installed.
	LockFile    bool      `json:"lockFile,omitempty"`
	PublishedAt time.Time `json:"publishedAt,omitzero"` // when the advisory was
	FoundAt     time.Time `json:"foundAt,omitzero"`     // when it was first found in the image, and has been since
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

// AdvisoryPull is an attempt to bring an advisory database from a registry.
type AdvisoryPull struct {
	Source  string    `json:"source"`
	At      time.Time `json:"at"`
	Problem string    `json:"problem,omitempty"` // empty: it went well
	Actor   string    `json:"actor"`
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

	// UnnamedJars says that there are jars that do not say what they are: the Java database tells, as far as it knows them,
	// and without one they are not matched.
	UnnamedJars        bool   `json:"unnamedJars,omitempty"`
	JavaDatabaseDigest Digest `json:"javaDatabaseDigest,omitzero"` // of the one that was asked

	Contents        []byte `json:"-"` // what the scanner needs to match again, opaque; kept, and not read by Scan
	Vulnerabilities []byte `json:"-"` // hashes of those in Findings, as the scanner packs them
}

// Rematch is an image whose stored contents another advisory database is to be matched with.
type Rematch struct {
	Digest          Digest
	Contents        []byte
	Vulnerabilities []byte // hashes of what the database before found
}

// Rematched is what another database changes of an image's vulnerabilities.
type Rematched struct {
	Digest          Digest
	Gone            []int64 // hashes
	Added           []Finding
	Vulnerabilities []byte // hashes of all
	Counts          map[Severity]int
}

// ScanBacklog counts images without an answer of the advisory database in force.
type ScanBacklog struct {
	Pending  int64 // never scanned
	Failed   int64
	Outdated int64 // scanned by another database
}

// ScanCoverage counts the images that some repository holds by how far they are with the advisory database in force.
type ScanCoverage struct {
	Matched  int64 `json:"matched" doc:"With the database in use"`
	Outdated int64 `json:"outdated" doc:"With another one; they are matched again by themselves"`
	Pending  int64 `json:"pending" doc:"Never"`
	Failed   int64 `json:"failed"`
}

// ScanEvent tells of an image whose first scan ended, or of which another scan found other vulnerabilities.
type ScanEvent struct {
	Digest            Digest           `json:"digest"`
	Repositories      []Repository     `json:"repositories"` // that hold it
	ScannedAt         time.Time        `json:"scannedAt"`
	DatabaseDigest    Digest           `json:"databaseDigest"`
	DatabaseUpdatedAt time.Time        `json:"databaseUpdatedAt"`
	Counts            map[Severity]int `json:"counts"` // of vulnerabilities
	First             bool             `json:"first"`
	Added             int              `json:"added"` // vulnerabilities that the scan before did not find
	Gone              int              `json:"gone"`  // and that only it found
}

// Hash identifies what a finding says: all but when it was found.
func (f Finding) Hash() int64 {
	f.FoundAt = time.Time{}
	b, _ := json.Marshal(f) // texts and numbers: it cannot fail
	sum := sha256.Sum256(b)
	return int64(binary.BigEndian.Uint64(sum[:]))
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
