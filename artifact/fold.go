package artifact

import (
	"path"
	"strings"
)

// Fold stacks layers, lowest first, as a runtime would (OCI image-spec 1.1, layer.md, "Applying Changesets"): a later
// entry replaces an earlier one of its path, a whiteout removes a path and all below it, an opaque directory all that
// lower layers have below it, and a file in place of a directory that directory's content. config gives each layer the step
// that made it.
func Fold(layers []LayerFacts, config ImageConfig) ImageFacts {
	f := folding{
		facts: ImageFacts{Files: map[string]VisibleFile{}, Contents: map[string]string{}},
		below: map[string]map[string]struct{}{},
	}
	created := createdBy(config)
	for i, l := range layers {
		summary := LayerSummary{Digest: l.Digest, DiffID: l.DiffID, Compressed: l.Compressed, Uncompressed: l.Uncompressed, Entries: len(l.Files)}
		if i < len(created) {
			summary.CreatedBy = created[i]
		}
		f.facts.Layers = append(f.facts.Layers, summary)
		f.apply(i, l)
	}
	for _, hidden := range f.facts.Hidden {
		f.facts.Layers[hidden.Layer].Wasted += hidden.Size
	}
	f.packages(layers)
	return f.facts
}

// folding is a fold under way. below holds, of each directory, its children, so that removing a tree costs the tree.
type folding struct {
	facts ImageFacts
	below map[string]map[string]struct{}
}

func (f *folding) apply(layer int, l LayerFacts) {
	// Whiteouts hide what lower layers have, wherever in the archive they stand.
	for _, e := range l.Files {
		switch e.Type {
		case Whiteout:
			f.remove(e.Path, layer)
		case Opaque:
			f.removeBelow(e.Path, layer)
		}
	}
	for _, e := range l.Files {
		if e.Type == Whiteout || e.Type == Opaque {
			continue
		}
		if e.Type != Dir {
			f.removeBelow(e.Path, layer) // a file in place of a directory, which the archive may never have named
		}
		if old, exists := f.facts.Files[e.Path]; exists && old.Type != Dir {
			f.hide(e.Path, old, layer)
		}
		// A path below what is no directory: the runtime replaces the obstacle.
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			if parent, ok := f.facts.Files[dir]; ok && parent.Type == Regular {
				f.hide(dir, parent, layer)
			}
		}
		f.put(e, layer)
		if content, ok := l.Contents[e.Path]; ok && e.Type == Regular {
			f.facts.Contents[e.Path] = content
		} else {
			delete(f.facts.Contents, e.Path)
		}
	}
}

func (f *folding) put(e File, layer int) {
	if e.Type == Hardlink {
		if target, ok := f.facts.Files[e.Target]; ok && target.Type == Regular {
			// A second name for the same bytes: it has their marks, and no size of its own.
			e.Marks, e.Mode, e.UID, e.GID = target.Marks, target.Mode, target.UID, target.GID
		}
	}
	f.facts.Files[e.Path] = VisibleFile{File: e, Layer: layer}
	for child := e.Path; child != "."; {
		dir := path.Dir(child)
		children := f.below[dir]
		if children == nil {
			children = map[string]struct{}{}
			f.below[dir] = children
		}
		if _, known := children[child]; known {
			break
		}
		children[child] = struct{}{}
		child = dir
	}
}

// hide takes one file out of sight. Content replaced within one layer never travels twice, so it is not "hidden".
func (f *folding) hide(p string, old VisibleFile, by int) {
	delete(f.facts.Files, p)
	delete(f.facts.Contents, p)
	if old.Layer < by && old.Type != Dir {
		f.facts.Hidden = append(f.facts.Hidden, HiddenFile{File: old.File, Layer: old.Layer, HiddenBy: by})
	}
}

// remove takes a path and all below it out of sight.
func (f *folding) remove(p string, by int) {
	f.removeBelow(p, by)
	if old, ok := f.facts.Files[p]; ok {
		f.hide(p, old, by)
	}
	if siblings := f.below[path.Dir(p)]; siblings != nil {
		delete(siblings, p)
	}
}

func (f *folding) removeBelow(p string, by int) {
	stack := []string{p}
	for len(stack) > 0 {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for child := range f.below[dir] {
			if old, ok := f.facts.Files[child]; ok {
				f.hide(child, old, by)
			}
			stack = append(stack, child)
		}
		delete(f.below, dir)
	}
}

// packages takes, of each package database, what the topmost layer that has it says, if it is still there.
func (f *folding) packages(layers []LayerFacts) {
	top := map[string]int{}
	for i, l := range layers {
		for _, p := range l.Packages {
			top[p.File] = i
		}
	}
	for i, l := range layers {
		for _, p := range l.Packages {
			if top[p.File] != i {
				continue
			}
			if _, visible := f.facts.Files[f.resolveDir(p.File)]; visible || p.File == "" {
				f.facts.Packages = append(f.facts.Packages, p)
			}
		}
	}
}

// resolveDir cleans a path as facts write them.
func (f *folding) resolveDir(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// createdBy returns the history's step of each layer.
func createdBy(config ImageConfig) []string {
	var steps []string
	for _, h := range config.History {
		if !h.EmptyLayer {
			steps = append(steps, h.CreatedBy)
		}
	}
	return steps
}

// maxLinks is as many links as Linux follows in one path (path_resolution(7)).
const maxLinks = 40

// Resolve follows links inside the image from a path and returns the file that it comes to, as a process whose root is
// the image would. ok is false when nothing is there or the links never end.
func (f ImageFacts) Resolve(p string) (file VisibleFile, ok bool) {
	parts := split(p)
	done := ""
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		if part == ".." {
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		next := path.Join(done, part)
		here, exists := f.Files[next]
		if !exists || here.Type != Symlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return VisibleFile{}, false
		}
		if strings.HasPrefix(here.Target, "/") {
			done = ""
		}
		parts = append(split(here.Target), parts...)
	}
	file, ok = f.Files[done]
	if ok && file.Type == Hardlink {
		if target, exists := f.Files[file.Target]; exists {
			return target, true
		}
	}
	return file, ok
}

func split(p string) []string {
	var parts []string
	for _, part := range strings.Split(p, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}
