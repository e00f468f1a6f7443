// Package builder makes images from source, once: a plan with every input pinned, a key over all of them, and an engine
// that gives the same bytes for the same key on any machine.
package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"waybill/artifact"
)

// Bounds of a build context.
const (
	maxContextFiles = 200_000
	maxContextBytes = 4 << 30
	ignoreFile      = ".dockerignore"
	defaultFile     = "Dockerfile"
)

// Pack writes a folder as a tar, without what its .dockerignore names. The archive follows from names, contents and
// whether a file is executable, and from nothing else: not from times, owners, umask or the order of a folder.
func Pack(dir string, w io.Writer) error {
	ignored, err := loadIgnore(os.DirFS(dir))
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	files, total := 0, int64(0)
	err = filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		// The two files are sent in any case, for the server to read; it leaves them out of copies in its turn.
		if name != defaultFile && name != ignoreFile {
			skip, err := ignored.matches(name)
			if err != nil {
				return err
			}
			if skip {
				if entry.IsDir() && !ignored.exceptions() {
					return filepath.SkipDir
				}
				return nil
			}
		}
		if files++; files > maxContextFiles {
			return artifact.Errorf(artifact.TooLarge, "the build context has more than %d files; leave some out with a %s", maxContextFiles, ignoreFile)
		}
		n, err := packOne(out, p, name, entry)
		if total += n; total > maxContextBytes {
			return artifact.Errorf(artifact.TooLarge, "the build context is larger than %d GiB; leave something out with a %s", maxContextBytes>>30, ignoreFile)
		}
		return err
	})
	return errors.Join(err, out.Close())
}

func packOne(out *tar.Writer, p, name string, entry fs.DirEntry) (int64, error) {
	info, err := entry.Info()
	if err != nil {
		return 0, err
	}
	h := &tar.Header{Name: name, Mode: normalMode(info.Mode()), Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	switch {
	case info.Mode().IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		f, err := os.Open(p)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if err := out.WriteHeader(h); err != nil {
			return 0, err
		}
		n, err := io.Copy(out, io.LimitReader(f, info.Size()))
		if err == nil && n != info.Size() {
			err = fmt.Errorf("%s changed while it was read; build again", name)
		}
		return n, err
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = os.Readlink(p); err != nil {
			return 0, err
		}
	default:
		return 0, artifact.Errorf(artifact.Invalid, "%s is a device, socket or pipe, which no image can hold; leave it out with a %s", name, ignoreFile)
	}
	return 0, out.WriteHeader(h)
}

// normalMode is git's notion: a file is executable or not, whatever umask it was checked out with.
func normalMode(m fs.FileMode) int64 {
	if m.IsDir() || m&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// ignore is a .dockerignore.
type ignore struct {
	matcher *patternmatcher.PatternMatcher
}

func loadIgnore(dir fs.FS) (ignore, error) {
	f, err := dir.Open(ignoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return ignore{}, nil
	} else if err != nil {
		return ignore{}, err
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return ignore{}, artifact.Errorf(artifact.Invalid, "%s: %w", ignoreFile, err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return ignore{}, artifact.Errorf(artifact.Invalid, "%s: %w", ignoreFile, err)
	}
	return ignore{matcher}, nil
}

func (i ignore) matches(name string) (bool, error) {
	if i.matcher == nil {
		return false, nil
	}
	return i.matcher.MatchesOrParentMatches(name)
}

func (i ignore) exceptions() bool { return i.matcher != nil && i.matcher.Exclusions() }

// unpack writes a context archive below root. os.Root lets nothing out of it: a link that leads out stays a link, and
// is not followed.
func unpack(r io.Reader, root *os.Root) error {
	archive := tar.NewReader(r)
	files, total := 0, int64(0)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return artifact.Errorf(artifact.Invalid, "the build context is no tar archive: %w", err)
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return artifact.Errorf(artifact.Invalid, "the build context holds %.200q, which is outside of it", h.Name)
		}
		if files++; files > maxContextFiles {
			return artifact.Errorf(artifact.TooLarge, "the build context has more than %d files", maxContextFiles)
		}
		if total += h.Size; total > maxContextBytes {
			return artifact.Errorf(artifact.TooLarge, "the build context is larger than %d GiB", maxContextBytes>>30)
		}
		if err := unpackOne(root, name, h, archive); err != nil {
			return err
		}
	}
}

func unpackOne(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	invalid := func(err error) error {
		if err == nil {
			return nil
		}
		return artifact.Errorf(artifact.Invalid, "the build context's %.200q: %w", h.Name, err)
	}
	if name == "." {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return invalid(err)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return invalid(err)
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(normalMode(h.FileInfo().Mode())))
		if err != nil {
			return invalid(err)
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		return invalid(root.Symlink(h.Linkname, name))
	default:
		return artifact.Errorf(artifact.Invalid, "the build context's %.200q is neither file, folder nor symbolic link", h.Name)
	}
	return nil
}

// contextTree lists an unpacked context, without what its .dockerignore names.
func contextTree(root *os.Root) (*tree, error) {
	ignored, err := loadIgnore(root.FS())
	if err != nil {
		return nil, err
	}
	t := newTree()
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		skip, err := ignored.matches(name)
		if err != nil || skip {
			return err // a folder's exceptions may still be wanted
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		n := &node{path: name, mode: normalMode(info.Mode())}
		switch {
		case info.IsDir():
			n.kind = artifact.Dir
		case info.Mode()&fs.ModeSymlink != 0:
			n.kind, n.mode = artifact.Symlink, 0o777
			if n.target, err = root.Readlink(name); err != nil {
				return err
			}
		default:
			n.kind, n.size = artifact.Regular, info.Size()
			n.open = func() (io.ReadCloser, error) { return root.Open(name) }
		}
		t.put(n)
		return nil
	})
	return t, err
}

// node is a file of a tree.
type node struct {
	path     string // cleaned and relative
	kind     artifact.FileType
	mode     int64
	uid, gid int
	size     int64
	target   string // of a link
	open     func() (io.ReadCloser, error)
}

// tree is what can be copied from, or what is there already: a context, or a stage's file system.
type tree struct{ nodes map[string]*node }

func newTree() *tree { return &tree{map[string]*node{}} }

func (t *tree) put(n *node) {
	t.nodes[n.path] = n
	for dir := path.Dir(n.path); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.nodes[dir]; ok {
			return
		}
		t.nodes[dir] = &node{path: dir, kind: artifact.Dir, mode: 0o755}
	}
}

// sorted returns the paths below a folder ("" is all), without the folder itself.
func (t *tree) sorted(dir string) []string {
	var names []string
	for name := range t.nodes {
		if dir == "" || strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// resolve follows links, inside the tree, in all of a path (or all but its last part) and returns where it leads.
func (t *tree) resolve(p string, last bool) (string, error) {
	parts, done := splitPath(p), ""
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		if part == ".." {
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		next := path.Join(done, part)
		n, ok := t.nodes[next]
		if !ok || n.kind != artifact.Symlink || (len(parts) == 0 && !last) {
			done = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%q: too many links", p)
		}
		if strings.HasPrefix(n.target, "/") {
			done = ""
		}
		parts = append(splitPath(n.target), parts...)
	}
	return done, nil
}

func splitPath(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}
