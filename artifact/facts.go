package artifact

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// FactsFormat is the version of LayerFacts' meaning; facts of an older format are computed anew.
const FactsFormat = 3

// FileType is what an archive entry is.
type FileType string

// The types of a layer's entries; a whiteout hides its path, an opaque directory all that lower layers have below
// it (OCI image-spec 1.1, layer.md, "Whiteouts").
const (
	Regular  FileType = "file"
	Dir      FileType = "dir"
	Symlink  FileType = "symlink"
	Hardlink FileType = "hardlink"
	Device   FileType = "device"
	Fifo     FileType = "fifo"
	Whiteout FileType = "whiteout"
	Opaque   FileType = "opaque"
)

// Mark is something recognised in a file's bytes.
type Mark string

// The marks of daemons that give a remote shell, and of scripts that start one.
const (
	MarkSSHD     Mark = "openssh-server" // an OpenSSH daemon, under whatever name
	MarkDropbear Mark = "dropbear"       // a dropbear daemon, under whatever name
	MarkRunsSSHD Mark = "runs-sshd"      // a script that names sshd or dropbear as a command
)

// File is one entry of a layer.
type File struct {
	Path   string   `json:"path"` // cleaned and relative: usr/sbin/sshd; of a whiteout, the path that it hides; of an opaque, the directory
	Type   FileType `json:"type"`
	Mode   uint32   `json:"mode,omitempty"` // permission bits with setuid 04000, setgid 02000, sticky 01000
	UID    int      `json:"uid,omitempty"`
	GID    int      `json:"gid,omitempty"`
	Size   int64    `json:"size,omitempty"`   // bytes of a regular file as the file system shows it
	Target string   `json:"target,omitempty"` // of a link, as written in the archive (a hard link's: cleaned like Path)
	Marks  []Mark   `json:"marks,omitempty"`
	// Capabilities is what running the file gives, a bit for each of capabilities(7) that its security.capability
	// permits or lets it inherit.
	Capabilities uint64 `json:"capabilities,omitempty"`
}

// DaemonNames are file names that no program but a daemon of ssh bears.
var DaemonNames = []string{"sshd", "sshd-session", "dropbear", "dropbearmulti", "tinysshd"}

// IsNotable reports whether a rule may have a word about the file: of a hundred thousand, about a few. It has marks, lends
// rights to who runs it, or is named like a daemon.
func (f File) IsNotable() bool {
	return len(f.Marks) > 0 || f.Mode&0o6000 != 0 && f.Type != Dir || f.Capabilities != 0 || slices.Contains(DaemonNames, f.Path[strings.LastIndexByte(f.Path, '/')+1:])
}

// Escape writes bytes that are no UTF-8 as \xNN, and a backslash before an x as \x5c, so that two names never become one:
// JSON would write each such byte as U+FFFD, and one file could hide behind another's name. All names and contents of
// facts are written so; what is looked up in them is too.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || strings.HasPrefix(s[i:], `\x`) {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else {
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// LayerFacts is what the bytes of one layer say, learned in one pass and kept by the blob's digest for ever.
type LayerFacts struct {
	Format       int               `json:"format"`
	Digest       Digest            `json:"digest"`             // of the blob as stored
	DiffID       Digest            `json:"diffID"`             // sha256 of the uncompressed tar
	DiffID512    Digest            `json:"diffID512,omitzero"` // sha512 of it, where the blob's own digest is a sha512
	Compressed   int64             `json:"compressed"`         // bytes of the blob
	Uncompressed int64             `json:"uncompressed"`       // bytes of the tar
	Compression  string            `json:"compression"`        // gzip, zstd or none
	Files        []File            `json:"files"`              // in archive order; of two with one path the later counts
	Contents     map[string]string `json:"contents,omitempty"` // etc/passwd, etc/group, usr/lib/passwd …: small files that rules read, by path
	Packages     []Package         `json:"packages,omitempty"` // operating system packages whose database lies in this layer
}

// Package is an installed operating system or language package.
type Package struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Type     string   `json:"type"`           // deb, apk, rpm, gobinary, npm …
	File     string   `json:"file,omitempty"` // the package database or lock file that names it
	PURL     string   `json:"purl,omitempty"`
	Licenses []string `json:"licenses,omitempty"`
	Layer    Digest   `json:"layer,omitzero"` // the layer's diff id
}

// ImageFacts is what is left of an image's layers when they are stacked: see Fold.
type ImageFacts struct {
	Layers   []LayerSummary
	Files    map[string]VisibleFile // by cleaned relative path
	Hidden   []HiddenFile           // entries that a later layer removed or replaced
	Contents map[string]string      // of the visible files that facts keep
	Packages []Package              // by the topmost database file of each path
	Notable  []string               // paths of the Files that IsNotable is true of, sorted
}

// LayerSummary is a layer's share. Bytes are of regular files unless said otherwise.
type LayerSummary struct {
	Digest       Digest `json:"digest"`
	DiffID       Digest `json:"diffID"`
	Compressed   int64  `json:"compressed"`   // bytes of the blob
	Uncompressed int64  `json:"uncompressed"` // bytes of the tar
	Unpacked     int64  `json:"unpacked"`     // bytes of its files as they unpack: of a sparse one with its holes
	Entries      int    `json:"entries"`
	Wasted       int64  `json:"wasted"` // bytes of this layer that a later one hides
	CreatedBy    string `json:"createdBy,omitempty"`
}

// VisibleFile is a file of the stacked image, and the layer, counted from 0, that has it.
type VisibleFile struct {
	File
	Layer int `json:"layer"`
}

// HiddenFile is a file whose bytes still travel, though HiddenBy, a later layer, removed or replaced it.
type HiddenFile struct {
	File
	Layer    int `json:"layer"`
	HiddenBy int `json:"hiddenBy"`
}

// LayerLimits bound one layer, which may be made to fill whatever reads it. The zero value of each means its default.
type LayerLimits struct {
	Uncompressed int64 `json:"uncompressed,omitempty"` // bytes of the tar; default 20 GiB
	Ratio        int64 `json:"ratio,omitempty"`        // uncompressed to compressed, looked at beyond RatioFrom; default 100
	RatioFrom    int64 `json:"ratioFrom,omitempty"`    // bytes; default 3 GiB: so much may be zeros
	Entries      int   `json:"entries,omitempty"`      // default 1,000,000
	Path         int   `json:"path,omitempty"`         // bytes of a path; default 4096 (PATH_MAX of Linux)
	Depth        int   `json:"depth,omitempty"`        // components of a path; default 255
	Names        int64 `json:"names,omitempty"`        // bytes of all paths and link targets together, which are held in memory; default 256 MiB
}

// WithDefaults fills in what is zero.
func (l LayerLimits) WithDefaults() LayerLimits {
	l.Uncompressed = cmp.Or(l.Uncompressed, 20<<30)
	l.Ratio = cmp.Or(l.Ratio, 100)
	l.RatioFrom = cmp.Or(l.RatioFrom, 3<<30)
	l.Entries = cmp.Or(l.Entries, 1_000_000)
	l.Path = cmp.Or(l.Path, 4096)
	l.Depth = cmp.Or(l.Depth, 255)
	l.Names = cmp.Or(l.Names, 256<<20)
	return l
}
