package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// Bounds of an export that is read, in files and bytes, and of what is told to be wrong with it.
const (
	maxExportFiles = 20_000
	maxExportFile  = 512 << 20
	maxProblems    = 100
)

// exported is what was read of an archive: hashes of all, bytes of what is checked further.
type exported struct {
	files   map[string]ledger.ExportedFile
	content map[string][]byte
	entries map[int64]ledger.Entry // that are proven
}

// verifyExport checks an archive. Everything in it is the archive's word until its listing is found signed; what is signed by
// itself is checked as well, so that who holds the ledger's key alone cannot change that.
func verifyExport(file, keyFile, ledgerKeyFile string) (v verification, err error) {
	x := &exported{files: map[string]ledger.ExportedFile{}, content: map[string][]byte{}, entries: map[int64]ledger.Entry{}}
	if err := eachFile(file, x.read); err != nil {
		return v, err
	}
	var summary server.ExportSummary
	if err := json.Unmarshal(x.content["export.json"], &summary); err != nil {
		return v, fmt.Errorf("%s is not what `waybill export` writes: export.json: %w", file, err)
	}
	keys, from, err := trustedKeys(summary.Keys, keyFile, ledgerKeyFile)
	if err != nil {
		return v, err
	}
	v = verification{Reference: file, OK: true, KeysFrom: strings.Replace(from, "the server says", "the archive says", 1)}
	add := func(name, detail string, err error) {
		if err != nil {
			v.OK, detail = false, err.Error()
		}
		v.Checks = append(v.Checks, check{Name: name, OK: err == nil, Detail: detail})
	}
	all := func(name, detail string, wrong []error) {
		if len(wrong) == 0 {
			add(name, detail, nil)
		}
		for i, err := range wrong {
			if i == maxProblems {
				err = fmt.Errorf("and %d more", len(wrong)-i)
			}
			if add(name, "", err); i == maxProblems {
				return
			}
		}
	}
	public := strings.TrimSpace(keys.LedgerVerifier)
	all("listing", fmt.Sprintf("signed; what it lists is there, and nothing else: %s", artifact.Count(len(x.files), "file")), x.checkListing(public))
	root, rootless := ledger.OpenCheckpoint(string(x.content["checkpoint"]), public)
	add("checkpoint", fmt.Sprintf("of %s, signed by %s", artifact.Count(root.Size, "entry"), root.Origin), rootless)
	n, err := x.checkEntries(root, summary)
	add("ledger", fmt.Sprintf("in the tree of the checkpoint: %s", artifact.Count(n, "entry")), err)
	moved, wrong := x.checkPromotions()
	all("promotions", fmt.Sprintf("%d are as the ledger's entries say", moved), wrong)
	images, signed, wrong := x.checkDigests(summary, keys, root, rootless)
	all("manifests", fmt.Sprintf("%d hash to their digests; %d have a signature of the key", images, signed), wrong)
	a, err := newAttestationCheck(x, summary, keys)
	if err == nil {
		err = eachFile(file, a.file)
	}
	if err != nil {
		return v, err
	}
	all("attestations", fmt.Sprintf("%d are signed by the key, of the digests that they lie with; %d are others', whose signatures are theirs to check", a.own, a.others), a.finish())
	return v, nil
}

// eachFile calls f with each file of an archive, in bounds.
func eachFile(file string, f func(name string, size int64, r io.Reader) error) error {
	opened, err := os.Open(file)
	if err != nil {
		return usageError{err}
	}
	defer opened.Close()
	if err := eachFileOf(opened, f); err != nil {
		return fmt.Errorf("%s is not what `waybill export` writes: %w", file, err)
	}
	return nil
}

func eachFileOf(r io.Reader, f func(name string, size int64, r io.Reader) error) error {
	zipped, err := gzip.NewReader(bufio.NewReader(io.LimitReader(r, maxExport)))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for archive, left := tar.NewReader(zipped), int64(maxExport); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			// To the end, whose checksum gzip compares.
			_, err := io.Copy(io.Discard, io.LimitReader(zipped, 1<<20))
			return err
		}
		if err != nil {
			return err
		}
		if left -= h.Size; h.Typeflag != tar.TypeReg || h.Size > maxExportFile || left < 0 || len(seen) >= maxExportFiles {
			return fmt.Errorf("%.200q: no file, or more than is read", h.Name)
		}
		if seen[h.Name] {
			return fmt.Errorf("%.200q is there twice", h.Name)
		}
		seen[h.Name] = true
		if err := f(h.Name, h.Size, archive); err != nil {
			return err
		}
	}
}

// kept are the files of a digest's folder that are read whole; envelopes are read one by one (attestationCheck).
var kept = []string{"manifest", "signatures.json", "signed.json", "attestations.json"}

func (x *exported) read(name string, _ int64, r io.Reader) error {
	sum := sha256.New()
	into := io.Writer(sum)
	var whole bytes.Buffer
	base := name[strings.LastIndexByte(name, '/')+1:]
	if name == base && name != "pulls.json" || slices.Contains(kept, base) {
		into = io.MultiWriter(sum, &whole)
	}
	n, err := io.Copy(into, r)
	f := ledger.ExportedFile{Path: name, Size: n}
	sum.Sum(f.SHA256[:0])
	x.files[name], x.content[name] = f, whole.Bytes()
	return err
}

// checkListing asks for the listing to be signed and to name every file, as it is, and no other.
func (x *exported) checkListing(public string) (wrong []error) {
	listing, ok := x.files["listing"]
	if !ok {
		return []error{errors.New("the archive has no listing: it is cut off, or is none of `waybill export`")}
	}
	delete(x.files, "listing")
	defer func() { x.files["listing"] = listing }()
	listed, err := ledger.OpenListing(string(x.content["listing"]), public)
	if err != nil {
		return []error{err}
	}
	named := map[string]bool{}
	for _, want := range listed {
		got, ok := x.files[want.Path]
		switch {
		case !ok:
			wrong = append(wrong, fmt.Errorf("%s is missing: it was removed", want.Path))
		case got != want:
			wrong = append(wrong, fmt.Errorf("%s was changed after it was signed", want.Path))
		}
		named[want.Path] = true
	}
	for _, path := range sortedNames(x.files) {
		if !named[path] {
			wrong = append(wrong, fmt.Errorf("%s was added after the listing was signed", path))
		}
	}
	return wrong
}

func (x *exported) checkEntries(root ledger.Checkpoint, summary server.ExportSummary) (n int, err error) {
	for lines := json.NewDecoder(bytes.NewReader(x.content["entries.jsonl"])); lines.More(); n++ {
		var p server.InclusionProof
		if err := lines.Decode(&p); err != nil {
			return n, fmt.Errorf("entries.jsonl: %w", err)
		}
		e, err := ledger.Parse(p.Leaf)
		if err != nil {
			return n, fmt.Errorf("entry %d: %w", p.Index, err)
		}
		if err := checkInclusion(p, root); err != nil {
			return n, err
		}
		x.entries[p.Index] = e
	}
	if n != summary.Entries {
		return n, fmt.Errorf("there are %d entries, and export.json says %d", n, summary.Entries)
	}
	return n, nil
}

// checkPromotions asks for each to be what the entry says that it names.
func (x *exported) checkPromotions() (n int, wrong []error) {
	var all []artifact.Promotion
	if err := json.Unmarshal(x.content["promotions.json"], &all); err != nil {
		return 0, []error{fmt.Errorf("promotions.json: %w", err)}
	}
	for _, p := range all {
		e, ok := x.entries[p.LedgerIndex]
		if !ok {
			wrong = append(wrong, fmt.Errorf("promotions.json: promotion %d names entry %d of the ledger, which is not proven here", p.ID, p.LedgerIndex))
		} else if err := ledger.CheckPromotion(p, e); err != nil {
			wrong = append(wrong, fmt.Errorf("promotions.json: %w", err))
		}
	}
	return len(all), wrong
}

// checkDigests asks for each manifest to be that of its digest, and for signatures, where there are some, to hold.
func (x *exported) checkDigests(summary server.ExportSummary, keys server.PublicKeys, root ledger.Checkpoint, rootless error) (images, signed int, wrong []error) {
	for _, d := range summary.Digests {
		if d.Removed {
			continue
		}
		if err := checkManifest(x.content[d.Folder+"/manifest"], d.Digest); err != nil {
			wrong = append(wrong, fmt.Errorf("%s/manifest: %s@%s: %w", d.Folder, d.Repository, d.Digest, err))
		} else {
			images++
		}
		has, err := x.checkSignatures(d, keys, root, rootless)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s/signatures.json: %s@%s: %w", d.Folder, d.Repository, d.Digest, err))
		} else if has {
			signed++
		}
	}
	return images, signed, wrong
}

func (x *exported) checkSignatures(d server.ExportedReference, keys server.PublicKeys, root ledger.Checkpoint, rootless error) (has bool, err error) {
	var all []server.BundleSignature
	if err := json.Unmarshal(x.content[d.Folder+"/signatures.json"], &all); err != nil || len(all) == 0 {
		return false, err
	}
	var proofs []server.InclusionProof
	if content, ok := x.content[d.Folder+"/signed.json"]; ok {
		if err := json.Unmarshal(content, &proofs); err != nil {
			return false, fmt.Errorf("signed.json: %w", err)
		}
	}
	_, err = checkSignatures(all, d.Repository, d.Digest, keys, signedBefore(proofs, root, rootless))
	return true, err
}
