package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"

	"waybill/artifact"
)

// copying is a COPY or ADD under way: what it adds, by path.
type copying struct {
	stage   *stage
	from    *tree
	source  instructions.SourcesAndDest
	chown   string
	chmod   string
	exclude []string
	parents bool
	unpack  bool // ADD: local archives are unpacked

	uid, gid int
	mode     int64 // -1: as it was
	added    map[string]*node
}

// entries evaluates the instruction, as the Dockerfile reference says of COPY and ADD.
func (c *copying) entries() ([]*node, error) {
	c.added, c.mode = map[string]*node{}, -1
	if err := c.ownership(); err != nil {
		return nil, err
	}
	dest := c.source.DestPath
	if !path.IsAbs(dest) {
		dir := dest == "." || dest == "" || strings.HasSuffix(dest, "/")
		dest = path.Join("/", c.stage.config.WorkingDir, dest)
		if dir && dest != "/" {
			dest += "/"
		}
	}
	for _, content := range c.source.SourceContents {
		data := []byte(content.Data)
		if content.Expand {
			expanded, err := c.stage.expand(content.Data)
			if err != nil {
				return nil, err
			}
			data = []byte(expanded)
		}
		target := dest
		if strings.HasSuffix(dest, "/") {
			target = path.Join(dest, content.Path)
		}
		if err := c.add(&node{kind: artifact.Regular, mode: 0o644, size: int64(len(data)), open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}, target); err != nil {
			return nil, err
		}
	}
	var sources []string
	for _, pattern := range c.source.SourcePaths {
		if strings.Contains(pattern, "://") || strings.HasPrefix(pattern, "git@") {
			return nil, artifact.Errorf(artifact.Unsupported, "%s: only files of the context, of a stage or of an image are copied; fetch it before the build", pattern)
		}
		found, err := c.glob(pattern)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	if len(sources)+len(c.source.SourceContents) > 1 && !strings.HasSuffix(dest, "/") {
		return nil, artifact.Errorf(artifact.Invalid, "several files are copied to %q; a folder's name ends with /", c.source.DestPath)
	}
	for _, source := range sources {
		if err := c.one(source, dest); err != nil {
			return nil, err
		}
	}
	all := make([]*node, 0, len(c.added))
	for _, n := range c.added {
		all = append(all, n)
	}
	return all, nil
}

// glob returns the paths that a pattern of path.Match matches, sorted; "" is the root.
func (c *copying) glob(pattern string) ([]string, error) {
	parts := splitPath(pattern)
	if slices.Contains(parts, "..") {
		parts = splitPath(path.Join("/", pattern))
	}
	clean := joinParts(parts)
	if clean == "" {
		return []string{""}, nil
	}
	if !strings.ContainsAny(clean, `*?[\`) {
		resolved, err := c.from.resolve(clean, false)
		if err != nil {
			return nil, err
		}
		if _, ok := c.from.nodes[resolved]; !ok {
			return nil, artifact.Errorf(artifact.NotFound, "%q is not there to be copied; is it named in .dockerignore?", pattern)
		}
		return []string{resolved}, nil
	}
	var found []string
	for _, name := range c.from.sorted("") {
		if ok, err := path.Match(clean, name); err != nil {
			return nil, artifact.Errorf(artifact.Invalid, "pattern %q: %w", pattern, err)
		} else if ok {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return nil, artifact.Errorf(artifact.NotFound, "nothing matches %q", pattern)
	}
	return found, nil
}

// one copies a file to a file or into a folder, or a folder's content into a folder.
func (c *copying) one(source, dest string) error {
	if c.parents {
		dest = path.Join(dest, path.Dir(source)) + "/"
	}
	n := c.from.nodes[source]
	if n != nil && n.kind == artifact.Symlink {
		// A link that is named itself is followed; one inside a folder is copied as it is.
		target, err := c.from.resolve(source, true)
		if err != nil {
			return err
		}
		if n = c.from.nodes[target]; n == nil {
			return artifact.Errorf(artifact.Invalid, "%s is a link to %s, which is not in the context", source, target)
		}
		if n.kind == artifact.Dir {
			source = target
		}
	}
	if n == nil || n.kind == artifact.Dir {
		return c.folder(source, dest)
	}
	if c.excluded(path.Base(source)) {
		return nil
	}
	if c.unpack {
		if done, err := c.archive(n, dest); err != nil || done {
			return err
		}
	}
	if strings.HasSuffix(dest, "/") || c.isDir(dest) {
		dest = path.Join(dest, path.Base(source))
	}
	return c.add(n, dest)
}

func (c *copying) folder(source, dest string) error {
	if err := c.add(&node{kind: artifact.Dir, mode: 0o755}, dest); err != nil {
		return err
	}
	for _, name := range c.from.sorted(source) {
		rel := strings.TrimPrefix(strings.TrimPrefix(name, source), "/")
		if c.excluded(rel) {
			continue
		}
		if err := c.add(c.from.nodes[name], path.Join(dest, rel)); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) excluded(rel string) bool {
	if len(c.exclude) == 0 {
		return false
	}
	matched, err := patternmatcher.MatchesOrParentMatches(rel, c.exclude)
	return err == nil && matched
}

func (c *copying) isDir(dest string) bool {
	p, err := c.stage.files.resolve(dest, true)
	if err != nil {
		return false
	}
	n, ok := c.stage.files.nodes[p]
	return p == "" || ok && n.kind == artifact.Dir
}

// add puts a file where it goes in the stage: links of the folders that lead there are followed, and folders that are
// missing are made.
func (c *copying) add(from *node, dest string) error {
	p, err := c.stage.files.resolve(path.Clean(dest), from.kind == artifact.Dir)
	if err != nil {
		return err
	}
	if p == "" || p == "." {
		return nil
	}
	for _, part := range parents(p) {
		if n, ok := c.stage.files.nodes[part]; ok && n.kind == artifact.Dir {
			continue
		}
		if _, ok := c.added[part]; !ok {
			c.added[part] = &node{path: part, kind: artifact.Dir, mode: 0o755, uid: c.uid, gid: c.gid}
		}
	}
	if from.kind == artifact.Dir {
		if n, ok := c.stage.files.nodes[p]; ok && n.kind == artifact.Dir {
			return nil // it is there, and keeps its owner and mode
		}
	}
	n := *from
	n.path = p
	if c.chown != "" { // else what comes from a stage keeps its owner; the context's files are root's
		n.uid, n.gid = c.uid, c.gid
	}
	if c.mode >= 0 && n.kind != artifact.Symlink {
		n.mode = c.mode
	}
	c.added[p] = &n
	return nil
}

func parents(p string) []string {
	var all []string
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}

// ownership evaluates --chown and --chmod.
func (c *copying) ownership() error {
	if c.chmod != "" {
		mode, err := strconv.ParseUint(c.chmod, 8, 12)
		if err != nil {
			return artifact.Errorf(artifact.Unsupported, "--chmod=%s: want an octal mode such as 0755", c.chmod)
		}
		c.mode = int64(mode)
	}
	if c.chown == "" {
		return nil
	}
	user, group, hasGroup := strings.Cut(c.chown, ":")
	var err error
	var primary int
	if c.uid, primary, err = c.lookup("etc/passwd", user); err != nil {
		return err
	}
	if c.gid = primary; !hasGroup {
		return nil
	}
	c.gid, _, err = c.lookup("etc/group", group)
	return err
}

// lookup returns the number of a user or group name, and of a user its group's.
func (c *copying) lookup(file, name string) (id, group int, err error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), int(n), nil
	}
	p, err := c.stage.files.resolve(file, true)
	if err != nil {
		return 0, 0, err
	}
	n, ok := c.stage.files.nodes[p]
	if !ok || n.open == nil {
		return 0, 0, artifact.Errorf(artifact.Invalid, "--chown=%s: the stage has no /%s; use a number", name, file)
	}
	r, err := n.open()
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	for lines := bufio.NewScanner(io.LimitReader(r, 1<<20)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) >= 3 && fields[0] == name {
			id, err = strconv.Atoi(fields[2])
			if err == nil && file == "etc/passwd" && len(fields) >= 4 {
				group, err = strconv.Atoi(fields[3])
			}
			return id, group, err
		}
	}
	return 0, 0, artifact.Errorf(artifact.Invalid, "--chown=%s: the stage's /%s has no such name", name, file)
}

// archive unpacks a local tar, compressed or not, into a folder; done is false when the file is none.
func (c *copying) archive(n *node, dest string) (done bool, err error) {
	r, err := n.open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	plain, err := plainTar(bufio.NewReaderSize(r, 1<<10))
	if err != nil || plain == nil {
		return false, err
	}
	t, err := loadTree(plain, c.stage.temp)
	if errors.Is(err, tar.ErrHeader) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, name := range t.sorted("") {
		if err := c.add(t.nodes[name], path.Join(dest, name)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// plainTar returns the tar in a file, or nil when it is none.
func plainTar(r *bufio.Reader) (io.Reader, error) {
	head, err := r.Peek(263)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) > 262 && bytes.HasPrefix(head[257:], []byte("ustar")):
		return r, nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil //nolint:nilerr // it only begins like one
		}
		return z, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, artifact.Errorf(artifact.Unsupported, "ADD does not unpack xz archives; use gzip, bzip2 or zstd")
	}
	return nil, nil
}

func joinParts(parts []string) string { return strings.Join(parts, "/") }
