package artifact

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Bounds of an image: what a runtime takes, and what stacking may cost.
const (
	MaxLayers  = 127       // docker's and containerd's; the kernel's overlay stops soon after
	maxNodes   = 1_000_000 // files and directories that a container would see
	maxEntries = 2_000_000 // of all layers together
)

// Fold stacks layers, lowest first, and returns what a container would see; see Folding.
func Fold(layers []LayerFacts, config ImageConfig) (ImageFacts, error) {
	f := NewFolding(config)
	for _, l := range layers {
		if err := f.Add(l); err != nil {
			return ImageFacts{}, err
		}
	}
	return f.Facts(), nil
}

// Folding stacks layers one after another, lowest first, as runtimes do (OCI image-spec 1.1, layer.md, "Applying
// Changesets"): a later entry replaces an earlier one of its path, a whiteout removes a path and all below it, an opaque
// directory all that lower layers have below it, and a file in place of a directory that directory's content. What
// runtimes would unpack differently from each other is an error, since what they unpack could not be told.
type Folding struct {
	facts   ImageFacts
	below   map[string][]string // of each directory, its children; some may be gone
	nodes   int                 // files and directories
	entries int
	created []string // the config's step of each layer

	layer    int
	linked   map[string]bool // names in this layer of bytes that have another name in it
	dirs     map[string]bool // directories that this layer's archive names
	gone     map[string]bool // what this layer's whiteouts remove, and whether lower layers have something below it
	packages []layerPackage
	notable  []string // paths that were notable in some layer; some may be gone
}

type layerPackage struct {
	Package
	layer int
}

// NewFolding begins with nothing. config gives each layer the step that made it.
func NewFolding(config ImageConfig) *Folding {
	return &Folding{facts: ImageFacts{Files: map[string]VisibleFile{}, Contents: map[string]string{}}, below: map[string][]string{}, created: createdBy(config), layer: -1}
}

// Freeze ends the adding: from then on f may be continued, by many at a time.
func (f *Folding) Freeze() {
	for dir, children := range f.below {
		f.below[dir] = slices.Clip(children) // whoever continues and appends gets a copy
	}
	f.packages, f.facts.Hidden = slices.Clip(f.packages), slices.Clip(f.facts.Hidden)
}

// Continue returns a folding of another image that begins with the same layers; f was frozen, and stays as it is.
func (f *Folding) Continue(config ImageConfig) *Folding {
	next := &Folding{below: maps.Clone(f.below), nodes: f.nodes, entries: f.entries, created: createdBy(config), layer: f.layer, packages: f.packages, notable: slices.Clone(f.notable)}
	next.facts = ImageFacts{Layers: slices.Clone(f.facts.Layers), Files: maps.Clone(f.facts.Files), Hidden: f.facts.Hidden, Contents: maps.Clone(f.facts.Contents)}
	for i := range next.facts.Layers {
		if next.facts.Layers[i].CreatedBy = ""; i < len(next.created) {
			next.facts.Layers[i].CreatedBy = next.created[i]
		}
	}
	return next
}

// Size is how many files and directories there are so far.
func (f *Folding) Size() int { return f.nodes + len(f.facts.Hidden) }

// Facts ends the folding.
func (f *Folding) Facts() ImageFacts {
	for _, hidden := range f.facts.Hidden {
		f.facts.Layers[hidden.Layer].Wasted += hidden.Size
	}
	f.takePackages()
	slices.Sort(f.notable)
	for _, p := range slices.Compact(f.notable) {
		if here, visible := f.facts.Files[p]; visible && here.IsNotable() {
			f.facts.Notable = append(f.facts.Notable, p)
		}
	}
	return f.facts
}

// Add stacks a layer on those before it. Its error is the layer's fault.
func (f *Folding) Add(l LayerFacts) error {
	if f.layer++; f.layer >= MaxLayers {
		return fmt.Errorf("the image has more than %d layers, and no runtime stacks so many", MaxLayers)
	}
	if f.entries += len(l.Files); f.entries > maxEntries {
		return fmt.Errorf("the layers have more than %d entries together", maxEntries)
	}
	summary := LayerSummary{Digest: l.Digest, DiffID: l.DiffID, Compressed: l.Compressed, Uncompressed: l.Uncompressed, Entries: len(l.Files)}
	if f.layer < len(f.created) {
		summary.CreatedBy = f.created[f.layer]
	}
	for _, e := range l.Files {
		summary.Unpacked += e.Size
	}
	f.facts.Layers = append(f.facts.Layers, summary)
	for _, p := range l.Packages {
		f.packages = append(f.packages, layerPackage{p, f.layer})
	}
	f.linked, f.dirs, f.gone = map[string]bool{}, nil, nil
	if err := f.whiteouts(l.Files); err != nil {
		return err
	}
	for _, e := range l.Files {
		if e.Type == Whiteout || e.Type == Opaque {
			continue
		}
		if err := f.add(e, l.Contents); err != nil {
			return err
		}
	}
	return nil
}

// lending are the bits of a mode by which a file runs, and by which it lends its owner's rights to who runs it.
const lending = 0o6111

// whiteouts hide what lower layers have, wherever in the archive they stand.
func (f *Folding) whiteouts(files []File) error {
	for _, e := range files {
		if e.Type != Whiteout && e.Type != Opaque {
			continue
		}
		if e.Path == "." && f.layer > 0 {
			return errors.New("it makes the root itself opaque: some runtimes hide all lower layers then, and others none; write a whiteout for each thing to remove")
		}
		obstacle, what := f.obstacle(e.Path)
		if here, ok := f.facts.Files[e.Path]; e.Type == Opaque && ok && here.Type != Dir {
			obstacle, what = e.Path, here.Type
		}
		switch {
		case obstacle != "" && f.replaces(obstacle, files):
			// The layer puts a directory there, which hides all that the obstacle led to.
		case obstacle != "":
			return passesThrough(e.Path, obstacle, what)
		case e.Type == Opaque:
			f.removeBelow(e.Path)
		default:
			f.goes(e.Path)
			f.remove(e.Path)
		}
	}
	return nil
}

// goes remembers what a whiteout is about to remove.
func (f *Folding) goes(p string) {
	below := f.any(p)
	if _, visible := f.facts.Files[p]; !visible && !below {
		return
	}
	if f.gone == nil {
		f.gone = map[string]bool{}
	}
	f.gone[p] = f.gone[p] || below
}

// any reports whether something is below a path.
func (f *Folding) any(p string) bool {
	return slices.ContainsFunc(f.below[p], func(child string) bool {
		_, visible := f.facts.Files[child]
		return visible || f.any(child)
	})
}

// shows is about what would show again of lower layers. A runtime that unpacks each layer by itself, for the kernel's
// overlay, has forgotten a whiteout, or a file in place of a directory, when a directory takes that name in the same
// layer; and one without privileges makes no devices.
func (f *Folding) shows(e File) error {
	if f.layer == 0 {
		return nil
	}
	old, exists := f.facts.Files[e.Path]
	_, gone := f.gone[e.Path]
	switch {
	case e.Type == Device && (gone || exists && old.Type != Device || f.any(e.Path)):
		return fmt.Errorf("%.200q is a device in place of something else: runtimes without privileges leave devices out; remove it with a whiteout in a layer before", e.Path)
	case e.Type == Dir && exists && old.Layer == f.layer && old.Type != Dir:
		return fmt.Errorf("%.200q is written as a %s and again as a directory in one layer: runtimes differ in what lower layers show there", e.Path, old.Type)
	}
	if len(f.gone) == 0 {
		return nil
	}
	for dir := e.Path; dir != "."; dir = path.Dir(dir) {
		if f.gone[dir] && (dir != e.Path || e.Type == Dir) {
			return fmt.Errorf("%.200q is removed and made again in one layer: runtimes differ in what lower layers show there; make it opaque instead", dir)
		}
	}
	return nil
}

// replaces reports whether the layer's archive names a directory.
func (f *Folding) replaces(dir string, files []File) bool {
	if f.dirs == nil {
		f.dirs = map[string]bool{}
		for _, e := range files {
			if e.Type == Dir {
				f.dirs[e.Path] = true
			}
		}
	}
	return f.dirs[dir]
}

func passesThrough(p, obstacle string, what FileType) error {
	return fmt.Errorf("%.200q lies below %.200q, which is a %s there: runtimes differ in where they unpack that; write it where it really lies", p, obstacle, what)
}

// obstacle returns what stands in the way to a path and is no directory; "" when nothing does. A directory that is there
// has none above it, or it would not be there.
func (f *Folding) obstacle(p string) (string, FileType) {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if parent, ok := f.facts.Files[dir]; ok && parent.Type == Dir {
			return "", ""
		} else if ok {
			return dir, parent.Type
		}
	}
	return "", ""
}

func (f *Folding) add(e File, contents map[string]string) error {
	if obstacle, what := f.obstacle(e.Path); obstacle != "" {
		return passesThrough(e.Path, obstacle, what)
	}
	if err := f.shows(e); err != nil {
		return err
	}
	content, kept := "", false
	switch e.Type {
	case Hardlink:
		target, ok := f.facts.Files[e.Target]
		if !ok || target.Layer != f.layer || target.Type == Dir {
			return fmt.Errorf("%.200q is a hard link to %.200q, which no earlier entry of its layer is: runtimes cannot unpack that", e.Path, e.Target)
		}
		f.linked[e.Path], f.linked[e.Target] = true, true
		content, kept = f.facts.Contents[e.Target]
		// A second name for the same bytes: it has their marks, and no size of its own. What its entry says of mode and
		// capabilities, docker and containerd set on those bytes too.
		target.Mode, target.Capabilities = target.Mode|e.Mode&lending, target.Capabilities|e.Capabilities
		f.facts.Files[e.Target] = target
		if target.IsNotable() {
			f.notable = append(f.notable, e.Target)
		}
		e.Marks, e.Mode, e.UID, e.GID, e.Capabilities = target.Marks, target.Mode, target.UID, target.GID, target.Capabilities
		if target.Type != Regular {
			e.Type, e.Target = target.Type, target.Target
		}
	case Regular:
		content, kept = contents[e.Path]
	}
	if old, exists := f.facts.Files[e.Path]; exists && old.Type != Dir {
		if f.linked[e.Path] && old.Layer == f.layer && e.Type != Hardlink {
			return fmt.Errorf("%.200q is written twice in one layer and has another name there: runtimes differ in what that holds", e.Path)
		}
		f.hide(e.Path, old)
	}
	if e.Type != Dir {
		f.removeBelow(e.Path) // a file in place of a directory, which the archive may never have named
	}
	if e.IsNotable() {
		f.notable = append(f.notable, e.Path)
	}
	f.facts.Files[e.Path] = VisibleFile{File: e, Layer: f.layer}
	if delete(f.facts.Contents, e.Path); kept {
		f.facts.Contents[e.Path] = content
	}
	return f.grow(e.Path)
}

// grow puts a path into the tree, with the directories that lead to it.
func (f *Folding) grow(p string) error {
	for child := p; ; child = path.Dir(child) {
		if _, known := f.below[child]; known {
			return nil
		}
		f.below[child] = []string{}
		if child == "." {
			return nil
		}
		if f.nodes++; f.nodes > maxNodes {
			return fmt.Errorf("the image has more than %d files and directories", maxNodes)
		}
		dir := path.Dir(child)
		defer func() { f.below[dir] = append(f.below[dir], child) }()
	}
}

// hide takes one file out of sight. Content replaced within one layer never travels twice, so it is not "hidden".
func (f *Folding) hide(p string, old VisibleFile) {
	delete(f.facts.Files, p)
	delete(f.facts.Contents, p)
	if old.Layer < f.layer && old.Type != Dir {
		f.facts.Hidden = append(f.facts.Hidden, HiddenFile{File: old.File, Layer: old.Layer, HiddenBy: f.layer})
	}
}

// remove takes a path and all below it out of sight.
func (f *Folding) remove(p string) {
	f.removeBelow(p)
	if old, ok := f.facts.Files[p]; ok {
		f.hide(p, old)
	}
}

func (f *Folding) removeBelow(p string) {
	stack := []string{p}
	for len(stack) > 0 {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, child := range f.below[dir] {
			if old, ok := f.facts.Files[child]; ok {
				f.hide(child, old)
			}
			stack = append(stack, child)
		}
		if dir != p {
			delete(f.below, dir)
			f.nodes--
		} else if _, known := f.below[dir]; known {
			f.below[dir] = nil
		}
	}
}

// takePackages takes, of each package database, what the topmost layer that has it says, if it is still there.
func (f *Folding) takePackages() {
	top := map[string]int{}
	for _, p := range f.packages {
		top[p.File] = p.layer
	}
	for _, p := range f.packages {
		if top[p.File] != p.layer {
			continue
		}
		if _, visible := f.facts.Files[strings.TrimPrefix(path.Clean("/"+p.File), "/")]; visible || p.File == "" {
			f.facts.Packages = append(f.facts.Packages, p.Package)
		}
	}
}

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
