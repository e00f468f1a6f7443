package builder

import (
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	mode "github.com/tonistiigi/dchapes-mode"

	"waybill/artifact"
)

// copying is a COPY or ADD under way. It follows what BuildKit's copier does step by step (tonistiigi/fsutil, copy/copy.go,
// and BuildKit's solver/llbsolver/file/backend.go), on a tree instead of a disk, so that both make the same files.
type copying struct {
	files   *tree           // that is copied to
	changed map[string]bool // paths that the layer will have
	from    *tree
	work    *workspace

	owner    *owner // of what is copied and made; nil: as it was, and root's what is made
	mode     *int64 // of --chmod=0755
	modeSet  *mode.Set
	include  *patternmatcher.PatternMatcher // of --parents
	exclude  *patternmatcher.PatternMatcher
	unpack   bool
	pending  []pendingDir  // folders on the way to what include matches
	hardlink map[*int]*int // the copies of files with several names
}

// pendingDir is a folder that is made once something in it is copied.
type pendingDir struct {
	from *node
	to   string
	done bool
}

// copyOptions are the flags of COPY and ADD.
type copyOptions struct {
	chown, chmod  string
	exclude       []string
	parents, link bool
	unpack        bool
}

// copyFiles evaluates a COPY or ADD whose words are expanded.
func (s *stage) copyFiles(command instructions.Command, from *tree, source instructions.SourcesAndDest, opt copyOptions) error {
	if err := s.load(); err != nil {
		return err
	}
	c := &copying{files: s.files, changed: map[string]bool{}, from: from, work: s.work, unpack: opt.unpack}
	if opt.link && opt.chmod == "" { // as BuildKit: a --chmod makes a plain copy of it
		c.files = newTree()
	}
	if err := c.options(opt); err != nil {
		return err
	}
	dest := destination(s.config().WorkingDir, source.DestPath)
	if len(source.SourcePaths)+len(source.SourceContents) > 1 && !strings.HasSuffix(dest, "/") {
		// BuildKit lets the last of them win, against what the Dockerfile reference says.
		if at, err := c.files.resolve(dest, true); err != nil || !isDir(c.files.get(at)) {
			return artifact.Errorf(artifact.Invalid, "several files are copied to %.200q; a folder's name ends with /", source.DestPath)
		}
	}
	for _, pattern := range source.SourcePaths {
		if err := c.pattern(pattern, dest, opt.parents); err != nil {
			return err
		}
	}
	for _, heredoc := range source.SourceContents {
		one := newTree()
		name := strings.TrimPrefix(path.Join("/", heredoc.Path), "/")
		one.put(&node{path: name, kind: artifact.Regular, mode: 0o644, size: int64(len(heredoc.Data)), content: inline(heredoc.Data)})
		c.from, c.include = one, nil
		if err := c.copy(name, dest); err != nil {
			return err
		}
	}
	return s.layer(historyOfCopy(command, source, opt), c)
}

// destination is an absolute path that keeps the slash at its end, which says that it is a folder.
func destination(workdir, dest string) string {
	dir := dest == "" || dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	if !path.IsAbs(dest) {
		dest = path.Join("/", workdir, dest)
	}
	if dest = path.Clean(dest); dir && dest != "/" {
		dest += "/"
	}
	return dest
}

func (c *copying) options(opt copyOptions) error {
	var err error
	if opt.chown != "" {
		if c.owner, err = c.lookup(opt.chown, true); err != nil {
			return err
		}
	}
	if opt.chmod != "" {
		if err := c.chmod(opt.chmod); err != nil {
			return err
		}
	}
	if len(opt.exclude) > 0 {
		if c.exclude, err = patternmatcher.New(opt.exclude); err != nil {
			return artifact.Errorf(artifact.Invalid, "--exclude: %w", err)
		}
	}
	return nil
}

// pattern copies what a source path, which may hold wildcards, matches.
func (c *copying) pattern(pattern, dest string, parents bool) error {
	c.include = nil
	if parents {
		pivot, rest, ok := strings.Cut(pattern, "/./")
		if !ok {
			pivot, rest = "/", pattern
		}
		if rest = strings.TrimPrefix(path.Join("/", rest), "/"); rest == "" {
			return artifact.Errorf(artifact.Invalid, "%.200q names no file whose folders --parents could keep", pattern)
		}
		var err error
		if c.include, err = patternmatcher.New([]string{rest}); err != nil {
			return artifact.Errorf(artifact.Invalid, "pattern %.200q: %w", pattern, err)
		}
		if !hasWildcards(pivot) && !hasWildcards(rest) && c.from.get(joinParts(splitPath(path.Join("/", pivot, rest)))) == nil {
			return notThere(pattern, "behind a link, which --parents follows none of")
		}
		pattern = pivot
	}
	found, err := c.glob(pattern)
	if err != nil {
		return err
	}
	for _, name := range found {
		if parents && !isDir(c.from.get(name)) && hasWildcards(pattern) {
			continue // nothing is below it
		}
		if c.unpack {
			if done, err := c.archive(name, dest); err != nil {
				return err
			} else if done {
				continue
			}
		}
		if err := c.copy(name, dest); err != nil {
			return err
		}
	}
	return nil
}

func notThere(pattern, why string) error {
	return artifact.Errorf(artifact.NotFound, "%.300q is not there to be copied: misspelt, named in %s, or %s", strings.TrimPrefix(pattern, "/"), ignoreFile, why)
}

func hasWildcards(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// glob returns the paths that a pattern of path.Match matches; "" is the root. Links that lead to what is matched are
// followed; a pattern that matches nothing is no error, a path that is not there is one.
func (c *copying) glob(pattern string) ([]string, error) {
	parts := splitPath(path.Join("/", pattern))
	fixed := 0
	for fixed < len(parts) && !hasWildcards(parts[fixed]) {
		fixed++
	}
	base := joinParts(parts[:fixed])
	at, err := c.from.resolve(base, true)
	if err != nil {
		return nil, err
	}
	if c.from.get(at) == nil {
		return nil, notThere(pattern, "a link that leads out of the context")
	}
	if fixed == len(parts) {
		return []string{base}, nil
	}
	found := []string{at}
	for _, part := range parts[fixed:] {
		var next []string
		for _, dir := range found {
			for _, name := range c.from.names(dir) {
				if ok, err := path.Match(part, name); err != nil {
					return nil, artifact.Errorf(artifact.Invalid, "pattern %.200q: %w", pattern, err)
				} else if ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		found = next
	}
	return found, nil
}

// copy copies a file to a file or into a folder, or a folder's content into a folder.
func (c *copying) copy(name, dest string) error {
	if folder, last := path.Split(dest); last != "" {
		if err := c.mkdirAll(folder); err != nil {
			return err
		}
	} else if err := c.mkdirAll(dest); err != nil {
		return err
	}
	to, err := c.files.resolve(dest, true)
	if err != nil {
		return err
	}
	at, err := c.from.resolve(name, true)
	if err != nil {
		return err
	}
	n := c.from.get(at)
	if n == nil {
		return artifact.Errorf(artifact.Invalid, "%s is a link to %s, which is not there to be copied", name, at)
	}
	there := c.files.get(to)
	if n.kind != artifact.Dir && isDir(there) {
		to = path.Join(to, path.Base(name))
	}
	made := parent(to)
	if n.kind == artifact.Dir && there == nil {
		made = to
	}
	if err := c.mkdirAll(made); err != nil {
		return err
	}
	c.hardlink, c.pending = map[*int]*int{}, nil
	return c.walk(walk{from: at, node: n, to: to})
}

// walk is one step of a copy.
type walk struct {
	from, rel, to string // rel: below what is copied; "" at its top
	node          *node
	nested        bool // a folder that is there takes on the owner and mode of the one that is copied
	include       patternmatcher.MatchInfo
	exclude       patternmatcher.MatchInfo
}

func (c *copying) walk(w walk) error {
	included, excluded, err := c.match(&w)
	if err != nil {
		return err
	}
	if included {
		if err := c.makePending(w.nested); err != nil {
			return err
		}
	}
	if w.node.kind != artifact.Dir {
		if !included {
			return nil
		}
		if isDir(c.files.get(w.to)) {
			return artifact.Errorf(artifact.Invalid, "/%s is a folder, and the file %s would replace it", w.to, w.from)
		}
		return c.put(w.node, w.to)
	}
	if included {
		if err := c.folder(w.node, w.to, w.nested); err != nil {
			return err
		}
	}
	if excluded && !c.exclude.Exclusions() {
		return nil
	}
	c.pending = append(c.pending, pendingDir{w.node, w.to, included})
	for _, name := range c.from.names(w.from) {
		below := path.Join(w.from, name)
		next := walk{from: below, rel: path.Join(w.rel, name), to: path.Join(w.to, name), node: c.from.get(below), nested: true, include: w.include, exclude: w.exclude}
		if err := c.walk(next); err != nil {
			return err
		}
	}
	c.pending = c.pending[:len(c.pending)-1]
	return nil
}

// match says whether --parents and --exclude want a path copied. What is named itself is not asked about.
func (c *copying) match(w *walk) (included, excluded bool, err error) {
	included = true
	if w.rel == "" {
		return true, false, nil
	}
	if c.include != nil {
		if included, w.include, err = c.include.MatchesUsingParentResults(w.rel, w.include); err != nil {
			return false, false, artifact.Errorf(artifact.Invalid, "--parents: %w", err)
		}
	}
	if c.exclude != nil {
		if excluded, w.exclude, err = c.exclude.MatchesUsingParentResults(w.rel, w.exclude); err != nil {
			return false, false, artifact.Errorf(artifact.Invalid, "--exclude: %w", err)
		}
	}
	return included && !excluded, excluded, nil
}

// makePending makes the folders that lead to what include matched.
func (c *copying) makePending(nested bool) error {
	for i := range c.pending {
		p := &c.pending[i]
		if p.done {
			continue
		}
		p.done = true
		if there := c.files.get(p.to); isDir(there) {
			if nested && p.to != "" {
				changed := *there
				changed.mode = p.from.mode
				c.set(&changed)
			}
		} else if err := c.folder(p.from, p.to, nested); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) folder(n *node, to string, nested bool) error {
	there := c.files.get(to)
	if there != nil && there.kind != artifact.Dir {
		return artifact.Errorf(artifact.Invalid, "/%s is no folder, and a folder would be copied to it", to)
	}
	if to == "" || there != nil && !nested {
		return nil
	}
	return c.put(n, to)
}

// put copies a node, with the owner and mode that the flags give it.
func (c *copying) put(from *node, to string) error {
	if strings.HasPrefix(path.Base(to), whiteoutPrefix) {
		return artifact.Errorf(artifact.Invalid, "/%s cannot be in an image: names that begin with %s stand for removed files in layers", to, whiteoutPrefix)
	}
	n := *from
	n.path = to
	if c.owner != nil {
		n.uid, n.gid = c.owner.uid, c.owner.gid
	}
	if n.kind != artifact.Symlink {
		n.mode = c.modeOf(from)
	}
	if from.file != nil {
		if c.hardlink[from.file] == nil {
			c.hardlink[from.file] = new(int)
		}
		n.file = c.hardlink[from.file]
	}
	c.set(&n)
	return nil
}

var specialBits = map[int64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky}

func (c *copying) set(n *node) {
	c.files.put(n)
	c.changed[n.path] = true
}

// mkdirAll makes a folder and those that lead to it, links followed, with the mode and owner of what is copied.
func (c *copying) mkdirAll(p string) error {
	if c.mode != nil {
		return c.mkdirAs(p, *c.mode&0o777)
	}
	return c.mkdirAs(p, 0o755)
}

func (c *copying) mkdirAs(p string, mode int64) error {
	at, err := c.files.resolve(p, true)
	if err != nil {
		return err
	}
	if at == "" {
		return nil
	}
	made := node{kind: artifact.Dir, mode: mode}
	if c.owner != nil {
		made.uid, made.gid = c.owner.uid, c.owner.gid
	}
	for _, dir := range append(parents(at), at) {
		switch there := c.files.get(dir); {
		case there == nil:
			n := made
			n.path = dir
			c.set(&n)
		case there.kind != artifact.Dir:
			return artifact.Errorf(artifact.Invalid, "/%s is no folder, and something would be copied into it", dir)
		}
	}
	return nil
}
