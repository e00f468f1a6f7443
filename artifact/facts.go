package artifact

// FactsFormat is the version of LayerFacts' meaning; facts of an older format are computed anew.
const FactsFormat = 2

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
}

// LayerSummary is a layer's share. Bytes are of regular files unless said otherwise.
type LayerSummary struct {
	Digest       Digest `json:"digest"`
	DiffID       Digest `json:"diffID"`
	Compressed   int64  `json:"compressed"`   // bytes of the blob
	Uncompressed int64  `json:"uncompressed"` // bytes of the tar
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
