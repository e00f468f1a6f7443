package artifact

import (
	"cmp"
	"slices"
	"strings"
)

// Sum counts files, and their bytes as a file system shows them.
type Sum struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (s *Sum) add(size int64) { s.Files, s.Bytes = s.Files+1, s.Bytes+size }

// LayerTree is what one layer does to an image.
type LayerTree struct {
	LayerSummary
	Added       Sum        `json:"added"`       // what it brings, replacements among it
	Overwritten Sum        `json:"overwritten"` // of lower layers, what it has another version of
	Removed     Sum        `json:"removed"`     // of lower layers, what it deletes
	Hidden      Sum        `json:"hidden"`      // of what it brings, what a later layer overwrites or removes: wasted
	Tree        []TreeNode `json:"tree"`
}

// TreeNode is a file, or a directory with all that the layer does below it.
type TreeNode struct {
	Name        string     `json:"name"`
	Added       Sum        `json:"added,omitzero"`
	Overwritten Sum        `json:"overwritten,omitzero"`
	Removed     Sum        `json:"removed,omitzero"`
	Hidden      Sum        `json:"hidden,omitzero"`
	Children    []TreeNode `json:"children,omitempty"`
	More        int        `json:"more,omitempty"` // children that are left out: the lightest
}

// weight is by how much a node moves bytes.
func (n TreeNode) weight() int64 {
	return n.Added.Bytes + n.Overwritten.Bytes + n.Removed.Bytes + n.Hidden.Bytes
}

// Trees draws each layer as a tree to a depth, with at most so many children of a directory, the heaviest first.
// Directories that the layer only lists are not in it.
func (f ImageFacts) Trees(depth, most int) []LayerTree {
	growing := make([]growingTree, len(f.Layers))
	for i := range growing {
		growing[i].root = &growingNode{}
	}
	for path, file := range f.Files {
		if file.Type != Dir {
			growing[file.Layer].grow(path, depth, func(n *growingNode) { n.Added.add(file.Size) })
		}
	}
	for _, hidden := range f.Hidden {
		if hidden.Type == Dir {
			continue
		}
		growing[hidden.Layer].grow(hidden.Path, depth, func(n *growingNode) { n.Added.add(hidden.Size); n.Hidden.add(hidden.Size) })
		by := &growing[hidden.HiddenBy]
		if now, ok := f.Files[hidden.Path]; ok && now.Layer == hidden.HiddenBy {
			by.grow(hidden.Path, depth, func(n *growingNode) { n.Overwritten.add(hidden.Size) })
		} else {
			by.grow(hidden.Path, depth, func(n *growingNode) { n.Removed.add(hidden.Size) })
		}
	}
	trees := make([]LayerTree, len(f.Layers))
	for i, layer := range f.Layers {
		root := growing[i].root.cut(most)
		trees[i] = LayerTree{layer, root.Added, root.Overwritten, root.Removed, root.Hidden, root.Children}
	}
	return trees
}

type growingTree struct{ root *growingNode }

type growingNode struct {
	TreeNode
	below map[string]*growingNode
}

// grow counts a file at each directory that leads to it.
func (t growingTree) grow(path string, depth int, count func(*growingNode)) {
	node := t.root
	count(node)
	for rest := path; depth > 0 && rest != ""; depth-- {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if node.below == nil {
			node.below = map[string]*growingNode{}
		}
		child := node.below[name]
		if child == nil {
			child = &growingNode{TreeNode: TreeNode{Name: name}}
			node.below[name] = child
		}
		node = child
		count(node)
	}
}

func (n *growingNode) cut(most int) TreeNode {
	for _, child := range n.below {
		n.Children = append(n.Children, child.cut(most))
	}
	slices.SortFunc(n.Children, func(a, b TreeNode) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), strings.Compare(a.Name, b.Name))
	})
	if len(n.Children) > most {
		n.More, n.Children = len(n.Children)-most, n.Children[:most]
	}
	return n.TreeNode
}
