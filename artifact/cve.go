package artifact

import "time"

// Affected is an image that has a finding, in one repository.
type Affected struct {
	Repository Repository  `json:"repository"`
	Digest     Digest      `json:"digest"`
	Platform   string      `json:"platform,omitempty"`
	Indexes    []Digest    `json:"indexes,omitempty"` // that name the image
	Tags       []Tag       `json:"tags,omitempty"`    // that stand at the image, or at one of those
	Findings   []Finding   `json:"findings"`          // one for each package
	FoundAt    time.Time   `json:"foundAt"`           // since when it is known of the image
	PromotedAt time.Time   `json:"promotedAt,omitzero"`
	RunsIn     []Affecting `json:"runsIn,omitempty"` // environments whose current digest has it
}

// Affecting is an environment whose current digest is an affected image, or an index with one.
type Affecting struct {
	Environment Environment `json:"environment"`
	Digest      Digest      `json:"digest"`
	Version     string      `json:"version,omitempty"`
	Since       time.Time   `json:"since"`
}
