package ledger

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// exportHeading begins a listing. No log's origin is like it, so that a signature of a listing is none of a checkpoint.
const exportHeading = "waybill-export/v1"

// ExportedFile is a file of an export, which its signature covers.
type ExportedFile struct {
	Path   string
	Size   int64
	SHA256 [32]byte
}

// SignListing returns the signed note (C2SP signed-note) of an export's files: heading, origin, and a line for each file
// with its SHA-256, its size and its path, sorted by path.
func (s *Signer) SignListing(files []ExportedFile) (string, error) {
	sorted := slices.SortedFunc(slices.Values(files), func(x, y ExportedFile) int { return cmp.Compare(x.Path, y.Path) })
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", exportHeading, s.Origin())
	for _, f := range sorted {
		if f.Path == "" || strings.ContainsAny(f.Path, "\n\r") {
			return "", fmt.Errorf("%q is no path of an export", f.Path)
		}
		fmt.Fprintf(&b, "%x %d %s\n", f.SHA256, f.Size, f.Path)
	}
	signed, err := note.Sign(&note.Note{Text: b.String()}, s.signer)
	return string(signed), err
}

// OpenListing checks a listing's signature with a verifier key and returns its files.
func OpenListing(signed, public string) ([]ExportedFile, error) {
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("ledger public key: %w", err)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(n.Text, "\n"), "\n")
	if len(lines) < 2 || lines[0] != exportHeading || lines[1] != verifier.Name() {
		return nil, errors.New("listing: it is signed, and it is no listing of an export of this ledger")
	}
	files := make([]ExportedFile, 0, len(lines)-2)
	for _, line := range lines[2:] {
		parts := strings.SplitN(line, " ", 3)
		var f ExportedFile
		if len(parts) != 3 || len(parts[0]) != 2*len(f.SHA256) {
			return nil, fmt.Errorf("listing: %.200q is not of its form", line)
		}
		if _, err := hex.Decode(f.SHA256[:], []byte(parts[0])); err != nil {
			return nil, fmt.Errorf("listing: %w", err)
		}
		if f.Size, err = strconv.ParseInt(parts[1], 10, 64); err != nil || f.Size < 0 {
			return nil, fmt.Errorf("listing: %.200q is not of its form", line)
		}
		f.Path = parts[2]
		files = append(files, f)
	}
	return files, nil
}
