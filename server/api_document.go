package server

import (
	"bytes"
	"context"
	"io"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/policy"
	"waybill/promotion"
	"waybill/storage"
)

// ParsedDocument is one YAML document that its own package took as valid.
type ParsedDocument struct {
	Kind string // Policy, Pipeline or Repositories
	Name string
	Hash artifact.Digest // of its meaning: two spellings of one policy share it
	Body []byte          // as it was sent
}

// Document is a policy, a pipeline or rules for repositories in force.
type Document struct {
	Kind      string          `json:"kind"`
	Name      string          `json:"name"`
	Version   int             `json:"version"`
	Hash      artifact.Digest `json:"hash"`
	AppliedBy string          `json:"appliedBy"`
	AppliedAt time.Time       `json:"appliedAt"`
	Body      string          `json:"body,omitempty"` // YAML; not in lists
}

// Applied is what became of one document. Changed is false when the version in force meant the same already.
type Applied struct {
	Kind    string          `json:"kind"`
	Name    string          `json:"name"`
	Version int             `json:"version"`
	Hash    artifact.Digest `json:"hash"`
	Changed bool            `json:"changed"`
}

// AppliedList is the answer to POST /documents.
type AppliedList struct {
	Documents []Applied `json:"documents"`
}

// DocumentList is the answer to GET /documents.
type DocumentList struct {
	Documents []Document `json:"documents"`
}

type (
	applyInput struct {
		stream
		File string `query:"file" maxLength:"300" doc:"The file's name, for error messages"`
	}
	applyOutput         struct{ Body AppliedList }
	listDocumentsOutput struct{ Body DocumentList }
	documentInput       struct {
		Kind string `path:"kind" enum:"Policy,Pipeline,Repositories,policy,pipeline,repositories"`
		Name string `path:"name" maxLength:"100"`

		Version int `query:"version" minimum:"0" doc:"Without it, the one in force"`
	}
	documentOutput struct{ Body Document }
)

func (a *API) applyDocuments(ctx context.Context, p artifact.Principal, in *applyInput) (*applyOutput, error) {
	src, err := io.ReadAll(in.body(maxJSON, "the documents"))
	if err != nil {
		return nil, err
	}
	if in.File == "" {
		in.File = "document"
	}
	documents, err := ParseDocuments(in.File, src)
	if err != nil {
		return nil, err
	}
	done, err := ApplyDocuments(ctx, a.cfg.Documents, p, documents)
	return &applyOutput{Body: AppliedList{Documents: done}}, err
}

// ApplyDocuments checks all documents and then puts them in force.
func ApplyDocuments(ctx context.Context, into Documents, p artifact.Principal, documents []ParsedDocument) ([]Applied, error) {
	if err := into.Fit(ctx, documents); err != nil {
		return nil, err
	}
	all := []Applied{}
	for _, d := range documents {
		done, err := into.Apply(ctx, p, d)
		if err != nil {
			return nil, err
		}
		all = append(all, done)
	}
	return all, nil
}

func (a *API) listDocuments(ctx context.Context, _ artifact.Principal, _ *struct{}) (*listDocumentsOutput, error) {
	all, err := a.cfg.Documents.Current(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Body = ""
	}
	return &listDocumentsOutput{Body: DocumentList{Documents: orEmpty(all)}}, nil
}

func (a *API) getDocument(ctx context.Context, _ artifact.Principal, in *documentInput) (*documentOutput, error) {
	if in.Version > 0 {
		d, err := a.cfg.Documents.DocumentVersion(ctx, kindOf(in.Kind), in.Name, in.Version)
		return &documentOutput{Body: d}, err
	}
	all, err := a.cfg.Documents.Current(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if strings.EqualFold(d.Kind, in.Kind) && d.Name == in.Name {
			return &documentOutput{Body: d}, nil
		}
	}
	return nil, artifact.Errorf(artifact.NotFound, "no %s named %.100q is in force; `waybill policy list` names those that are", strings.ToLower(in.Kind), in.Name)
}

// ParseDocuments checks every document of a YAML stream with the package that knows its kind. Lines keep their
// numbers: each document is handed over behind as many empty lines as stood before it.
func ParseDocuments(file string, src []byte) ([]ParsedDocument, error) {
	var all []ParsedDocument
	seen := map[string]bool{}
	for _, part := range splitDocuments(src) {
		d, ok, err := part.parse(file)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		key := d.Kind + "/" + d.Name
		if seen[key] {
			return nil, artifact.Errorf(artifact.Invalid, "%s:%d: a second %s named %s; keep one of them", file, part.line+1, d.Kind, d.Name)
		}
		seen[key] = true
		all = append(all, d)
	}
	if len(all) == 0 {
		return nil, artifact.Errorf(artifact.Invalid, "%s has no document; want apiVersion: waybill/v1 and kind: Policy, Pipeline or Repositories", file)
	}
	return all, nil
}

// yamlPart is one document of a stream, and how many lines stand before it.
type yamlPart struct {
	text []byte
	line int
}

// splitDocuments cuts at the document markers of YAML 1.2, section 9.1: --- at the start of a line.
func splitDocuments(src []byte) []yamlPart {
	var (
		parts []yamlPart
		start int // offset of the current part
		line  int // its first line, from 0
	)
	offset := 0
	for n, l := range bytes.SplitAfter(src, []byte("\n")) {
		marker := bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || strings.ContainsRune(" \t\r\n", rune(l[3])))
		if marker && offset > start {
			parts = append(parts, yamlPart{text: src[start:offset], line: line})
			start, line = offset, n
		}
		offset += len(l)
	}
	return append(parts, yamlPart{text: src[start:], line: line})
}

// parse hands the part to the package that knows its kind; false when it holds nothing but markers and comments.
func (p yamlPart) parse(file string) (ParsedDocument, bool, error) {
	padded := append(bytes.Repeat([]byte("\n"), p.line), p.text...)
	d := ParsedDocument{Body: bytes.TrimPrefix(p.text, []byte("---\n"))}
	nodes, err := policy.ParseYAML(file, padded)
	if err != nil || len(nodes) == 0 {
		return d, false, err
	}
	if len(nodes) > 1 {
		return d, false, nodes[1].Errorf("a second document without --- before it")
	}
	var head map[string]any
	if err := nodes[0].Decode(&head); err != nil {
		return d, false, err
	}
	switch d.Kind, _ = head["kind"].(string); d.Kind {
	case "Policy":
		parsed, err := policy.Parse(file, padded)
		if err != nil {
			return d, false, err
		}
		d.Name, d.Hash = parsed[0].Name(), parsed[0].Hash()
	case "Pipeline":
		parsed, err := promotion.Parse(file, padded)
		if err != nil {
			return d, false, err
		}
		d.Name, d.Hash = parsed[0].Name(), parsed[0].Hash()
	case storage.Kind:
		parsed, err := storage.Parse(file, padded)
		if err != nil {
			return d, false, err
		}
		d.Name, d.Hash = parsed[0].Name(), parsed[0].Hash()
	default:
		return d, false, nodes[0].At("$.kind").Errorf("kind %.60q is not known; want Policy, Pipeline or Repositories", d.Kind)
	}
	return d, true, nil
}
