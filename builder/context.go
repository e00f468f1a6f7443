// Package builder makes images from source, once: a plan with every input pinned, a key over all of them, and an engine
// that gives the same bytes for the same key on any machine.
package builder

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"waybill/artifact"
)

// Limits bound what a build reads. The zero value of each is the default.
type Limits struct {
	Context  int64 // bytes of a context. Default 4 GiB
	Files    int   // files, folders and links of a context. Default 200,000
	Unpacked int64 // bytes that are unpacked of archives that ADD names, and of bases that files are copied from. Default 20 GiB
}

func (l Limits) withDefaults() Limits {
	if l.Context == 0 {
		l.Context = 4 << 30
	}
	if l.Files == 0 {
		l.Files = 200_000
	}
	if l.Unpacked == 0 {
		l.Unpacked = 20 << 30
	}
	return l
}

const (
	ignoreFile  = ".dockerignore"
	defaultFile = "Dockerfile"
)

// Pack writes a folder as a tar, without what its .dockerignore names. The archive follows from names, contents and
// whether a file is executable, and from nothing else: not from times, owners, umask or the order of a folder. How much it may be
// is for who reads it to say.
func Pack(dir, dockerfile string, w io.Writer) error {
	if dockerfile == "" {
		dockerfile = defaultFile
	}
	dockerfile = path.Clean(dockerfile)
	ignored, err := loadIgnore(dockerfile, func(name string) ([]byte, bool, error) {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		return b, err == nil, err
	})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	buffer := make([]byte, 256<<10)
	err = filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		// These are sent in any case, for the server to read; it leaves them out of copies in its turn.
		if name != dockerfile && name != ignoreFile && name != dockerfile+ignoreFile {
			skip, err := ignored.matches(name, entry.IsDir())
			if err != nil {
				return err
			}
			if skip {
				if entry.IsDir() && !ignored.exceptions() && !strings.HasPrefix(dockerfile, name+"/") {
					return filepath.SkipDir
				}
				return nil
			}
		}
		return packOne(out, p, name, entry, buffer)
	})
	return errors.Join(err, out.Close())
}

func packOne(out *tar.Writer, p, name string, entry fs.DirEntry, buffer []byte) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: normalMode(info.Mode()), Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	switch {
	case info.Mode().IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		n, err := io.CopyBuffer(out, struct{ io.Reader }{io.LimitReader(f, info.Size())}, buffer)
		if err == nil && n != info.Size() {
			err = fmt.Errorf("%s changed while it was read; build again", name)
		}
		return err
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = os.Readlink(p); err != nil {
			return err
		}
	default:
		return artifact.Errorf(artifact.Invalid, "%s is a device, socket or pipe, which no image can hold; leave it out with a %s", name, ignoreFile)
	}
	return out.WriteHeader(h)
}

// normalMode is git's notion: a file is executable or not, whatever umask it was checked out with.
func normalMode(m fs.FileMode) int64 {
	if m.IsDir() || m&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// ignore is a .dockerignore. It is asked about folders before what is in them.
type ignore struct {
	matcher *patternmatcher.PatternMatcher
	folders map[string]patternmatcher.MatchInfo
}

// loadIgnore reads DOCKERFILE.dockerignore, or else .dockerignore, as BuildKit does.
func loadIgnore(dockerfile string, read func(name string) ([]byte, bool, error)) (ignore, error) {
	for _, name := range []string{dockerfile + ignoreFile, ignoreFile} {
		b, ok, err := read(name)
		if err != nil {
			return ignore{}, err
		}
		if !ok {
			continue
		}
		if len(b) > maxDockerfile {
			return ignore{}, artifact.Errorf(artifact.TooLarge, "%s is larger than %s", name, size(maxDockerfile))
		}
		patterns, err := ignorefile.ReadAll(strings.NewReader(string(b)))
		if err != nil {
			return ignore{}, artifact.Errorf(artifact.Invalid, "%s: %w", name, err)
		}
		matcher, err := patternmatcher.New(patterns)
		if err != nil {
			return ignore{}, artifact.Errorf(artifact.Invalid, "%s: %w", name, err)
		}
		return ignore{matcher, map[string]patternmatcher.MatchInfo{}}, nil
	}
	return ignore{}, nil
}

// matches asks as BuildKit does, which looks at a folder's patterns once: "!src" does not bring back what "**/*.o" names below
// src, as "!src/**" does.
func (i ignore) matches(name string, folder bool) (bool, error) {
	if i.matcher == nil {
		return false, nil
	}
	skip, info, err := i.matcher.MatchesUsingParentResults(name, i.folders[parent(name)])
	if folder {
		i.folders[name] = info
	}
	return skip, err
}

func (i ignore) exceptions() bool { return i.matcher != nil && i.matcher.Exclusions() }

// withoutIgnored is the context as copies see it.
func withoutIgnored(files *tree, dockerfile string) (*tree, error) {
	ignored, err := loadIgnore(dockerfile, func(name string) ([]byte, bool, error) { return files.read(name, maxDockerfile) })
	if err != nil || ignored.matcher == nil {
		return files, err
	}
	t := newTree()
	for _, name := range files.sorted() {
		n := files.nodes[name]
		skip, err := ignored.matches(name, n.kind == artifact.Dir)
		if err != nil {
			return nil, artifact.Errorf(artifact.Invalid, "%s: %w", ignoreFile, err)
		}
		if !skip {
			t.put(n) // and the folders that lead there, when they are ignored
		}
	}
	return t, nil
}

// unpacking lists a context archive, and writes what is in its files to one file, one after the other: no path of the
// archive is one on disk, and a thousand small files cost no more than a large one.
type unpacking struct {
	files  *tree
	spool  *os.File
	used   int64
	limits Limits
	buffer []byte
}

// unpack reads a context, compressed or not, to its end, into an empty file.
func unpack(r io.Reader, spool *os.File, limits Limits) (*tree, error) {
	u := &unpacking{files: newTree(), spool: spool, limits: limits.withDefaults(), buffer: make([]byte, 256<<10)}
	plain, err := plainTar(io.NopCloser(r))
	if err != nil {
		return nil, readError(err)
	}
	defer plain.Close()
	ending := &zeros{r: plain}
	archive := tar.NewReader(ending)
	count, total := 0, int64(0)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			if ending.n < tarEnd && count > 0 {
				return nil, readError(io.ErrUnexpectedEOF) // between two files, which tar.Reader takes for the end
			}
			return u.files, nil
		} else if err != nil {
			return nil, readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // git archive begins with one
			continue
		}
		name := path.Clean(h.Name)
		if len(name) > maxPath || strings.Count(name, "/") >= maxDepth {
			return nil, artifact.Errorf(artifact.Invalid, "the build context holds a path of %d bytes and %d names; %d and %d are possible", len(name), strings.Count(name, "/")+1, maxPath, maxDepth)
		}
		if !filepath.IsLocal(name) {
			return nil, artifact.Errorf(artifact.Invalid, "the build context holds %.200q, which is outside of it", h.Name)
		}
		if count++; count > u.limits.Files {
			return nil, artifact.Errorf(artifact.TooLarge, "the build context has more than %d files; leave some out with a %s, or raise builder.files in the configuration", u.limits.Files, ignoreFile)
		}
		if total += h.Size; total > u.limits.Context || h.Size < 0 {
			return nil, artifact.Errorf(artifact.TooLarge, "the build context is larger than %s (%.200q would exceed it); leave something out with a %s, or raise builder.context in the configuration", size(u.limits.Context), name, ignoreFile)
		}
		if name == "." {
			continue
		}
		if err := u.one(name, h, archive); err != nil {
			return nil, full(err)
		}
	}
}

// tarEnd is how many zeros end an archive (POSIX.1-2024, pax, "ustar Interchange Format").
const tarEnd = 1024

// zeros counts those that what was read ends with.
type zeros struct {
	r io.Reader
	n int64
}

func (z *zeros) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if rest := len(bytes.TrimRight(p[:n], "\x00")); rest > 0 {
		z.n = int64(n - rest)
	} else {
		z.n += int64(n)
	}
	return n, err
}

// readError tells what breaks off from what is no archive; a bound of who sends it says so itself.
func readError(err error) error {
	var known *artifact.Error
	if errors.As(err, &known) {
		return known
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return artifact.Errorf(artifact.Invalid, "the build context breaks off; send it again: %w", err)
	}
	return artifact.Errorf(artifact.Invalid, "the build context is no tar archive: %w", err)
}

// full says so when the disk is.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return artifact.Errorf(artifact.Full, "the disk that builds work on is full; the operator must make room: %w", err)
	}
	return err
}

func (u *unpacking) one(name string, h *tar.Header, content io.Reader) error {
	if there := u.files.get(name); there != nil && (there.kind != artifact.Dir || h.Typeflag != tar.TypeDir) {
		return artifact.Errorf(artifact.Invalid, "the build context holds %.200q twice", h.Name)
	}
	for dir := parent(name); dir != ""; dir = parent(dir) {
		there := u.files.get(dir)
		if there != nil && there.kind != artifact.Dir {
			return artifact.Errorf(artifact.Invalid, "the build context's %.200q is below %.200q, which is no folder", h.Name, dir)
		}
		if there != nil {
			break
		}
	}
	n := &node{path: name, mode: normalMode(h.FileInfo().Mode())}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind, n.mode = artifact.Dir, 0o755
	case tar.TypeReg, '\x00':
		n.kind = artifact.Regular
		if err := u.write(n, content); err != nil {
			return err
		}
	case tar.TypeLink:
		original := u.files.get(path.Clean(h.Linkname))
		if original == nil || original.kind != artifact.Regular {
			return artifact.Errorf(artifact.Invalid, "the build context's %.200q is a link to %.200q, which is no file of it before", h.Name, h.Linkname)
		}
		copied := *original
		copied.path = name
		n = &copied
	case tar.TypeSymlink:
		n.kind, n.mode, n.target = artifact.Symlink, 0o777, h.Linkname
	default:
		return artifact.Errorf(artifact.Invalid, "the build context's %.200q is neither file, folder nor link", h.Name)
	}
	u.files.put(n)
	return nil
}

func (u *unpacking) write(n *node, content io.Reader) error {
	sum := sha256.New()
	var err error
	n.size, err = io.CopyBuffer(io.MultiWriter(io.NewOffsetWriter(u.spool, u.used), sum), struct{ io.Reader }{content}, u.buffer)
	n.sum = hexSum(sum)
	n.content = section{u.spool, u.used, n.size}
	u.used += n.size
	if err != nil && full(err) == err { //nolint:errorlint // full returns err itself when the disk is not
		return readError(err)
	}
	return err
}

// writeContext writes the whole context, with what is ignored, below an empty folder, for an engine that wants it on disk.
// os.Root lets nothing out of it: a link that leads out stays a link, and is not followed.
func (p *Plan) writeContext(root *os.Root) error {
	for _, name := range p.sent.sorted() {
		n := p.sent.nodes[name]
		var err error
		switch n.kind {
		case artifact.Dir:
			err = root.Mkdir(name, 0o755)
		case artifact.Symlink:
			err = root.Symlink(n.target, name)
		default:
			err = writeFile(root, n)
		}
		if err != nil {
			return full(err)
		}
	}
	return nil
}

func writeFile(root *os.Root, n *node) error {
	r, err := n.content.open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := root.OpenFile(n.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(n.mode))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
