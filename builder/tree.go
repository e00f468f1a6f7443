package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"waybill/artifact"
)

// node is a file of a tree. It is not changed once it is in one.
type node struct {
	path     string // cleaned and relative
	kind     artifact.FileType
	mode     int64 // permission bits, and those of setuid, setgid and sticky
	uid, gid int
	size     int64
	target   string // of a symbolic link
	xattrs   map[string]string
	device   *device
	content  content // of a regular file
	sum      string  // SHA-256 of the content in hex, where it is known
	file     *int    // the same for the names of one file; nil when it has one name
}

type device struct {
	typeflag     byte // tar.TypeChar, tar.TypeBlock or tar.TypeFifo
	major, minor int64
}

// content is where a file's bytes are.
type content interface {
	open() (io.ReadCloser, error)
}

// inline is content in memory: a heredoc.
type inline []byte

func (b inline) open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// section is a part of a file.
type section struct {
	file     *os.File
	at, size int64
}

func (s section) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.file, s.at, s.size)), nil
}

// source is a tar whose files are read when they are copied: a layer, or an archive that ADD unpacks. So a base of
// gigabytes costs one pass over its headers, and the disk holds what is copied of it.
type source struct {
	stream func() (io.ReadCloser, error) // the plain tar, anew
	work   *workspace
}

// archived is the content of the nth entry of a source.
type archived struct {
	from *source
	nth  int
}

func (a archived) open() (io.ReadCloser, error) {
	if err := a.from.work.fetch(a.from, map[int]bool{a.nth: true}); err != nil {
		return nil, err
	}
	part, ok := a.from.work.part(a)
	if !ok {
		return nil, fmt.Errorf("entry %d of an archive is gone", a.nth)
	}
	return io.NopCloser(part), nil
}

// workspace holds what a build keeps on disk: layers, and one file with what was read of sources.
type workspace struct {
	folder string
	limit  int64      // bytes that may be unpacked
	layers LayerStore // nil: temporary files in folder

	mu      sync.Mutex // guards all below
	file    *os.File
	used    int64
	fetched map[archived]*io.SectionReader
}

func newWorkspace(folder string, limit int64) *workspace {
	return &workspace{folder: folder, limit: limit, fetched: map[archived]*io.SectionReader{}}
}

// Close closes the file; who made the folder removes it.
func (w *workspace) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

func (w *workspace) part(a archived) (*io.SectionReader, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	part, ok := w.fetched[a]
	if !ok {
		return nil, false
	}
	return io.NewSectionReader(part, 0, part.Size()), true
}

// fetch reads the wanted entries of a source in one pass over it, those that were not read before.
func (w *workspace) fetch(from *source, wanted map[int]bool) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	missing := 0
	for nth := range wanted {
		if _, ok := w.fetched[archived{from, nth}]; !ok {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	if w.file == nil {
		if w.file, err = os.CreateTemp(w.folder, "files-*"); err != nil {
			return err
		}
	}
	plain, err := from.stream()
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for nth := 0; missing > 0; nth++ {
		h, err := archive.Next()
		if err != nil {
			return fmt.Errorf("an archive changed while it was read: %w", err)
		}
		at := archived{from, nth}
		if _, ok := w.fetched[at]; ok || !wanted[nth] {
			continue
		}
		if w.used+h.Size > w.limit {
			return w.tooMuch()
		}
		n, err := io.Copy(io.NewOffsetWriter(w.file, w.used), archive)
		if err != nil {
			return err
		}
		w.fetched[at] = io.NewSectionReader(w.file, w.used, n)
		w.used += n
		missing--
	}
	return nil
}

func (w *workspace) tooMuch() error {
	return artifact.Errorf(artifact.TooLarge, "more than %s would be unpacked; builder.unpacked is the bound", size(w.limit))
}

// prefetch reads what entries need of sources, each source once.
func (w *workspace) prefetch(entries []*node) error {
	wanted := map[*source]map[int]bool{}
	for _, n := range entries {
		if a, ok := n.content.(archived); ok {
			if wanted[a.from] == nil {
				wanted[a.from] = map[int]bool{}
			}
			wanted[a.from][a.nth] = true
		}
	}
	for from, nths := range wanted {
		if err := w.fetch(from, nths); err != nil {
			return err
		}
	}
	return nil
}

// size spells a number of bytes.
func size(n int64) string {
	units := []string{"GiB", "MiB", "KiB"}
	for i, unit := range units {
		if by := int64(1) << (10 * (len(units) - i)); n >= by && n%by == 0 {
			return fmt.Sprintf("%d %s", n/by, unit)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// tree is what can be copied from, or what is there already: a context, or a stage's file system.
type tree struct {
	nodes map[string]*node
	below map[string][]string // names in a folder, sorted; nil until they are asked for
	drops int                 // how often something gave way with all that was below it
	lead  struct {
		top, dir, at string
		known        bool
	} // the folder that the last entry of an archive led to
}

func newTree() *tree { return &tree{nodes: map[string]*node{}} }

func (t *tree) clone() *tree {
	c := &tree{nodes: make(map[string]*node, len(t.nodes))}
	for p, n := range t.nodes {
		c.nodes[p] = n
	}
	return c
}

var rootNode = &node{kind: artifact.Dir, mode: 0o755}

// get returns what is at a path, links not followed; nil when there is nothing. "" is the root.
func (t *tree) get(p string) *node {
	if p == "" {
		return rootNode
	}
	return t.nodes[p]
}

func isDir(n *node) bool { return n != nil && n.kind == artifact.Dir }

// put sets what is at n's path. Folders that lead there are made; what is there and is no folder gives way.
func (t *tree) put(n *node) {
	if old, ok := t.nodes[n.path]; !ok {
		t.below = nil
	} else if old.kind == artifact.Dir && n.kind != artifact.Dir {
		t.drop(func(p string) bool { return strings.HasPrefix(p, n.path+"/") })
	}
	if n.kind != artifact.Dir {
		t.lead.known = t.lead.known && n.kind != artifact.Symlink && t.nodes[n.path] == nil
	} else if old := t.nodes[n.path]; old != nil && old.kind == artifact.Symlink {
		t.lead.known = false
	}
	t.nodes[n.path] = n
	for dir := path.Dir(n.path); dir != "."; dir = path.Dir(dir) {
		if isDir(t.nodes[dir]) {
			return
		}
		t.nodes[dir] = &node{path: dir, kind: artifact.Dir, mode: 0o755}
	}
}

func (t *tree) drop(gone func(p string) bool) {
	for p := range t.nodes {
		if gone(p) {
			delete(t.nodes, p)
		}
	}
	t.below, t.lead.known = nil, false
	t.drops++
}

// names returns the names in a folder, sorted.
func (t *tree) names(dir string) []string {
	if t.below == nil {
		t.below = map[string][]string{}
		for p := range t.nodes {
			parent, name := path.Split(p)
			parent = strings.TrimSuffix(parent, "/")
			t.below[parent] = append(t.below[parent], name)
		}
		for _, all := range t.below {
			slices.Sort(all)
		}
	}
	return t.below[dir]
}

// sorted returns all paths.
func (t *tree) sorted() []string {
	names := make([]string, 0, len(t.nodes))
	for name := range t.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// maxLinks is how many symbolic links a path may lead through, as many as Linux follows.
const maxLinks = 40

// resolve follows links, inside the tree, in all of a path (or all but its last part) and returns where it leads,
// whether or not something is there.
func (t *tree) resolve(p string, last bool) (string, error) { return t.resolveIn("", p, last) }

// resolveIn is resolve below a folder, which is taken for the root.
func (t *tree) resolveIn(top, p string, last bool) (string, error) {
	parts, done := splitPath(p), top
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		if part == ".." {
			if done != top {
				done = parent(done)
			}
			continue
		}
		next := path.Join(done, part)
		n, ok := t.nodes[next]
		if !ok || n.kind != artifact.Symlink || (len(parts) == 0 && !last) {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", artifact.Errorf(artifact.Invalid, "%.200q leads through more than %d links", p, maxLinks)
		}
		if strings.HasPrefix(n.target, "/") {
			done = top
		}
		parts = append(splitPath(n.target), parts...)
	}
	return done, nil
}

// parent is path.Dir with "" for the root.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func splitPath(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

func joinParts(parts []string) string { return strings.Join(parts, "/") }

// Bounds of an archive's listing, which is held in memory.
const (
	maxEntries = 1_000_000
	maxPath    = 4096
	maxDepth   = 255  // names in a path
	maxDrops   = 1000 // each is a pass over the tree
)

// list reads the headers of a source. Paths that climb out are refused.
func (s *source) list(each func(n *node, h *tar.Header) error) error {
	plain, err := s.stream()
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for nth := 0; ; nth++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return artifact.Errorf(artifact.Invalid, "the archive cannot be read: %w", err)
		}
		if nth >= maxEntries {
			return artifact.Errorf(artifact.TooLarge, "the archive has more than %d entries", maxEntries)
		}
		n, err := archiveNode(h)
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		if n.kind == artifact.Regular {
			n.content = archived{s, nth}
		}
		if err := each(n, h); err != nil {
			return err
		}
	}
}

// each reads the entries of a source in their order.
func (s *source) each(read func(nth int, content io.Reader) error) error {
	plain, err := s.stream()
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for nth := 0; ; nth++ {
		if _, err := archive.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := read(nth, archive); err != nil {
			return err
		}
	}
}

// archiveNode is what a header says; nil when that is nothing, or the root.
func archiveNode(h *tar.Header) (*node, error) {
	parts := splitPath(path.Clean(h.Name))
	if slices.Contains(parts, "..") {
		return nil, artifact.Errorf(artifact.Invalid, "the archive holds %.200q, which is outside of it", h.Name)
	}
	if len(h.Name) > maxPath {
		return nil, artifact.Errorf(artifact.Invalid, "the archive holds a path of %d bytes; %d are possible", len(h.Name), maxPath)
	}
	if len(parts) > maxDepth {
		return nil, artifact.Errorf(artifact.Invalid, "the archive holds a path of %d names; %d are possible", len(parts), maxDepth)
	}
	if len(parts) == 0 {
		return nil, nil
	}
	n := &node{path: joinParts(parts), mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok {
			if n.xattrs == nil {
				n.xattrs = map[string]string{}
			}
			n.xattrs[name] = value
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, '\x00': // the second in archives before POSIX's
		n.kind, n.size = artifact.Regular, h.Size
	case tar.TypeDir:
		n.kind = artifact.Dir
	case tar.TypeSymlink:
		n.kind, n.mode, n.target = artifact.Symlink, 0o777, h.Linkname
	case tar.TypeLink:
		n.kind, n.target = artifact.Hardlink, h.Linkname
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		n.kind, n.device = artifact.Device, &device{h.Typeflag, h.Devmajor, h.Devminor}
	default:
		return nil, nil
	}
	return n, nil
}

// xattrRecord begins the PAX records of extended attributes.
const xattrRecord = "SCHILY.xattr."
