package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// Bounds of an export that is read, in files and bytes: it comes from anybody.
const (
	maxExportFiles = 20_000
	maxExportFile  = 512 << 20
	maxExport      = 8 << 30
)

func newExport() *cobra.Command {
	var from, to, file string
	cmd := &cobra.Command{
		Use:   "export [REF] -o FILE",
		Short: "Write everything about a digest or a period as one signed archive",
		Long: `Write everything about a digest (REPO:TAG or REPO@DIGEST), or about a period, as one archive for auditors: manifests,
verdicts, scans, signatures and attestations, promotions, pulls, documents in force, and the ledger's entries with proofs to
a signed checkpoint. Its last file lists the others with their hashes and is signed by the ledger's key. "waybill verify
--export FILE" checks all of it without a server. For a token of role auditor or admin.`,
		Example: "  waybill export shop/returns:v456 -o returns.tar.gz\n  waybill export --from 2026-10-01 --to 2026-10-31 -o october.tar.gz\n" +
			"  waybill verify --export october.tar.gz --ledger-key ledger.pub --key waybill.pub",
		Args: upTo(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "the first `day` (UTC), 2026-10-01, or an instant, 2026-10-01T12:00Z")
	cmd.Flags().StringVar(&to, "to", "", "the last `day` (UTC), which is in it, or the instant at which it ends")
	cmd.Flags().StringVarP(&file, "output", "o", "", "the `file` to write")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if (len(args) == 1) == (from != "" || to != "") || (from == "") != (to == "") {
			return usagef("an export is of a digest or of a period: name REF, or --from and --to")
		}
		if file == "" {
			return usagef("name the file to write with --output")
		}
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		query := url.Values{"from": {from}, "to": {to}}
		if len(args) == 1 {
			if _, err := artifact.ParseShortReference(args[0]); err != nil {
				return usageError{err}
			}
			query = url.Values{"ref": {args[0]}}
		}
		n, err := c.download(ctx, "/export", query, file)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "wrote %s (%s); check it with `waybill verify --export %s`\n", file, bytesOf(n), file)
		return nil
	})
	return cmd
}

// download writes an answer to a file that appears when it is whole.
func (c *client) download(ctx context.Context, path string, query url.Values, file string) (n int64, err error) {
	res, err := c.send(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	f, err := os.CreateTemp(filepath.Dir(file), ".waybill-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	n, err = io.Copy(f, io.LimitReader(res.Body, maxExport))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, fmt.Errorf("the answer of %s broke off, and %s was not written: %w", c.base, file, err)
	}
	return n, os.Rename(f.Name(), file)
}

// exported is what was read of an archive: hashes of all, bytes of what is checked further.
type exported struct {
	files   map[string]ledger.ExportedFile
	content map[string][]byte
}

// verifyExport checks an archive. Everything in it is the archive's word until its listing is found signed.
func verifyExport(file, keyFile, ledgerKeyFile string) (v verification, err error) {
	f, err := os.Open(file)
	if err != nil {
		return v, usageError{err}
	}
	defer f.Close()
	x, err := readExport(f)
	if err != nil {
		return v, fmt.Errorf("%s is not what `waybill export` writes: %w", file, err)
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
	public := strings.TrimSpace(keys.LedgerVerifier)
	add("listing", fmt.Sprintf("signed; all %d files are as it says, and there are no others", len(x.files)), x.checkListing(public))
	root, rootless := ledger.OpenCheckpoint(string(x.content["checkpoint"]), public)
	add("checkpoint", fmt.Sprintf("of %d entries, signed by %s", root.Size, root.Origin), rootless)
	n, err := x.checkEntries(root, summary)
	add("ledger", fmt.Sprintf("%d entries are in the tree of the checkpoint", n), err)
	images, signed, err := x.checkDigests(summary, keys, root, rootless)
	add("manifests", fmt.Sprintf("%d hash to their digests; %d have a signature of the key", images, signed), err)
	return v, nil
}

func readExport(r io.Reader) (*exported, error) {
	zipped, err := gzip.NewReader(bufio.NewReader(io.LimitReader(r, maxExport)))
	if err != nil {
		return nil, err
	}
	x := &exported{files: map[string]ledger.ExportedFile{}, content: map[string][]byte{}}
	for archive, left := tar.NewReader(zipped), int64(maxExport); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			// To the end, whose checksum gzip compares.
			_, err := io.Copy(io.Discard, io.LimitReader(zipped, 1<<20))
			return x, err
		}
		if err != nil {
			return nil, err
		}
		if left -= h.Size; h.Typeflag != tar.TypeReg || h.Size > maxExportFile || left < 0 || len(x.files) >= maxExportFiles {
			return nil, fmt.Errorf("%.200q: no file, or more than is read", h.Name)
		}
		if _, twice := x.files[h.Name]; twice {
			return nil, fmt.Errorf("%.200q is there twice", h.Name)
		}
		if err := x.read(h.Name, archive); err != nil {
			return nil, err
		}
	}
}

func (x *exported) read(name string, r io.Reader) error {
	sum := sha256.New()
	into := io.Writer(sum)
	var kept bytes.Buffer
	base := name[strings.LastIndexByte(name, '/')+1:]
	if name == base && name != "pulls.json" || base == "manifest" || base == "signatures.json" || base == "signed.json" {
		into = io.MultiWriter(sum, &kept)
	}
	n, err := io.Copy(into, r)
	f := ledger.ExportedFile{Path: name, Size: n}
	sum.Sum(f.SHA256[:0])
	x.files[name], x.content[name] = f, kept.Bytes()
	return err
}

// checkListing asks for the listing to be signed and to name every file, as it is, and no other.
func (x *exported) checkListing(public string) error {
	listing, ok := x.files["listing"]
	if !ok {
		return errors.New("the archive has no listing: it is cut off, or is none of `waybill export`")
	}
	delete(x.files, "listing")
	defer func() { x.files["listing"] = listing }()
	listed, err := ledger.OpenListing(string(x.content["listing"]), public)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, want := range listed {
		got, ok := x.files[want.Path]
		switch {
		case !ok:
			return fmt.Errorf("%s is missing: it was removed", want.Path)
		case got != want:
			return fmt.Errorf("%s was changed after it was signed", want.Path)
		}
		named[want.Path] = true
	}
	for path := range x.files {
		if !named[path] {
			return fmt.Errorf("%s was added after the listing was signed", path)
		}
	}
	return nil
}

func (x *exported) checkEntries(root ledger.Checkpoint, summary server.ExportSummary) (n int, err error) {
	for lines := json.NewDecoder(bytes.NewReader(x.content["entries.jsonl"])); lines.More(); n++ {
		var p server.InclusionProof
		if err := lines.Decode(&p); err != nil {
			return n, fmt.Errorf("entries.jsonl: %w", err)
		}
		if _, err := ledger.Parse(p.Leaf); err != nil {
			return n, fmt.Errorf("entry %d: %w", p.Index, err)
		}
		if err := checkInclusion(p, root); err != nil {
			return n, err
		}
	}
	if n != summary.Entries {
		return n, fmt.Errorf("there are %d entries, and export.json says %d", n, summary.Entries)
	}
	return n, nil
}

// checkDigests asks for each manifest to be that of its digest, and for signatures, where there are some, to hold.
func (x *exported) checkDigests(summary server.ExportSummary, keys server.PublicKeys, root ledger.Checkpoint, rootless error) (images, signed int, err error) {
	for _, d := range summary.Digests {
		if d.Removed {
			continue
		}
		if err := checkManifest(x.content[d.Folder+"/manifest"], d.Digest); err != nil {
			return images, signed, fmt.Errorf("%s@%s: %w", d.Repository, d.Digest, err)
		}
		images++
		var all []server.BundleSignature
		if err := json.Unmarshal(x.content[d.Folder+"/signatures.json"], &all); err != nil {
			return images, signed, fmt.Errorf("%s: signatures.json: %w", d.Folder, err)
		}
		if len(all) == 0 {
			continue
		}
		var proofs []server.InclusionProof
		if content, ok := x.content[d.Folder+"/signed.json"]; ok {
			if err := json.Unmarshal(content, &proofs); err != nil {
				return images, signed, fmt.Errorf("%s: signed.json: %w", d.Folder, err)
			}
		}
		if _, err := checkSignatures(all, d.Repository, d.Digest, keys, signedBefore(proofs, root, rootless)); err != nil {
			return images, signed, fmt.Errorf("%s@%s: %w", d.Repository, d.Digest, err)
		}
		signed++
	}
	return images, signed, nil
}
