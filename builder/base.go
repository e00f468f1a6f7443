package builder

import (
	"archive/tar"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
)

// loadImage lists the files of an image, one pass over each layer.
func loadImage(image v1.Image, work *workspace) (*tree, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	t := newTree()
	for _, l := range layers {
		if err := t.apply(&source{func() (io.ReadCloser, error) { return l.Uncompressed() }, work}); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Whiteouts of the OCI image spec, layer.md.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// apply stacks a layer on a tree: first what it hides of those below, then what it adds.
func (t *tree) apply(layer *source) error {
	hidden, opaque := map[string]bool{}, map[string]bool{}
	var added []*node
	err := layer.list(func(n *node, _ *tar.Header) error {
		dir, name := path.Split(n.path)
		switch {
		case name == opaqueMarker:
			opaque[strings.TrimSuffix(dir, "/")] = true
		case strings.HasPrefix(name, whiteoutPrefix):
			hidden[dir+strings.TrimPrefix(name, whiteoutPrefix)] = true
		default:
			added = append(added, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(hidden)+len(opaque) > 0 {
		t.drop(func(p string) bool {
			for at := p; at != ""; at = parent(at) {
				if hidden[at] || opaque[parent(at)] {
					return true
				}
			}
			return false
		})
	}
	for _, n := range added {
		if err := t.extract("", n); err != nil {
			return err
		}
	}
	return nil
}

// extract puts an archive's entry below a folder, as an unpacker that takes the folder for its root would: links that
// lead to the entry are followed, a folder joins one that is there, anything else replaces what is there. A hard link
// becomes another name of its file.
func (t *tree) extract(top string, n *node) error {
	dir, err := t.leading(top, parent(n.path))
	if err != nil {
		return err
	}
	if t.drops > maxDrops {
		return artifact.Errorf(artifact.Invalid, "the archive replaces folders by files more than %d times", maxDrops)
	}
	n.path = path.Join(dir, path.Base(n.path))
	if n.kind == artifact.Hardlink {
		at, err := t.resolveIn(top, n.target, false)
		if err != nil {
			return err
		}
		to := t.get(at)
		if to == nil || isDir(to) {
			return artifact.Errorf(artifact.Invalid, "the archive's %.200q links to %.200q, which is no file", n.path, n.target)
		}
		linked := *to
		if linked.kind == artifact.Regular {
			if linked.file == nil {
				linked.file = new(int)
				original := linked
				t.put(&original)
			}
		}
		linked.path = n.path
		*n = linked
	}
	t.put(n)
	return nil
}

// leading resolves the folder of an entry, which most often is that of the entry before.
func (t *tree) leading(top, dir string) (string, error) {
	if t.lead.known && t.lead.top == top && t.lead.dir == dir {
		return t.lead.at, nil
	}
	at, err := t.resolveIn(top, dir, true)
	if err == nil {
		t.lead.top, t.lead.dir, t.lead.at, t.lead.known = top, dir, at, true
	}
	return at, err
}

// parents are the folders that lead to a path, outermost first.
func parents(p string) []string {
	var all []string
	for dir := parent(p); dir != ""; dir = parent(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}
