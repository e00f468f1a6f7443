package layer

import (
	"archive/tar"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"waybill/artifact"
)

// readTar lists an archive's entries.
func readTar(r io.Reader, limits Limits) (artifact.LayerFacts, error) {
	facts := artifact.LayerFacts{Files: []artifact.File{}, Contents: map[string]string{}}
	archive := tar.NewReader(r)
	looker := newLooker()
	var declared, names int64
	for entries := 1; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return facts, nil
		} else if err != nil {
			return facts, fmt.Errorf("after %d entries: %w", entries-1, cutOff(err))
		}
		if entries > limits.Entries {
			return facts, fmt.Errorf("it has more than %d entries", limits.Entries)
		}
		// A sparse file's size is what it unpacks to, however few bytes stand in the archive.
		if declared += header.Size; header.Size < 0 || declared > limits.Uncompressed {
			return facts, fmt.Errorf("its files are larger than %d bytes together", limits.Uncompressed)
		}
		file, err := entry(header, limits)
		if err != nil {
			return facts, err
		}
		if header.Typeflag == tar.TypeXGlobalHeader || file.Path == "." && file.Type == artifact.Dir {
			continue // what git archive puts first, and the root itself
		}
		if file.Path == "." && file.Type != artifact.Opaque {
			return facts, fmt.Errorf("the root itself is a %s in it", file.Type)
		}
		if names += int64(len(file.Path) + len(file.Target)); names > limits.Names {
			return facts, fmt.Errorf("its paths are longer than %d bytes together", limits.Names)
		}
		if file.Type == artifact.Regular {
			seen, err := looker.look(archive, file)
			if err != nil {
				return facts, fmt.Errorf("%.200q: %w", file.Path, cutOff(err))
			}
			file.Marks = seen.marks
			delete(facts.Contents, file.Path)
			if seen.keep != nil {
				facts.Contents[file.Path] = artifact.Escape(string(seen.keep))
			}
		}
		facts.Files = append(facts.Files, file)
	}
}

// cutOff gives the end that came too early its name; of a compressed stream it has one already.
func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the archive is cut off")
	}
	return err
}

// The names of OCI image-spec 1.1, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

func entry(h *tar.Header, limits Limits) (artifact.File, error) {
	name, err := cleanPath(h.Name, limits)
	if err != nil {
		return artifact.File{}, err
	}
	name = artifact.Escape(name)
	if strings.HasPrefix(name, whiteoutPrefix) && strings.Contains(name, "/") || strings.Contains(path.Dir(name), "/"+whiteoutPrefix) {
		return artifact.File{}, fmt.Errorf("%.200q lies in a folder named like a whiteout: runtimes differ in what becomes of it", h.Name)
	}
	if err := attributes(h.PAXRecords); err != nil {
		return artifact.File{}, fmt.Errorf("%.200q %w", h.Name, err)
	}
	f := artifact.File{Path: name, Mode: uint32(h.Mode & 0o7777), UID: h.Uid, GID: h.Gid}
	dir, base := path.Split(name)
	switch {
	case base == opaqueName:
		return artifact.File{Path: path.Clean(dir + "."), Type: artifact.Opaque}, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		hidden := strings.TrimPrefix(base, whiteoutPrefix)
		if hidden == "" || hidden == "." || hidden == ".." {
			return f, fmt.Errorf("whiteout %.200q names nothing", h.Name)
		}
		return artifact.File{Path: path.Join(dir, hidden), Type: artifact.Whiteout}, nil
	}
	f.Capabilities = capabilities(h.PAXRecords)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, '\x00':
		f.Type, f.Size = artifact.Regular, h.Size
	case tar.TypeDir:
		f.Type = artifact.Dir
	case tar.TypeSymlink:
		if len(h.Linkname) > limits.Path {
			return f, fmt.Errorf("the target of %.200q is longer than %d bytes", h.Name, limits.Path)
		}
		f.Type, f.Target = artifact.Symlink, artifact.Escape(h.Linkname)
	case tar.TypeLink:
		f.Type = artifact.Hardlink
		if f.Target, err = cleanPath(h.Linkname, limits); err != nil {
			return f, fmt.Errorf("the hard link %.200q: %w", h.Name, err)
		}
		f.Target = artifact.Escape(f.Target)
	case tar.TypeChar, tar.TypeBlock:
		f.Type = artifact.Device
	case tar.TypeFifo:
		f.Type = artifact.Fifo
	case tar.TypeXGlobalHeader: // it is no entry; readTar drops it
	default:
		return f, fmt.Errorf("%.200q is of type %q, which no layer has", h.Name, h.Typeflag)
	}
	return f, nil
}

// Where archives keep extended attributes: star's way, which Go's runtimes read, and libarchive's, in base64.
const (
	starAttribute    = "SCHILY.xattr."
	archiveAttribute = "LIBARCHIVE.xattr."
	capability       = "security.capability"
)

// layered are extended attributes by which overlay file systems show something else than what lies there: what lower layers
// have hidden, another folder or file of them, another owner and mode (Linux, Documentation/filesystems/overlayfs.rst;
// containers/fuse-overlayfs, main.c). Some runtimes set what a layer brings of these, others do not. The ones that such
// file systems only keep books in (origin, impure, nlink) slip into layers now and then, and change nothing.
var layered = func() map[string]bool {
	all := map[string]bool{"user.fuseoverlayfs.opaque": true, "user.fuseoverlayfs.override_stat": true, "security.fuseoverlayfs.override_stat": true, "user.containers.override_stat": true}
	for _, space := range []string{"trusted.overlay.", "user.overlay."} {
		for _, name := range []string{"opaque", "redirect", "metacopy", "whiteout", "whiteouts"} {
			all[space+name] = true
		}
	}
	return all
}()

func attributes(records map[string]string) error {
	for key := range records {
		name, ok := strings.CutPrefix(key, starAttribute)
		if !ok {
			name, ok = strings.CutPrefix(key, archiveAttribute)
		}
		if ok && layered[name] {
			return fmt.Errorf("has the extended attribute %.100q, by which some file systems show something else than the layer holds", name)
		}
	}
	return nil
}

// capabilities reads struct vfs_cap_data (linux/capability.h): a word of revision and flags, then permitted and
// inheritable sets, one word or two of each. What is none counts as all, since runtimes and kernels differ in what
// they make of it.
func capabilities(records map[string]string) uint64 {
	value, ok := records[starAttribute+capability]
	if encoded, there := records[archiveAttribute+capability]; !ok && there {
		decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
		if ok = true; err == nil {
			value = string(decoded)
		}
	}
	if !ok {
		return 0
	}
	word := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32([]byte(value[4*i:]))) }
	switch {
	case len(value) == 12 && value[3] == 1:
		return word(1) | word(2)
	case len(value) == 20 && value[3] == 2, len(value) == 24 && value[3] == 3:
		return word(1) | word(2) | (word(3)|word(4))<<32
	}
	return math.MaxUint64
}

// cleanPath returns a path relative to the root, without ./ and trailing slashes, and refuses what could leave it.
func cleanPath(name string, limits Limits) (string, error) {
	switch {
	case name == "/":
		return ".", nil
	case strings.HasPrefix(name, "/"):
		return "", fmt.Errorf("%.200q is an absolute path", name)
	case len(name) > limits.Path:
		return "", fmt.Errorf("the path %.100q… is longer than %d bytes", name, limits.Path)
	case strings.ContainsRune(name, 0):
		return "", fmt.Errorf("the path %.200q holds a zero byte", name)
	case strings.Count(name, "/") >= limits.Depth:
		return "", fmt.Errorf("the path %.100q… is deeper than %d", name, limits.Depth)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("the path %.200q climbs with `..`", name)
		}
	}
	return path.Clean(name), nil
}
