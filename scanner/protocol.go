// Package scanner is the scanner process as the server sees it: how to talk to it, and the client that starts it when
// there is work, bounds it, and ends it when there is none.
package scanner

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"waybill/artifact"
)

// Messages are length-prefixed (four bytes, big-endian) JSON. The child says Hello, then answers each Request with one
// Response. A layer's file comes beside its request, by SCM_RIGHTS on descriptor 3. A process sees one advisory database
// in its life, or none, and one Java database, or none: their folders are open from the start, as descriptors from 5 on,
// and Database and Java say as which.

// Database is the variable that names the folder of the process's advisory database, and Java that of its Java database;
// neither is set where there is none.
const (
	Database = "WAYBILL_DATABASE"
	Java     = "WAYBILL_JAVA_DATABASE"
)

// Databases are the folders of the databases that a process sees; an empty one is none.
type Databases struct {
	Advisories string // of trivy.db and metadata.json
	Java       string // of trivy-java.db and metadata.json
}

// Hello is the child's first message.
type Hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
	// Unconfined says what the kernel would not take from the process; empty when it is confined as it should be.
	Unconfined string `json:"unconfined,omitempty"`
}

// Protocol is the version of these messages.
const Protocol = 5

// Request asks for one thing.
type Request struct {
	Analyse  *AnalyseRequest  `json:"analyse,omitempty"`
	Match    *MatchRequest    `json:"match,omitempty"`
	Rematch  *RematchRequest  `json:"rematch,omitempty"`
	Database *DatabaseRequest `json:"database,omitempty"`
}

// AnalyseRequest asks for a layer's facts and packages; its file comes beside.
type AnalyseRequest struct {
	Digest artifact.Digest      `json:"digest"`
	Limits artifact.LayerLimits `json:"limits"`
}

// Analysis is all that is learned of one layer.
type Analysis struct {
	Facts    artifact.LayerFacts `json:"facts"`
	Analyser string              `json:"analyser"` // the versions of what made Blob
	Blob     []byte              `json:"blob"`     // for Match, opaque
}

// MatchRequest asks for an image's packages and findings, from what Analyse learned of its layers.
type MatchRequest struct {
	Database string          `json:"database"` // the folder of trivy.db and metadata.json; empty: packages and SBOM only
	Java     string          `json:"java"`     // the folder of trivy-java.db and metadata.json; empty: jars that do not name themselves are left out
	Config   []byte          `json:"config"`   // the image config
	Layers   [][]byte        `json:"layers"`   // Analysis.Blob of each, lowest first
	Name     string          `json:"name"`     // of the repository, for the SBOM
	Digest   artifact.Digest `json:"digest"`
	SBOM     bool            `json:"sbom"`    // whether it is wanted
	Created  time.Time       `json:"created"` // for the SBOM: when the image was scanned
}

// MatchResult is what an image has in it, and what is known against it.
type MatchResult struct {
	OS        string             `json:"os"` // family and release, such as debian 12.11; empty when none is recognised
	Packages  []artifact.Package `json:"packages"`
	Findings  []artifact.Finding `json:"findings"`
	CycloneDX []byte             `json:"cycloneDX"`
	SPDX      []byte             `json:"spdx"`
	// Contents is what Rematch needs of the image, opaque: its packages, without what matching does not ask.
	Contents []byte `json:"contents"`
	// Vulnerabilities has the hashes of the findings that are vulnerabilities, sorted, eight bytes each.
	Vulnerabilities []byte `json:"vulnerabilities"`
	// Jars says that there are jars that do not name themselves: another Java database may know more of them.
	Jars bool `json:"jars,omitempty"`
}

// RematchRequest asks for the vulnerabilities of many images by another database, from what Match kept of them.
type RematchRequest struct {
	Database string         `json:"database"` // as in MatchRequest; not empty
	Images   []RematchImage `json:"images"`
}

// RematchImage is one image, and what was found in it last.
type RematchImage struct {
	Contents        []byte `json:"contents"`        // MatchResult.Contents
	Vulnerabilities []byte `json:"vulnerabilities"` // MatchResult.Vulnerabilities
}

// RematchResult has an answer for each image, in the order asked.
type RematchResult struct {
	Images []Rematched `json:"images"`
}

// Rematched is what another database says of one image: what changes of its vulnerabilities, if that is something. Failed
// says why there is no answer.
type Rematched struct {
	Changed         bool                      `json:"changed,omitempty"`
	Gone            []int64                   `json:"gone,omitempty"` // hashes of findings
	Added           []artifact.Finding        `json:"added,omitempty"`
	Vulnerabilities []byte                    `json:"vulnerabilities,omitempty"` // hashes of all
	Counts          map[artifact.Severity]int `json:"counts,omitempty"`          // of all
	Failed          string                    `json:"failed,omitempty"`
}

// DatabaseRequest asks whether the process's folder holds an advisory database that can be read, or a Java database.
type DatabaseRequest struct {
	Java bool `json:"java,omitempty"`
}

// DatabaseInfo is what a database's metadata says.
type DatabaseInfo struct {
	Schema    int       `json:"schema"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// Response answers a Request. Refused is the fault of what was asked about: a layer that cannot be inspected. Failed is
// the scanner's own.
type Response struct {
	Analysis *Analysis      `json:"analysis,omitempty"`
	Match    *MatchResult   `json:"match,omitempty"`
	Rematch  *RematchResult `json:"rematch,omitempty"`
	Database *DatabaseInfo  `json:"database,omitempty"`
	Refused  string         `json:"refused,omitempty"`
	Failed   string         `json:"failed,omitempty"`
}

// maxMessage bounds a message, in bytes: the facts of a layer of a million files stay below it.
const maxMessage = 1 << 30

// Write sends a message.
func Write(w io.Writer, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes; %d is the most", len(b), maxMessage)
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read receives a message; io.EOF is the other's end.
func Read(r io.Reader, message any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes", n)
	}
	// Read as it comes: a length alone reserves no memory.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(b) != int(n) {
		return errors.New("a message that is cut off")
	}
	return json.Unmarshal(b, message)
}
