package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// reference is the API's description, as the pages show it.
type reference struct {
	operations []operationView
	pages      map[string]operationsPage // by the tag in lower case
	tags       []referenceTag
}

// referenceTag is a part of the API, which has a page of its own.
type referenceTag struct {
	Name, Path string
	Count      int
	Here       bool
}

// referencePage lists all operations, or those that a word is said of.
type referencePage struct {
	Query string
	Tags  []taggedOperations
	Shown int
	All   int
}

type taggedOperations struct {
	referenceTag
	Operations []operationView
}

// operationsPage says all of the operations of one tag.
type operationsPage struct {
	Tag        string
	Tags       []referenceTag
	Operations []operationView
	Schemas    []schemaView
}

func tagPath(tag string) string { return "/api/docs/" + strings.ToLower(tag) }

// readReference makes the pages of the document that is served.
func (w *Web) readReference() (*reference, error) {
	document, err := w.cfg.Description()
	if err != nil {
		return nil, err
	}
	var d description
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("the OpenAPI document: %w", err)
	}
	r := &reference{operations: d.operations(), pages: map[string]operationsPage{}}
	for _, o := range r.operations {
		if n := len(r.tags); n == 0 || r.tags[n-1].Name != o.Tag {
			r.tags = append(r.tags, referenceTag{Name: o.Tag, Path: tagPath(o.Tag)})
		}
		r.tags[len(r.tags)-1].Count++
	}
	for i, tag := range r.tags {
		page := operationsPage{Tag: tag.Name, Tags: slices.Clone(r.tags)}
		page.Tags[i].Here = true
		var names []string
		for _, o := range r.operations {
			if o.Tag == tag.Name {
				page.Operations = append(page.Operations, o)
				names = append(names, o.schemas...)
			}
		}
		page.Schemas = d.schemas(names)
		r.pages[strings.ToLower(tag.Name)] = page
	}
	return r, nil
}

// apiReference lists what the API does. It is of everybody's, as the document that it is made of is.
func (w *Web) apiReference(c *gin.Context) error {
	r, err := w.reference()
	if err != nil {
		return err
	}
	page := referencePage{Query: strings.TrimSpace(c.Query("q")), All: len(r.operations)}
	asked := strings.Fields(strings.ToLower(page.Query))
	for _, tag := range r.tags {
		some := taggedOperations{referenceTag: tag}
		for _, o := range r.operations {
			if o.Tag == tag.Name && o.matches(asked) {
				some.Operations = append(some.Operations, o)
			}
		}
		if len(some.Operations) > 0 {
			page.Tags = append(page.Tags, some)
			page.Shown += len(some.Operations)
		}
	}
	w.render(c, http.StatusOK, "reference", "API", page)
	return nil
}

// apiOperations says all of a part of it.
func (w *Web) apiOperations(c *gin.Context) error {
	r, err := w.reference()
	if err != nil {
		return err
	}
	page, ok := r.pages[c.Param("tag")]
	if !ok {
		return artifact.Errorf(artifact.NotFound, "The API has no part %.100q; all of them are at /api/docs.", c.Param("tag"))
	}
	w.render(c, http.StatusOK, "operations", "API: "+page.Tag, page)
	return nil
}

// forAll lets a page be asked for by anybody; who is signed in has the rest of the site beside it.
func (w *Web) forAll(page func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		s, err := w.reader(c.Request.Context(), c)
		if err == nil {
			c.Set(sessionKey, s)
		}
		if err == nil || artifact.KindOf(err) == artifact.Unauthentic {
			err = page(c)
		}
		if err != nil {
			w.fail(c, err)
		}
	}
}
