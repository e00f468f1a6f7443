package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"waybill/artifact"
)

// maxDocument bounds a YAML file, in bytes, and with it what aliases can make of it.
const maxDocument = 1 << 20

// Node is one YAML document that is decoded strictly; its errors name file, line and column.
type Node struct {
	file string
	node ast.Node
}

// ParseYAML returns the documents of a YAML stream. Aliases are refused: they have no place in a policy, and can grow
// without bound.
func ParseYAML(file string, src []byte) ([]Node, error) {
	if len(src) > maxDocument {
		return nil, artifact.Errorf(artifact.TooLarge, "%s: %d bytes; at most %d are read", file, len(src), maxDocument)
	}
	parsed, err := parser.ParseBytes(src, 0)
	if err != nil {
		return nil, located(file, err)
	}
	var nodes []Node
	for _, doc := range parsed.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType {
			continue
		}
		n := Node{file, doc.Body}
		if alias := findAlias(doc.Body); alias != nil {
			return nil, (Node{file, alias}).Errorf("aliases are not read here; write the value out")
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// Decode fills v and refuses unknown keys.
func (n Node) Decode(v any) error {
	if err := yaml.NodeToValue(n.node, v, yaml.Strict()); err != nil {
		return located(n.file, err)
	}
	return nil
}

// At returns the node at a YAML path such as $.spec.rules[0].rule, or n itself when there is none.
func (n Node) At(format string, args ...any) Node {
	path, err := yaml.PathString(fmt.Sprintf(format, args...))
	if err != nil {
		return n
	}
	if found, err := path.FilterNode(n.node); err == nil && found != nil {
		return Node{n.file, found}
	}
	return n
}

// Errorf is an Invalid error at n's position.
func (n Node) Errorf(format string, args ...any) error {
	line, column := 1, 1
	if n.node != nil && n.node.GetToken() != nil && n.node.GetToken().Position != nil {
		line, column = n.node.GetToken().Position.Line, n.node.GetToken().Position.Column
	}
	return artifact.Errorf(artifact.Invalid, "%s:%d:%d: %s", n.file, line, column, fmt.Sprintf(format, args...))
}

// located turns goccy's "[line:column] what" and its excerpt into file:line:column: what.
func located(file string, err error) error {
	var known *artifact.Error
	if errors.As(err, &known) {
		return err
	}
	text, ok := strings.CutPrefix(yaml.FormatError(err, false, true), "[")
	if ok {
		text = strings.Replace(text, "] ", ": ", 1)
	}
	return artifact.Errorf(artifact.Invalid, "%s:%s", file, text)
}

func findAlias(root ast.Node) ast.Node {
	var found ast.Node
	ast.Walk(visitor(func(n ast.Node) bool {
		if n.Type() == ast.AliasType || n.Type() == ast.MergeKeyType {
			found = n
		}
		return found == nil
	}), root)
	return found
}

type visitor func(ast.Node) bool

func (v visitor) Visit(n ast.Node) ast.Visitor {
	if v(n) {
		return v
	}
	return nil
}
