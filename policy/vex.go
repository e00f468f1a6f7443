package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// AttachedVEX is an OpenVEX document (github.com/openvex/spec, v0.2.0) that refers to an image.
type AttachedVEX struct {
	Manifest   artifact.Digest // of the referrer
	AttachedBy string          // the principal that pushed it
	SignedBy   string          // id of the key that a checked signature is by; empty: unsigned, or by a key that nobody trusts
	Document   VEX
}

// VEXSource returns the documents that refer to an image. One that cannot be read is left out: it resolves nothing.
type VEXSource interface {
	VEX(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]AttachedVEX, error)
}

// VEXTrust says whose documents count. Whoever may push an image may push a document that says its findings are none, so
// that by itself a push counts for nothing: a document counts when it is signed by a trusted key (SignedBy), or when who
// pushed it is named here. The zero VEXTrust takes signed ones only.
type VEXTrust struct {
	Pushers []string // principals, token:NAME/ID, such as token:security/*; * stands for any characters but /
}

// Counts reports whether a document does.
func (t VEXTrust) Counts(d AttachedVEX) bool {
	return d.SignedBy != "" || slices.ContainsFunc(t.Pushers, func(glob string) bool { return artifact.MatchGlob(glob, d.AttachedBy) })
}

// ApplyVEX is the hook for evaluation: it returns the findings with what trusted documents say of them. Of several
// statements about one finding the newest counts; of those as old as each other, the least favourable.
func ApplyVEX(image artifact.Digest, findings []artifact.Finding, documents []AttachedVEX, trust VEXTrust) []artifact.Finding {
	assessed := slices.Clone(findings)
	for i := range assessed {
		f := &assessed[i]
		f.VEX = nil
		if f.Class != artifact.ClassVulnerability {
			continue
		}
		for _, d := range documents {
			if !trust.Counts(d) {
				continue
			}
			for _, s := range d.Document.Statements {
				if !s.about(image, *f) {
					continue
				}
				if a := d.assessment(s); f.VEX == nil || outweighs(a, *f.VEX) {
					f.VEX = &a
				}
			}
		}
	}
	return assessed
}

// vexStatuses, the least favourable first.
var vexStatuses = []string{"affected", "under_investigation", "fixed", "not_affected"}

func outweighs(a, b artifact.Assessment) bool {
	if d := a.At.Compare(b.At); d != 0 {
		return d > 0
	}
	return slices.Index(vexStatuses, a.Status) < slices.Index(vexStatuses, b.Status)
}

func (d AttachedVEX) assessment(s VEXStatement) artifact.Assessment {
	return artifact.Assessment{Status: s.Status, Justification: s.Justification, Statement: cmp.Or(s.ImpactStatement, s.ActionStatement, s.StatusNotes),
		Author: d.Document.Author, AttachedBy: d.AttachedBy, SignedBy: d.SignedBy, Document: d.Manifest, At: d.Document.at(s)}
}

// VEX is an OpenVEX document.
type VEX struct {
	Context     string         `json:"@context"`
	ID          string         `json:"@id"`
	Author      string         `json:"author"`
	Role        string         `json:"role"`
	Timestamp   time.Time      `json:"timestamp"`
	LastUpdated time.Time      `json:"last_updated"`
	Version     json.Number    `json:"version"`
	Tooling     string         `json:"tooling"`
	Statements  []VEXStatement `json:"statements"`
}

// VEXStatement says one thing of one vulnerability.
type VEXStatement struct {
	ID              string           `json:"@id"`
	Version         json.Number      `json:"version"`
	Vulnerability   VEXVulnerability `json:"vulnerability"`
	Timestamp       time.Time        `json:"timestamp"`
	LastUpdated     time.Time        `json:"last_updated"`
	Products        []VEXProduct     `json:"products"`
	Status          string           `json:"status"`
	Supplier        string           `json:"supplier"`
	StatusNotes     string           `json:"status_notes"`
	Justification   string           `json:"justification"`
	ImpactStatement string           `json:"impact_statement"`
	ActionStatement string           `json:"action_statement"`
	ActionTimestamp time.Time        `json:"action_statement_timestamp"`
}

// VEXVulnerability names a vulnerability.
type VEXVulnerability struct {
	ID          string   `json:"@id"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Aliases     []string `json:"aliases"`
}

// VEXComponent names a piece of software.
type VEXComponent struct {
	ID          string            `json:"@id"`
	Identifiers map[string]string `json:"identifiers"` // purl, cpe22, cpe23
	Hashes      map[string]string `json:"hashes"`
	Supplier    string            `json:"supplier"`
}

// VEXProduct is a component, and what in it is meant.
type VEXProduct struct {
	VEXComponent
	Subcomponents []VEXComponent `json:"subcomponents"`
}

// Bounds of a document.
const (
	MaxVEX        = 1 << 20 // bytes
	maxStatements = 5000
	maxProducts   = 200 // of a statement, and subcomponents of a product
)

var vexJustifications = []string{"component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
	"vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist"}

// ParseVEX reads a document strictly: what is not understood could be a condition.
func ParseVEX(b []byte) (VEX, error) {
	var v VEX
	if len(b) > MaxVEX {
		return v, fmt.Errorf("a VEX document of %d bytes; at most %d are read", len(b), MaxVEX)
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		return v, fmt.Errorf("VEX document: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("VEX document: something follows it")
	}
	return v, v.check()
}

func (v VEX) check() error {
	switch {
	case v.Context != "https://openvex.dev/ns" && v.Context != "https://openvex.dev/ns/v0.2.0":
		return fmt.Errorf("VEX document: @context is %.100q; want https://openvex.dev/ns/v0.2.0", v.Context)
	case v.ID == "" || v.Author == "" || v.Timestamp.IsZero():
		return errors.New("VEX document: want @id, author and timestamp")
	case len(v.Statements) == 0 || len(v.Statements) > maxStatements:
		return fmt.Errorf("VEX document: %d statements; want 1 to %d", len(v.Statements), maxStatements)
	}
	for i, s := range v.Statements {
		if err := s.check(); err != nil {
			return fmt.Errorf("VEX document: statement %d: %w", i+1, err)
		}
	}
	return nil
}

func (s VEXStatement) check() error {
	switch {
	case s.Vulnerability.Name == "":
		return errors.New("it names no vulnerability")
	case !slices.Contains(vexStatuses, s.Status):
		return fmt.Errorf("status is %.40q; want one of %s", s.Status, strings.Join(vexStatuses, ", "))
	case s.Justification != "" && (s.Status != "not_affected" || !slices.Contains(vexJustifications, s.Justification)):
		return fmt.Errorf("justification %.60q is none of status %s", s.Justification, s.Status)
	case s.Status == "not_affected" && s.Justification == "" && s.ImpactStatement == "":
		return errors.New("not_affected wants a justification or an impact_statement")
	case s.Status == "affected" && s.ActionStatement == "":
		return errors.New("affected wants an action_statement")
	case len(s.Products) > maxProducts:
		return fmt.Errorf("%d products; at most %d", len(s.Products), maxProducts)
	}
	for _, p := range s.Products {
		if len(p.Subcomponents) > maxProducts {
			return fmt.Errorf("%d subcomponents; at most %d", len(p.Subcomponents), maxProducts)
		}
	}
	return nil
}

// at is when a statement was made; what it leaves out is the document's.
func (v VEX) at(s VEXStatement) time.Time {
	for _, t := range []time.Time{s.LastUpdated, s.Timestamp, v.LastUpdated} {
		if !t.IsZero() {
			return t
		}
	}
	return v.Timestamp
}

// about reports whether a statement is about a finding in an image: the vulnerability by name or alias, and either the
// image (of a statement without products it is what the document refers to), or within it a subcomponent, or the package
// itself as the product.
func (s VEXStatement) about(image artifact.Digest, f artifact.Finding) bool {
	if f.ID != s.Vulnerability.Name && !slices.Contains(s.Vulnerability.Aliases, f.ID) {
		return false
	}
	if len(s.Products) == 0 {
		return true
	}
	return slices.ContainsFunc(s.Products, func(p VEXProduct) bool {
		if p.isImage(image) {
			return len(p.Subcomponents) == 0 || slices.ContainsFunc(p.Subcomponents, func(c VEXComponent) bool { return c.isPackage(f.PURL) })
		}
		return len(p.Subcomponents) == 0 && p.isPackage(f.PURL)
	})
}

// isImage: REPOSITORY@DIGEST, pkg:oci/NAME@DIGEST, the digest alone, or its hash.
func (c VEXComponent) isImage(image artifact.Digest) bool {
	if image.Algorithm() == "sha256" && strings.EqualFold(c.Hashes["sha-256"], image.Hex()) {
		return true
	}
	for _, id := range []string{c.ID, c.Identifiers["purl"]} {
		if kind, version, ok := strings.Cut(id, "@"); ok {
			if strings.HasPrefix(id, "pkg:") && !strings.HasPrefix(kind, "pkg:oci/") {
				continue
			}
			version, _, _ = strings.Cut(version, "?")
			id, _ = url.PathUnescape(version)
		}
		if id == image.String() {
			return true
		}
	}
	return false
}

// isPackage: the same type, namespace and name, and the version and qualifiers that the component's purl has.
func (c VEXComponent) isPackage(purl string) bool {
	found, ok := parsePURL(purl)
	if !ok {
		return false
	}
	return slices.ContainsFunc([]string{c.ID, c.Identifiers["purl"]}, func(id string) bool {
		meant, ok := parsePURL(id)
		if !ok || meant.name != found.name || meant.version != "" && meant.version != found.version {
			return false
		}
		for key := range meant.qualifiers {
			if meant.qualifiers.Get(key) != found.qualifiers.Get(key) {
				return false
			}
		}
		return true
	})
}

// purl is a package URL (github.com/package-url/purl-spec), so far as VEX asks.
type purl struct {
	name       string // type, namespace and name
	version    string
	qualifiers url.Values
}

func parsePURL(s string) (p purl, ok bool) {
	rest, ok := strings.CutPrefix(s, "pkg:")
	if !ok {
		return p, false
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	name, version := rest, ""
	if i := strings.LastIndex(rest, "@"); i > strings.LastIndex(rest, "/") {
		name, version = rest[:i], rest[i+1:]
	}
	var err1, err2, err3 error
	p.name, err1 = url.PathUnescape(name)
	p.version, err2 = url.PathUnescape(version)
	p.qualifiers, err3 = url.ParseQuery(query)
	return p, p.name != "" && errors.Join(err1, err2, err3) == nil
}
