package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// description is what of an OpenAPI 3.1 document the pages show: the document that is served, so that they cannot say
// anything else.
type description struct {
	Paths      map[string]map[string]operation `json:"paths"` // by path, and by method in lower case
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

// operation is an Operation Object (OpenAPI 3.1, section 4.8.10), with what Waybill adds.
type operation struct {
	ID         string      `json:"operationId"`
	Summary    string      `json:"summary"`
	Tags       []string    `json:"tags"`
	Parameters []parameter `json:"parameters"`
	Body       *struct {
		Required bool                 `json:"required"`
		Content  map[string]mediaType `json:"content"`
	} `json:"requestBody"`
	Responses map[string]answer `json:"responses"`
	Command   string            `json:"x-waybill-command"`
	Roles     []string          `json:"x-waybill-roles"`
	Scope     string            `json:"x-waybill-scope"`
}

type parameter struct {
	Name        string  `json:"name"`
	In          string  `json:"in"` // path, query or header
	Description string  `json:"description"`
	Required    bool    `json:"required"`
	Example     any     `json:"example"`
	Schema      *schema `json:"schema"`
}

type answer struct {
	Description string               `json:"description"`
	Content     map[string]mediaType `json:"content"`
}

type mediaType struct {
	Schema *schema `json:"schema"`
}

// schema is a Schema Object (section 4.8.24).
type schema struct {
	Ref         string             `json:"$ref"`
	Type        typeNames          `json:"type"`
	Format      string             `json:"format"`
	Encoding    string             `json:"contentEncoding"`
	Description string             `json:"description"`
	Enum        []any              `json:"enum"`
	Examples    []any              `json:"examples"`
	Default     any                `json:"default"`
	Items       *schema            `json:"items"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Additional  json.RawMessage    `json:"additionalProperties"` // a schema, or whether there may be others
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
	MinLength   *int               `json:"minLength"`
	MaxLength   *int               `json:"maxLength"`
	MinItems    *int               `json:"minItems"`
	MaxItems    *int               `json:"maxItems"`
}

// typeNames is a type, or several of which null is one.
type typeNames []string

// UnmarshalJSON takes a name or a list.
func (t *typeNames) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = typeNames{one}
		return nil
	}
	var all []string
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	*t = slices.DeleteFunc(all, func(name string) bool { return name == "null" })
	return nil
}

func (t typeNames) is(name string) bool { return slices.Contains(t, name) }

// nameOfSchema is the last part of #/components/schemas/NAME.
func (s *schema) nameOfSchema() string { return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:] }

// others is the schema of properties that have no name of their own; nil where there are none.
func (s *schema) others() *schema {
	var other schema
	if !bytes.HasPrefix(s.Additional, []byte("{")) || json.Unmarshal(s.Additional, &other) != nil {
		return nil
	}
	return &other
}

// typeView is what a value is, for people: Before "list of ", Name "Finding", which has a place of its own on the page
// when Schema says so.
type typeView struct {
	Before, Name string
	Schema       bool
}

func viewOf(s *schema) typeView {
	switch {
	case s == nil:
		return typeView{Name: "anything"}
	case s.Ref != "":
		return typeView{Name: s.nameOfSchema(), Schema: true}
	case s.Type.is("array"):
		v := viewOf(s.Items)
		v.Before = "list of " + v.Before
		return v
	case s.Type.is("object") && len(s.Properties) == 0:
		if other := s.others(); other != nil {
			v := viewOf(other)
			v.Before = "by name, " + v.Before
			return v
		}
		return typeView{Name: "object"}
	case s.Encoding != "":
		return typeView{Name: s.Encoding}
	case s.Format == "date-time":
		return typeView{Name: "time, RFC 3339"}
	case s.Format == "binary":
		return typeView{Name: "bytes"}
	case len(s.Type) > 0:
		return typeView{Name: strings.Join(s.Type, " or ")}
	}
	return typeView{Name: "anything"}
}

// bounds says what a value must be besides.
func (s *schema) bounds() []string {
	if s == nil {
		return nil
	}
	var all []string
	if len(s.Enum) > 0 {
		all = append(all, "one of "+words(s.Enum))
	}
	if s.Items != nil && len(s.Items.Enum) > 0 {
		all = append(all, "each one of "+words(s.Items.Enum))
	}
	add := func(format string, n *int) {
		if n != nil {
			all = append(all, fmt.Sprintf(format, *n))
		}
	}
	if s.MinLength != nil && *s.MinLength > 0 {
		add("at least %d characters", s.MinLength)
	}
	add("at most %d characters", s.MaxLength)
	add("at least %d of them", s.MinItems)
	add("at most %d of them", s.MaxItems)
	if s.Minimum != nil {
		all = append(all, fmt.Sprintf("at least %v", *s.Minimum))
	}
	if s.Maximum != nil {
		all = append(all, fmt.Sprintf("at most %v", *s.Maximum))
	}
	if s.Default != nil {
		all = append(all, fmt.Sprintf("%v without it", s.Default))
	}
	return all
}

func words(all []any) string {
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = fmt.Sprint(v)
	}
	return strings.Join(names, ", ")
}

// field is a parameter, or a property of an object.
type field struct {
	Name, In    string
	Type        typeView
	Description string
	Bounds      []string
	Required    bool
}

// fields are an object's, those that it must have first.
func (s *schema) fields() []field {
	var all []field
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		all = append(all, field{Name: name, Type: viewOf(p), Description: p.Description, Bounds: p.bounds(), Required: slices.Contains(s.Required, name)})
	}
	slices.SortStableFunc(all, func(a, b field) int { return boolOrder(b.Required) - boolOrder(a.Required) })
	return all
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

// schemaView is a named schema with its fields.
type schemaView struct {
	Name, Description string
	Type              typeView // of one that has no fields
	Fields            []field
}

// bodyView is what is sent, or answered, of one content type.
type bodyView struct {
	Status, Description string
	ContentType         string
	Type                typeView
	Fields              []field // of what is sent
}

// operationView is an operation as a page shows it.
type operationView struct {
	ID, Method, Path, Summary, Tag string
	Roles                          []string // none: anybody, without a token
	Scope                          string
	Command, Curl                  string
	Parameters                     []field
	Body                           *bodyView
	Answers                        []bodyView
	search                         string
	schemas                        []string // that it names
}

// matches reports whether each of the words is somewhere in what is said of the operation.
func (o operationView) matches(words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(o.search, w) })
}

// Words is what the filter of the browser looks at.
func (o operationView) Words() string { return o.search }

// operations are all of a document's, in the order of their tags, paths and methods.
func (d *description) operations() []operationView {
	var all []operationView
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for method, o := range d.Paths[path] {
			all = append(all, d.view(strings.ToUpper(method), path, o))
		}
	}
	order := []string{"GET", "POST", "DELETE"}
	slices.SortFunc(all, func(a, b operationView) int {
		for _, c := range []int{strings.Compare(a.Tag, b.Tag), strings.Compare(a.Path, b.Path), slices.Index(order, a.Method) - slices.Index(order, b.Method)} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return all
}

func (d *description) view(method, path string, o operation) operationView {
	v := operationView{ID: o.ID, Method: method, Path: path, Summary: o.Summary, Roles: o.Roles, Scope: o.Scope, Command: o.Command}
	if len(o.Tags) > 0 {
		v.Tag = o.Tags[0]
	}
	about := []string{method, path, o.ID, o.Summary, v.Tag, o.Command, strings.Join(o.Roles, " ")}
	for _, p := range o.Parameters {
		v.Parameters = append(v.Parameters, field{Name: p.Name, In: p.In, Type: viewOf(p.Schema), Description: p.Description, Bounds: p.Schema.bounds(), Required: p.Required})
		about = append(about, p.Name)
	}
	if o.Body != nil {
		for _, contentType := range slices.Sorted(maps.Keys(o.Body.Content)) {
			v.Body = &bodyView{ContentType: contentType, Type: viewOf(o.Body.Content[contentType].Schema)}
			if sent := d.Components.Schemas[v.Body.Type.Name]; sent != nil && v.Body.Type.Schema && v.Body.Type.Before == "" {
				v.Body.Fields = sent.fields()
			}
			v.schemas = append(v.schemas, d.below(o.Body.Content[contentType].Schema, nil)...)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		a := o.Responses[status]
		b := bodyView{Status: status, Description: a.Description}
		if status == "default" {
			b.Status = "4xx, 5xx"
		}
		for _, contentType := range slices.Sorted(maps.Keys(a.Content)) {
			b.ContentType, b.Type = contentType, viewOf(a.Content[contentType].Schema)
			v.schemas = append(v.schemas, d.below(a.Content[contentType].Schema, nil)...)
		}
		v.Answers = append(v.Answers, b)
	}
	v.Curl = d.curl(method, path, o)
	v.search = strings.ToLower(strings.Join(about, " "))
	return v
}

// below returns the names of the schemas that one stands on, itself included.
func (d *description) below(s *schema, seen []string) []string {
	switch {
	case s == nil:
	case s.Ref != "":
		if name := s.nameOfSchema(); !slices.Contains(seen, name) {
			seen = d.below(d.Components.Schemas[name], append(seen, name))
		}
	default:
		seen = d.below(s.others(), d.below(s.Items, seen))
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			seen = d.below(s.Properties[name], seen)
		}
	}
	return seen
}

// schemas are those of the names, sorted.
func (d *description) schemas(names []string) []schemaView {
	slices.Sort(names)
	var all []schemaView
	for _, name := range slices.Compact(names) {
		if s := d.Components.Schemas[name]; s != nil {
			all = append(all, schemaView{Name: name, Description: s.Description, Type: viewOf(s), Fields: s.fields()})
		}
	}
	return all
}

// curl is a request as one types it in a shell.
func (d *description) curl(method, path string, o operation) string {
	query := url.Values{}
	for _, p := range o.Parameters {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", strings.ToUpper(p.Name))
		case p.In == "query" && p.Required:
			query.Set(p.Name, fmt.Sprint(d.sample(p.Schema, p.Name, p.Example, 0)))
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	lines := []string{"curl"}
	if method != "GET" {
		lines[0] += " -X " + method
	}
	for _, a := range o.Responses {
		for contentType := range a.Content {
			switch contentType {
			case "application/gzip":
				lines[0] += " -o " + o.ID + ".tar.gz"
			case "application/x-ndjson", "text/event-stream":
				lines[0] += " -N"
			}
		}
	}
	lines[0] += ` "$WAYBILL_URL` + path + `"`
	if len(o.Roles) > 0 {
		lines = append(lines, `-H "Authorization: Bearer $WAYBILL_TOKEN"`)
	}
	if o.Body != nil {
		for contentType, media := range o.Body.Content {
			lines = append(lines, `-H "Content-Type: `+contentType+`"`)
			if contentType != "application/json" {
				lines = append(lines, "--data-binary @FILE")
				continue
			}
			var sample bytes.Buffer
			e := json.NewEncoder(&sample)
			e.SetEscapeHTML(false)
			if e.Encode(d.sample(media.Schema, "", nil, 0)) == nil {
				lines = append(lines, "-d '"+strings.ReplaceAll(strings.TrimSpace(sample.String()), "'", `'\''`)+"'")
			}
		}
	}
	return strings.Join(lines, " \\\n  ")
}

// maxSample is how deep an example goes.
const maxSample = 6

// sample is a value that a schema takes: an example where there is one, else a word in capitals for what is to be put there.
func (d *description) sample(s *schema, name string, example any, depth int) any {
	switch {
	case example != nil:
		return example
	case s == nil || depth > maxSample:
		return nil
	case s.Ref != "":
		return d.sample(d.Components.Schemas[s.nameOfSchema()], name, nil, depth+1)
	case len(s.Examples) > 0:
		return s.Examples[0]
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Type.is("array"):
		return []any{d.sample(s.Items, strings.TrimSuffix(name, "s"), nil, depth+1)}
	case s.Type.is("object"):
		object := map[string]any{}
		for _, required := range s.Required {
			object[required] = d.sample(s.Properties[required], required, nil, depth+1)
		}
		return object
	case s.Type.is("boolean"):
		return true
	case s.Type.is("integer"), s.Type.is("number"):
		return 1
	case s.Format == "date-time":
		return "2030-01-31T12:00:00Z"
	}
	return strings.ToUpper(name)
}
